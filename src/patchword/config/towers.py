"""Configurations of image towers, one dataclass for each kind, and of text towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from patchword.config.validation import Within, contradictions, settle

Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
Positions = Literal["learned", "patches", "flexible", "sincos", "rope", "pyramid"]
Cleaning = Literal[
    "none", "ftfy", "whitespace", "lower", "canonicalize", "lowercase", "unpunctuated"
]

# The numbers of all public models are far below these bounds. A number above is damaged, and would
# take minutes or all memory.
Side = Annotated[int, Within(1, 1 << 14)]  # pixels
Width = Annotated[int, Within(1, 1 << 16)]
MlpWidth = Annotated[int, Within(1, 1 << 18)]
Depth = Annotated[int, Within(1, 500)]
Eps = Annotated[float, Within(1e-20, 1)]  # added to the variance in a LayerNorm
MOST_STAGES = 8
STEM_STRIDE = 4  # of the convolutions before a ResNet's first stage; each later stage has 2
EXPANSION = 4  # channels of a ResNet's stage, divided by its width
LAST_ID = -2  # of `TextConfig.end_token`


@dataclass(frozen=True)
class ViTConfig:
    """A Vision Transformer, plain or hybrid (`stem_stages`)."""

    kind: ClassVar[str] = "vit"

    image_size: tuple[Side, Side] = (224, 224)  # (H, W) in pixels
    patch_size: Side = 16  # side in pixels; for a hybrid the total stride of its stem
    width: Width = 768
    depth: Depth = 12  # Transformer blocks
    heads: Width = 12
    mlp_width: MlpWidth = 3072
    activation: Activation = "gelu"
    eps: Eps = 1e-6
    # "cls": class token, norm; "avg": mean of patches, norm; "norm_avg": norm, mean of patches;
    # "map": norm, attention of one learned query (SigLIP); "distilled": class and distillation
    # token, norm, a head for each (DeiT); "raw_avg": mean of patches without norm (transformers'
    # classifiers of CLIP)
    pool: Literal["cls", "avg", "norm_avg", "raw_avg", "map", "distilled"] = "cls"
    class_token: bool = True
    registers: Annotated[int, Within(0, 1024)] = 0  # extra learned tokens after the class token
    # (Darcet et al. 2024)
    pre_norm: bool = False  # CLIP's ln_pre, before the first block
    patch_bias: bool = True
    stem_stages: tuple[Depth, ...] = ()  # blocks in each stage of a hybrid's convolutional stem
    stem_width: Annotated[int, Within(0, 1 << 16)] = 0  # channels of the first of those stages
    layer_scale: bool = False  # a learned factor for each channel after attention and MLP
    qk_norm: bool = False  # LayerNorm of queries and keys in each head
    # "learned": for all tokens; "patches": for patches only; "flexible": for patches, a square grid
    # that is resampled bilinearly to each image's grid; "sincos", "rope", "pyramid": see
    # nn/positions.py
    positions: Positions = "learned"
    # true: resampling of positions is antialiased, as in timm and open_clip; false: as in
    # transformers
    antialias: bool = True

    def __post_init__(self) -> None:
        settle(self)
        stem, size = len(self.stem_stages), f"{self.image_size[0]}x{self.image_size[1]}"
        lacks_token = self.pool in ("cls", "distilled") and not self.class_token
        stride = STEM_STRIDE << stem >> 1
        contradictions(
            self,
            _heads(self.heads, self.width),
            (min(self.grid) < 1, f"images of {size} pixels hold no patch of {self.patch_size}"),
            (lacks_token, f'pool "{self.pool}" reads the class token, and class_token is false'),
            (
                self.positions == "rope" and self.width // self.heads % 4,
                f"rotary positions need heads whose width is a multiple of 4, and {self.heads} "
                f"heads of width {self.width} have {self.width // self.heads}",
            ),
            (
                self.positions == "sincos" and self.width % 4,
                f"sine-cosine positions need a width that is a multiple of 4, not {self.width}",
            ),
            (stem > MOST_STAGES, f"a stem of {stem} stages; the most is {MOST_STAGES}"),
            (
                bool(stem) != bool(self.stem_width) or self.stem_width % 2,
                f"stem_stages are {self.stem_stages} and stem_width is {self.stem_width}; a stem "
                "has both, and an even width",
            ),
            (
                stem and self.patch_size != stride,
                f"patch_size is {self.patch_size}, and a stem of {stem} stages makes it {stride}",
            ),
            (stem and _is_cut(self.image_size, self.patch_size), _cuts(size, self.patch_size)),
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (rows, columns) at the configured image size; pixels beyond them are ignored."""
        return _grid(self.image_size, self.patch_size)

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class token, distillation token, registers."""
        return len(self.prefix_names)

    @property
    def prefix_names(self) -> tuple[str, ...]:
        """The names of the tokens before the patches, in order."""
        names = []
        if self.class_token:
            names.append("class")
        if self.pool == "distilled":
            names.append("distillation")
        names += [f"register {i}" for i in range(self.registers)]
        return tuple(names)

    @property
    def out_width(self) -> int:
        """D of the pooled features."""
        return self.width


@dataclass(frozen=True)
class SwinConfig:
    """A Swin Transformer, version 1 (Liu et al. 2021).

    Width, heads and mlp_width are those of the first stage and double at each later one, except
    heads that `stage_heads` gives. Features are the mean of the normed tokens.
    """

    kind: ClassVar[str] = "swin"

    image_size: tuple[Side, Side] = (224, 224)  # (H, W) in pixels
    patch_size: Side = 4  # pixels a side
    width: Width = 96
    stages: tuple[Depth, ...] = (2, 2, 6, 2)  # blocks a stage
    heads: Width = 3
    mlp_width: MlpWidth = 384
    activation: Activation = "gelu"
    eps: Eps = 1e-5
    window: Annotated[int, Within(1, 1 << 10)] = 7  # patches a side of the attention windows
    # a grid that windows do not divide is padded before the shift, as in transformers, or after it,
    # as in timm: see models/swin.py
    padded: Literal["before_shift", "after_shift"] = "before_shift"
    stage_heads: tuple[Width, ...] = ()  # heads of each stage; () for the usual doubling

    def __post_init__(self) -> None:
        settle(self)
        if self.stage_heads == tuple(self.heads << i for i in range(len(self.stages))):
            object.__setattr__(self, "stage_heads", ())
        size = f"{self.image_size[0]}x{self.image_size[1]}"
        contradictions(
            self,
            _stages(self.stages),
            *(_heads(heads, self.width << i) for i, heads in enumerate(self.heads_by_stage)),
            (
                self.stage_heads[:1] not in ((), (self.heads,))
                or len(self.heads_by_stage) != len(self.stages),
                f"stage_heads {self.stage_heads} are not those of {len(self.stages)} stages, "
                f"{self.heads} the first",
            ),
            (min(self.grid) < 1, f"images of {size} pixels hold no patch of {self.patch_size}"),
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (rows, columns) at the configured image size."""
        return _grid(self.image_size, self.patch_size)

    @property
    def heads_by_stage(self) -> tuple[int, ...]:
        """Attention heads of each stage."""
        return self.stage_heads or tuple(self.heads << i for i in range(len(self.stages)))

    @property
    def out_width(self) -> int:
        """D of the pooled features."""
        return self.width << len(self.stages) - 1


