"""The error for a checkpoint of no known format: what it looks like, the nearest format, the first
difference from it, and what to do.

To find the nearest format, each format's `matches` is called again, with names without their
prefixes and with another config.json.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from patchword.checkpoints.json_files import json_object
from patchword.checkpoints.read import Checkpoint

CONFIGS = ("config.json", "open_clip_config.json")
TYPES = (
    "vit", "deit", "vit_mae", "swin", "blip", "clip", "clip_vision_model", "clip_text_model",
    "chinese_clip", "dinov2", "dinov2_with_registers", "siglip", "siglip2", "siglip_vision_model",
    "siglip_text_model", "metaclip_2", "metaclip_2_text_model", "metaclip_2_vision_model",
)  # fmt: skip
# Models of other kinds, and patterns of tensor names that all of them have. A pattern matches at
# the start of a name or after a dot.
OTHER_MODELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a YOLO of ultralytics, a detector", (r"\d+\.conv\.weight$", r"\d+\.cv1\.conv\.weight$")),
    ("a detector of torchvision", (r"backbone\.body\.", r"(rpn|roi_heads|head)\.")),
    ("a DETR, a detector", (r"class_labels_classifier\.|class_embed\.", r"bbox_")),
    ("a Segment Anything", (r"image_encoder\.|vision_encoder\.", r"mask_decoder\.")),
    ("a ResNet of torchvision or timm", (r"layer1\.0\.conv1\.weight", r"layer4\.0\.bn1\.")),
    ("a ConvNeXt of timm", (r"stages\.0\.blocks\.0\.conv_dw\.",)),
    ("a ConvNeXt of transformers", (r"encoder\.stages\.0\.layers\.0\.dwconv\.",)),
    ("an EfficientNet or MobileNet", (r"blocks\.0\.0\.(conv_dw|conv_pw|conv)\.",)),
    ("a BLIP-2 or InstructBLIP", (r"(qformer|Qformer)\.",)),
    ("a BEiT", (r"relative_position_bias_table$", r"cls_token$")),
    ("a Swin Transformer of version 2", (r"attn\.cpb_mlp\.|self\.continuous_position_bias_mlp\.",)),
    ("a UNet of a diffusion model", (r"down_blocks\.0\.", r"mid_block\.", r"up_blocks\.0\.")),
    ("a language model", (r"layers\.0\.self_attn\.q_proj\.", r"embed_tokens\.weight")),
    ("a BERT, texts alone", (r"embeddings\.word_embeddings\.weight", r"encoder\.layer\.0\.")),
)  # fmt: skip
DINOV2 = {"mask_token", "pos_embed", "blocks.0.ls1.gamma"}  # in the files of its authors
MAX_PREFIXES = 64  # that are tried
ANOTHER_MODEL = (
    "What to do: take another model; patchword computes ViT, Swin, MAE, CLIP, SigLIP and BLIP, and "
    "`patchword models` lists public ones."
)


@dataclass(frozen=True)
class Guess:
    """A format that would match the tensors after one or two changes.

    prefix: to remove from the names. model_type: that config.json should have; None for no change.
    share: of the format's usual names that exist, 0 to 1. count: of tensors with the prefix.
    """

    form: ModuleType
    prefix: str
    model_type: str | None
    share: float
    count: int

    @property
    def changes(self) -> int:
        """The number of changes."""
        return [self.prefix != "", self.model_type is not None].count(True)

    @property
    def order(self) -> tuple[int, float, int]:
        """Sorts few changes first, then many of the usual names, then many tensors."""
        return self.changes, -self.share, -self.count


def report(opened: Checkpoint, formats: Sequence[ModuleType]) -> str:
    """The error for a checkpoint that none of the formats matches, in at most eight lines."""
    names = sorted(opened.tensors)
    content = [f"tensors {', '.join(names[:3])} ... ({len(names)} in all)", *_configs(opened)]
    lines = [f"{opened.weights} is no format that patchword reads.", f"Found {'; '.join(content)}."]
    model_type, other = _model_type(opened), _other_model(names)
    guess = min(_guesses(names, opened.files, formats), key=lambda g: g.order, default=None)
    likely = guess is not None and guess.changes == 1 and guess.share >= 0.5
    if set(names) >= DINOV2:
        lines += [
            "It looks like DINOv2 in a file of its authors.",
            "What to do: load the same weights from the hub, as facebook/dinov2-base or another of "
            "`patchword models dinov2`.",
        ]
    elif other and not likely:
        lines += [f"It looks like {other}.", ANOTHER_MODEL]
    elif model_type is not None and model_type not in TYPES:
        form = guess.form if guess else _closest(names, formats)
        difference = f"First difference: config.json says model_type {model_type!r}."
        lines += [_nearest(form), difference, ANOTHER_MODEL]
    elif guess:
        lines += _by_guess(guess, opened)
    else:
        lines += _by_names(names, formats)
    return "\n  ".join(lines)


def _guesses(
    names: Collection[str], files: Mapping[str, Any], formats: Sequence[ModuleType]
) -> Iterator[Guess]:
    """The formats that would match with other names or another config.json."""
    for prefix in ("", *_prefixes(names)):
        bare = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        configs: list[tuple[str | None, Mapping[str, Any]]]
        configs = [(kind, {"config.json": {"model_type": kind}}) for kind in TYPES]
        if prefix:
            configs += [(None, files), (None, {**files, "open_clip_config.json": {}})]
        for model_type, config in configs:
            for form in formats:
                if form.matches(bare, config):
                    yield Guess(form, prefix, model_type, _share(form, bare), len(bare))


def _prefixes(names: Collection[str]) -> list[str]:
    """Possible prefixes of the names of a model: the first part of a name, and the first two."""
    prefixes = set()
    for name in names:
        parts = name.split(".")
        for count in (1, 2):
            if len(parts) > count + 1:
                prefixes.add(".".join(parts[:count]) + ".")
    return sorted(prefixes, key=lambda prefix: (prefix.count("."), prefix))[:MAX_PREFIXES]


def _nearest(form: ModuleType) -> str:
    return f"Nearest: {form.TITLE} ({form.EXPECTS})."


def _by_guess(guess: Guess, opened: Checkpoint) -> Iterator[str]:
    """The nearest format, the first difference, and what to do."""
    yield _nearest(guess.form)
    if guess.prefix:
        rest = len(opened.tensors) - guess.count
        others = f"; tensors beside them: {rest}" if rest else ""
        yield f"First difference: {guess.count} names begin with {guess.prefix!r}{others}."
        code = (
            f"{{k.removeprefix({guess.prefix!r}): v for k, v in state.items() "
            f"if k.startswith({guess.prefix!r})}}"
        )
        yield f"What to do: save them without it, {code}"
        return
    stated, expected = _model_type(opened), guess.model_type
    if stated is None:
        yield f"First difference: there is no config.json that says model_type {expected!r}."
        yield "What to do: put the config.json of the model that it was trained from beside it."
    else:
        yield f"First difference: config.json says model_type {stated!r}, not {expected!r}."
        yield "What to do: put the config.json that belongs to these weights beside them."


def _by_names(names: Collection[str], formats: Sequence[ModuleType]) -> Iterator[str]:
    """The format with the most usual names, the first that is missing, and what to do."""
    form = _closest(names, formats)
    if not _share(form, names):
        yield "It looks like no model that patchword knows: none has such names."
        yield ANOTHER_MODEL
        return
    missing = next(name for name in form.NAMES if not _has(name, names))
    yield _nearest(form)
    yield f"First difference: it has no {missing}{'*' if missing.endswith('.') else ''}."
    yield "What to do: save the whole state dict of the model, under the names of its library."


def _closest(names: Collection[str], formats: Sequence[ModuleType]) -> ModuleType:
    """The format with the largest share of its usual names."""
    return max(formats, key=lambda form: _share(form, names))


def _share(form: ModuleType, names: Collection[str]) -> float:
    """The share of a format's usual names that exist: 0 to 1."""
    usual: tuple[str, ...] = form.NAMES
    return sum(_has(name, names) for name in usual) / max(len(usual), 1)


def _has(usual: str, names: Collection[str]) -> bool:
    """Whether a name exists; one that ends in a dot is a prefix."""
    if usual.endswith("."):
        return any(name.startswith(usual) for name in names)
    return usual in names


def _other_model(names: Collection[str]) -> str | None:
    """The kind of model in `OTHER_MODELS` that has such names; None if there is none."""
    for what, patterns in OTHER_MODELS:
        compiled = [re.compile(rf"(?:^|\.)(?:{pattern})") for pattern in patterns]
        if all(any(pattern.search(name) for name in names) for pattern in compiled):
            return what
    return None


def _model_type(opened: Checkpoint) -> str | None:
    """The model_type of config.json; None without one."""
    content = json_object(opened.files, "config.json")
    return str(content["model_type"]) if "model_type" in content else None


def _configs(opened: Checkpoint) -> Iterator[str]:
    """For each of the usual configuration files, the kind of model that it states, else its
    keys."""
    for name in CONFIGS:
        content = opened.files.get(name)
        if isinstance(content, dict):
            kinds = [f"{k} {content[k]!r}" for k in ("model_type", "architecture") if k in content]
            keys = f"keys {', '.join(list(content)[:5])}"
            yield f"{name} with {' and '.join(kinds) or keys}"
