"""Chinese-CLIP's original files (OFA-Sys/Chinese-CLIP): a .pt with a state_dict and nothing else.

It has OpenAI's image tower, a ViT or a ModifiedResNet, and a BERT. What `CLIP` and `create_model`
of cn_clip/clip fix for every model is noted as assumed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from patchword.checkpoints import bert
from patchword.checkpoints.config_reader import ConfigReader, scale_limit, shape_of
from patchword.checkpoints.formats import openai
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Rename, Rule, Transpose
from patchword.config import ModelConfig, PreprocessConfig, ResNetConfig, TextConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "an original Chinese-CLIP"
EXPECTS = "a .pt file with tensors visual.*, bert.* and text_projection"
NAMES = ("visual.conv1.weight", "text_projection", "bert.embeddings.word_embeddings.weight")

CODE = "as every model of OFA-Sys/Chinese-CLIP"
TEXT = "bert."
HEAD_WIDTH = 64
HEAD_WIDTHS = {1280: 80}  # of the image tower by its width (model_configs/ViT-H-14.json)


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """OpenAI's image tower beside a BERT."""
    return {"visual.conv1.weight", "text_projection", f"{TEXT}{bert.WORD_EMBEDDINGS}"} <= set(keys)


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """The config, from the shapes of the tensors alone."""
    reader = ConfigReader("the file", {})
    vision = _vision(reader, tensors)
    size = vision.image_size
    reader.assume("preprocess", "bicubic, squashed, CLIP's mean and std", "cn_clip/clip/utils.py")
    return ModelConfig(
        vision=vision,
        text=_text(reader, tensors),
        preprocess=PreprocessConfig(
            size=size, resize="squash", resize_to=min(size), crop_rounding="round"
        ),
        embed_dim=shape_of(tensors, "text_projection", 2)[1],
        scale_limit=scale_limit(tensors),
        source="chinese_clip",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """cn_clip's CLIP -> patchword."""
    assert config.text is not None
    yield Rename("logit_scale", "logit_scale")
    yield Transpose("text_projection", "text.head.weight")
    yield from openai.image_rules(config)
    yield from bert.plain_tower(TEXT, config.text.depth)


def _vision(reader: ConfigReader, tensors: Mapping[str, LazyTensor]) -> ViTConfig | ResNetConfig:
    if any(key.startswith("visual.layer1.") for key in tensors):
        return openai.resnet(reader, tensors, HEAD_WIDTH)
    vision = openai.vit(tensors)
    head = HEAD_WIDTHS.get(vision.width, HEAD_WIDTH)
    reader.assume("vision.activation", vision.activation, CODE)
    reader.assume("vision.heads", vision.width // head, f"{CODE}, width / {head}")
    reader.assume("vision.eps", vision.eps, CODE)
    return replace(vision, heads=vision.width // head)


def _text(reader: ConfigReader, tensors: Mapping[str, LazyTensor]) -> TextConfig:
    words = f"{TEXT}{bert.WORD_EMBEDDINGS}"
    width = shape_of(tensors, words, 2)[1]
    if width % HEAD_WIDTH:
        raise CheckpointError(f"{words} has width {width}, not a multiple of 64 a head")
    why = f"{CODE}, width / {HEAD_WIDTH}"
    text = bert.text_config(reader, tensors, TEXT, width // HEAD_WIDTH, why)
    reader.assume("text.activation", text.activation, CODE)
    reader.assume("text.eps", text.eps, CODE)
    reader.assume("text.pad_token", 0, "[PAD], the first line of its vocab.txt")
    return replace(text, head_bias=False, pad_token=0, end_token=bert.NO_TOKEN)
