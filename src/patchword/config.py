"""What a model is, as data: frozen dataclasses that any room may read. No torch here."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from patchword.errors import ConfigError

T = typing.TypeVar("T")
Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]


@dataclass(frozen=True)
class VisionConfig:
    """One image tower: a ViT, a ModifiedResNet, or a hybrid of both (`stages` and `depth`)."""

    kind: Literal["vit", "resnet"] = "vit"
    image_size: tuple[int, int] = (224, 224)  # (H, W) in pixels
    patch_size: int = 16  # pixels a side; for a ResNet its total stride, 32
    width: int = 768  # a ResNet's is that of its first stage, 64 in RN50
    depth: int = 12  # Transformer blocks; 0 in a ResNet
    heads: int = 12
    mlp_width: int = 3072
    activation: Activation = "gelu"
    eps: float = 1e-6  # LayerNorm
    pool: Literal["cls", "avg", "attention"] = "cls"
    class_token: bool = True
    pre_norm: bool = False  # CLIP's ln_pre, before the first block
    patch_bias: bool = True
    stages: tuple[int, ...] = ()  # bottlenecks per ResNet stage; in a ViT, a convolutional stem
    stem_width: int = 0  # channels of the first stage of a hybrid's stem

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (rows, columns) at the configured image size."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


@dataclass(frozen=True)
class TextConfig:
    """One text tower: a causal Transformer pooled at its end token (Radford et al. 2021, 2.4)."""

    vocab_size: int = 49408
    context: int = 77  # positions, start and end token included
    width: int = 512
    depth: int = 12
    heads: int = 8
    mlp_width: int = 2048
    activation: Activation = "gelu"
    eps: float = 1e-5  # LayerNorm
    causal: bool = True
    end_token: int = 49407  # pooled at its first occurrence
    pad_token: int = 0
    cleaning: Literal["none", "ftfy"] = "none"  # before the tokenizer; "ftfy" as open_clip does


@dataclass(frozen=True)
class PreprocessConfig:
    """From RGB uint8 (H, W, 3) to normalised float (3, S, S)."""

    size: tuple[int, int] = (224, 224)  # (H, W) that the network sees
    resize: Literal["shortest", "squash"] = "shortest"  # then centre crop, or none needed
    resize_to: int = 224  # the shortest side after resizing; unused when squashing
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    crop_rounding: Literal["floor", "round"] = "floor"  # of half an odd margin: floor as
    # transformers' processors, round (half to even) as torchvision's transforms
    rescale: float = 1 / 255
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ModelConfig:
    """A whole model: a two-tower model when `text` is set, else a classifier or bare tower.

    `assumed` names each value that no file of the checkpoint states, and where the default that
    stands in for it comes from; `patchword info` prints it.
    """

    vision: VisionConfig
    preprocess: PreprocessConfig = PreprocessConfig()
    text: TextConfig | None = None
    embed_dim: int = 0  # of the joint space; 0 without a text tower
    classes: int = 0  # outputs of a classification head; 0 without one
    labels: tuple[str, ...] = ()  # their names, where the checkpoint states them
    scale_limit: float = 100.0  # the temperature is held at or below this (Radford et al., 2.5)
    source: str = "patchword"  # the format the checkpoint was read from
    assumed: Mapping[str, str] = field(default_factory=dict)


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values; `from_dict` is its inverse."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build the dataclass `cls` from JSON values. Unknown keys and bad values raise ConfigError."""
    hints = typing.get_type_hints(cls)
    fields = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - fields)
    if unknown:
        raise ConfigError(
            f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(sorted(fields))}"
        )
    try:
        return cls(**{name: _typed(hints[name], value, name) for name, value in values.items()})
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}: {error}") from error


def _typed(hint: Any, value: Any, name: str) -> Any:
    """`value` as the annotation `hint` wants it; ConfigError when it cannot be."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (a for a in arguments if a is not type(None))
        return _typed(hint, value, name)
    if origin is Literal:
        if value not in arguments:
            choices = ", ".join(map(repr, arguments))
            raise ConfigError(f"{name} is {value!r}; it must be one of {choices}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(arguments) == len(value):
            return tuple(_typed(a, v, name) for a, v in zip(arguments, value, strict=True))
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value)  # type: ignore[arg-type]
    if origin is Mapping and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and value is True):
        return value
    raise ConfigError(f"{name} is {value!r}, which is not a {getattr(hint, '__name__', hint)}")
