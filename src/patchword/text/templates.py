"""Prompt templates: sentences that turn a label into a caption."""

from __future__ import annotations

from collections.abc import Sequence

from patchword.errors import UnsupportedError

PLAIN = ("a photo of a {}",)

# For models that read Chinese. Measure words differ from noun to noun, so most of these have none.
CHINESE = (
    "{}的照片",
    "一张{}的照片",
    "一张有{}的照片",
    "一张{}的清晰照片",
    "一张{}的特写照片",
    "一张{}的黑白照片",
    "一张{}的模糊照片",
    "一张昏暗的{}的照片",
    "一张明亮的{}的照片",
    "很大的{}的照片",
    "很小的{}的照片",
    "许多{}的照片",
    "{}的图片",
    "{}的画",
    "{}的素描",
    "{}的卡通画",
    "照片里有{}",
)

# The 80 that CLIP's zero-shot ImageNet numbers are made with (Radford et al. 2021, section 3.1.4;
# openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb).
IMAGENET = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

NAMED = {"plain": PLAIN, "imagenet": IMAGENET, "chinese": CHINESE}


def resolve_templates(templates: str | Sequence[str] | None) -> tuple[str, ...]:
    """Templates from the names of sets ("plain", "imagenet", "chinese") and from sentences; None:
    "plain". Raises UnsupportedError for a sentence without {}."""
    if isinstance(templates, str):
        templates = [templates]
    sentences: list[str] = []
    for template in templates or ["plain"]:
        sentences += NAMED.get(template, (template,))
    for sentence in sentences:
        if "{}" not in sentence:
            raise UnsupportedError(f"template {sentence!r} has no {{}} where the label goes")
    return tuple(sentences)


def filled(template: str, label: str) -> str:
    """A template with the label instead of every "{}"; other braces stay. The spaces that an empty
    label leaves are removed."""
    return " ".join(template.replace("{}", label).split())