@dataclass(frozen=True)
class ResNetConfig:
    """CLIP's ModifiedResNet (Radford et al. 2021, 2.4), whose attention pool ends in the joint
    space."""

    kind: ClassVar[str] = "resnet"

    image_size: tuple[Side, Side] = (224, 224)  # (H, W) in pixels
    width: Width = 64  # of the first stage, before expansion
    stages: tuple[Depth, ...] = (3, 4, 6, 3)  # blocks a stage
    heads: Width = 32  # of the attention pool

    def __post_init__(self) -> None:
        settle(self)
        contradictions(self, _stages(self.stages))  # the other checks need valid stages
        contradictions(
            self,
            (self.width % 2, f"the width must be even, and is {self.width}"),
            _heads(self.heads, self.out_width),
            (
                _is_cut(self.image_size, self.patch_size),
                _cuts(f"{self.image_size[0]}x{self.image_size[1]}", self.patch_size),
            ),
        )

    @property
    def patch_size(self) -> int:
        """The total stride: the side in pixels of one place of the last feature map."""
        return STEM_STRIDE << len(self.stages) - 1

    @property
    def grid(self) -> tuple[int, int]:
        """Places (rows, columns) of the last feature map at the configured image size."""
        return _grid(self.image_size, self.patch_size)

    @property
    def out_width(self) -> int:
        """Channels of the last feature map."""
        return self.width * EXPANSION << len(self.stages) - 1


