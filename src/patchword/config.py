"""What a model is, as data: frozen dataclasses that any room may read. No torch here."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from patchword.errors import ConfigError

T = typing.TypeVar("T")
Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
Positions = Literal[
    "learned",
    "patches",
    "flexible",
    "sincos",
    "rope",
    "pyramid",
    "relative",
    "relative_shifted",
]
Cleaning = Literal[
    "none", "ftfy", "whitespace", "lower", "canonicalize", "lowercase", "unpunctuated"
]


@dataclass(frozen=True)
class VisionConfig:
    """One image tower: a ViT, a Swin, a ModifiedResNet, or a hybrid (`stages` and `depth`)."""

    kind: Literal["vit", "swin", "resnet", "none"] = "vit"  # "none": a text tower alone
    image_size: tuple[int, int] = (224, 224)  # (H, W) in pixels
    patch_size: int = 16  # pixels a side; for a ResNet its total stride, 32
    width: int = 768  # a Swin's and a ResNet's is that of the first stage: 96 in Swin-T, 64 in RN50
    depth: int = 12  # Transformer blocks; 0 in a ResNet or Swin
    heads: int = 12  # a Swin's of its first stage; width, heads and mlp_width double at each next
    mlp_width: int = 3072
    activation: Activation = "gelu"
    eps: float = 1e-6  # LayerNorm
    # "cls" class token, norm; "avg" mean of patches, norm; "norm_avg" norm, mean; "map" norm, one
    # learned query attends (SigLIP); "distilled" class and distillation token, norm, a head each
    # (DeiT); "attention" a CLIP ResNet's
    pool: Literal["cls", "avg", "norm_avg", "map", "distilled", "attention"] = "cls"
    class_token: bool = True
    registers: int = 0  # extra learned tokens after the class token (Darcet et al. 2024)
    pre_norm: bool = False  # CLIP's ln_pre, before the first block
    patch_bias: bool = True
    stages: tuple[int, ...] = ()  # blocks a stage of a ResNet or Swin; in a ViT, of its stem
    stem_width: int = 0  # channels of the first stage of a hybrid's stem
    layer_scale: bool = False  # a learned factor a channel after attention and MLP
    qk_norm: bool = False  # LayerNorm of queries and keys, head by head
    # "learned" for all tokens; "patches": for patches only; "flexible": for patches, a square grid
    # resampled bilinearly to each image's own; "sincos", "rope", "pyramid": see nn/positions.py;
    # "relative", "relative_shifted": a Swin's biases, see models/swin.py
    positions: Positions = "learned"
    window: int = 0  # patches a side of a Swin's attention windows

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (rows, columns) at the configured image size."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class token, distillation token, registers."""
        return int(self.class_token) + int(self.pool == "distilled") + self.registers


@dataclass(frozen=True)
class TextConfig:
    """One text tower: a Transformer, causal or not, and how its output becomes one vector."""

    vocab_size: int = 49408
    context: int = 77  # positions, start and end token included
    width: int = 512
    depth: int = 12
    heads: int = 8
    mlp_width: int = 2048
    activation: Activation = "gelu"
    eps: float = 1e-5  # LayerNorm
    causal: bool = True
    post_norm: bool = False  # as BERT: norms after each residual and the embedding, none at the end
    pool: Literal["end", "first", "last"] = "end"  # at the first end token, or by position
    head_bias: bool = False
    # -1: none is looked for, and padding that is attended to stands in its place (CLIPA)
    end_token: int = 49407
    pad_token: int = 0
    # Without a causal mask, padding is "masked", or "attended" (SigLIP): then texts are always
    # padded to the context.
    padding: Literal["masked", "attended"] = "masked"
    cleaning: Cleaning = "none"  # of a text before the tokenizer; see tokenizers.py
    cross_width: int = 0  # width of the image tokens that cross-attention reads; 0: it has none
    start_token: int = -1  # put first in a text that looks at an image (BLIP); -1: as tokenized


@dataclass(frozen=True)
class MaskedConfig:
    """The decoder of a masked autoencoder (He et al. 2022, section 3)."""

    width: int = 512
    depth: int = 8
    heads: int = 16
    mlp_width: int = 2048
    mask_ratio: float = 0.75  # share of the patches that the encoder does not see
    norm_pixels: bool = False  # targets normalised patch by patch


@dataclass(frozen=True)
class PreprocessConfig:
    """From RGB uint8 (H, W, 3) to normalised float (3, S, S)."""

    size: tuple[int, int] = (224, 224)  # (H, W) that the network sees
    # "shortest" side to `resize_to`, or all of it to a "square" of that side (DeiT), then centre
    # crop; "squash" to the size; "patches": its own shape, in whole patches, at most
    # `max_patches` of them (NaFlex)
    resize: Literal["shortest", "square", "squash", "patches"] = "shortest"
    resize_to: int = 224  # pixels, before the crop; unused otherwise
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    crop_rounding: Literal["floor", "round"] = "floor"  # of half an odd margin: floor as
    # transformers' processors, round (half to even) as torchvision's transforms
    rescale: float = 1 / 255
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    max_patches: int = 0  # with resize "patches"
    patch_size: int = 16  # the same


@dataclass(frozen=True)
class ModelConfig:
    """A whole model: an image tower, a text tower, or both, and what is built on them.

    `assumed` names each value that no file of the checkpoint states, and where the default that
    stands in for it comes from; `read_from` the files that state the others, which is no part of
    what a model is. `patchword info` prints both.
    """

    vision: VisionConfig
    preprocess: PreprocessConfig = PreprocessConfig()
    text: TextConfig | None = None
    decoder: TextConfig | None = None  # writes text about an image (BLIP)
    shared: bool = False  # decoder and text tower are one but for their self-attention
    answers: bool = False  # a decoder that describes images answers questions too
    # what texts see of an image: all tokens, as in BLIP, or the patches without the class token, in
    # which all that is said may be read without looking anywhere
    sight: Literal["tokens", "patches"] = "tokens"
    matching: bool = False  # a head says whether image and text belong together (BLIP)
    masked: MaskedConfig | None = None  # a masked autoencoder's decoder
    embed_dim: int = 0  # of the joint space; 0 without one
    classes: int = 0  # outputs of a classification head; 0 without one
    labels: tuple[str, ...] = ()  # their names, where the checkpoint states them
    score: Literal["softmax", "sigmoid"] = "softmax"  # "sigmoid": a learned bias too (SigLIP)
    scale_limit: float = 100.0  # the temperature is held at or below this (Radford et al., 2.5)
    source: str = "patchword"  # the format the checkpoint was read from
    assumed: Mapping[str, str] = field(default_factory=dict)
    read_from: tuple[str, ...] = field(default=(), compare=False)  # its files, weights first

    @property
    def language(self) -> TextConfig | None:
        """What reads or writes text, and so says how it is tokenized."""
        return self.text or self.decoder

    @property
    def asks(self) -> bool:
        """Whether the decoder answers a question that the text tower has read with an image in
        sight (Li et al. 2022, figure 5)."""
        reads = self.decoder is not None and self.text is not None
        return reads and (not self.shared or self.answers)

    @property
    def grounded(self) -> bool:
        """Whether texts look at images: a BLIP."""
        looks = self.text is not None and self.text.cross_width > 0
        return self.decoder is not None or looks

    @property
    def describes(self) -> bool:
        """Whether the decoder looks at an image by itself."""
        alone = self.text is None or self.shared or self.answers
        return self.decoder is not None and alone

    @property
    def feature_dim(self) -> int:
        """D of the features that images and texts become."""
        if self.embed_dim:
            return self.embed_dim
        if self.vision.kind == "none" and self.text is not None:
            return self.text.width
        doublings = len(self.vision.stages) - 1 if self.vision.kind == "swin" else 0
        return self.vision.width << doublings


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
            f"{cls.__name__} has no field {', '.join(unknown)}{_meant(unknown[0], fields)}; it has "
            f"{', '.join(sorted(fields))}"
        )
    try:
        return cls(**{name: _typed(hints[name], value, name) for name, value in values.items()})
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}: {error}") from error


def _meant(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names, as a question."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (do you mean {near[0]}?)" if near else ""


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