VisionConfig = ViTConfig | SwinConfig | ResNetConfig


@dataclass(frozen=True)
class TextConfig:
    """A text tower or a decoder: a Transformer, and the pooling of its output."""

    vocab_size: Annotated[int, Within(1, 1 << 24)] = 49408
    context: Annotated[int, Within(1, 1 << 20)] = 77  # positions, start and end token included
    width: Width = 512
    depth: Depth = 12
    heads: Width = 8
    mlp_width: MlpWidth = 2048
    activation: Activation = "gelu"
    eps: Eps = 1e-5
    causal: bool = True
    post_norm: bool = False  # as BERT: norms after each residual and the embedding, none at the end
    # "end": the first end token; "highest": the token with the highest id, if tokens were added
    # after the end token; "first", "last": by position; "mean": all tokens except padding. A
    # decoder's output is not pooled.
    pool: Literal["end", "highest", "first", "last", "mean"] = "end"
    head_bias: bool = False
    # hidden width of a head of two layers with GELU (open_clip's "mlp"); 0: a head of one layer
    head_hidden: Annotated[int, Within(0, 1 << 16)] = 0
    # -1: none, the padding that is attended to serves as end token (CLIPA); LAST_ID, the default:
    # the last id of the vocabulary, as in CLIP
    end_token: int = LAST_ID
    pad_token: int = 0
    # Without a causal mask: "masked", or "attended" (SigLIP), for which texts are always padded to
    # the context.
    padding: Literal["masked", "attended"] = "masked"
    cleaning: Cleaning = "none"  # applied to a text before the tokenizer; see text/cleaning.py
    cross_width: Annotated[int, Within(0, 1 << 16)] = 0  # width of the context of cross-attention;
    # 0: no cross-attention
    # replaces the first id of a text that cross-attends to an image (BLIP); -1: no replacement
    start_token: int = -1

    def __post_init__(self) -> None:
        settle(self)
        if self.end_token == LAST_ID:
            object.__setattr__(self, "end_token", self.vocab_size - 1)
        attended, ids = self.padding == "attended", self.vocab_size
        for name, least in (("end_token", -1), ("pad_token", 0), ("start_token", -1)):
            value = getattr(self, name)
            out_of_range = not least <= value < ids
            message = f"{name} is {value}, and there are {ids} ids from 0 on"
            contradictions(self, (out_of_range, message))
        contradictions(
            self,
            _heads(self.heads, self.width),
            (
                self.causal and self.pool == "first",
                'pool "first" under a causal mask reads a token that no other has reached: every '
                "text would be the same",
            ),
            (
                self.pool == "end" and self.end_token < 0,
                'pool "end" needs an end_token',
            ),
            (
                self.pool == "highest" and not 0 <= self.pad_token <= self.end_token,
                f'pool "highest" would read the padding, {self.pad_token}, which is above the '
                f"end_token {self.end_token}",
            ),
            (
                self.pool == "mean" and (self.causal or attended),
                'pool "mean" is of a tower without causal mask that masks its padding',
            ),
            (self.head_hidden and self.head_bias, "a head of two layers has no biases"),
            (self.causal and attended, 'padding "attended" is of a tower without causal mask'),
            (
                self.pool == "last" and not attended,
                'pool "last" reads the padding of a short text: it needs padding "attended"',
            ),
        )


def _grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    return size[0] // patch, size[1] // patch


def _heads(heads: int, width: int) -> tuple[object, str]:
    return width % heads, f"{heads} heads do not divide the width {width}"


def _stages(stages: tuple[int, ...]) -> tuple[object, str]:
    most = f"there must be 1 to {MOST_STAGES} stages"
    return not 1 <= len(stages) <= MOST_STAGES, f"{most}, not {len(stages)}"


def _is_cut(size: tuple[int, int], patch: int) -> bool:
    return any(side % patch for side in size)


def _cuts(size: str, patch: int) -> str:
    return f"convolutions that stride by {patch} do not divide images of {size} pixels"
