"""Configurations of preprocessing, of parts besides the towers, and of a whole model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from patchword.config.towers import (
    Depth,
    MlpWidth,
    ResNetConfig,
    Side,
    TextConfig,
    VisionConfig,
    ViTConfig,
    Width,
)
from patchword.config.validation import Within, contradictions, settle
from patchword.errors import UnsupportedError

Check = tuple[object, str]  # condition and message, for `contradictions`
Mean = Annotated[float, Within(-1e3, 1e3)]
Std = Annotated[float, Within(1e-4, 1e3)]
Output = Annotated[int, Within(0, 1 << 24)]  # width of a head's output; 0: no head
LARGEST_RESIZE = 16  # most pixels of the resized side for each pixel of the crop


@dataclass(frozen=True)
class MaskedConfig:
    """The decoder of a masked autoencoder (He et al. 2022, section 3)."""

    width: Width = 512
    depth: Depth = 8
    heads: Width = 16
    mlp_width: MlpWidth = 2048
    mask_ratio: Annotated[float, Within(0, 1)] = 0.75  # share of patches that are masked
    norm_pixels: bool = False  # targets are normalised in each patch

    def __post_init__(self) -> None:
        settle(self)
        contradictions(
            self,
            (self.width % self.heads, f"{self.heads} heads do not divide the width {self.width}"),
            (
                self.width % 4,
                f"sine-cosine positions need a width that is a multiple of 4, not {self.width}",
            ),
        )


@dataclass(frozen=True)
class DenseHeadConfig:
    """A head that decodes an image's tokens and pixels into a map of vectors in the joint space,
    with half of the image's height and width: see models/dense_head.py."""

    layers: tuple[Annotated[int, Within(0, 499)], ...]  # blocks whose tokens it reads
    size: Side = 128  # shorter side of the training images in pixels
    token_width: Width = 64  # channels of the tokens' map
    pixel_widths: tuple[Width, Width] = (16, 32)  # channels of the pixels' maps at 1/2 and at 1/4
    widths: tuple[Width, Width] = (64, 32)  # channels after joining both at 1/4 and at 1/2
    scale: Annotated[float, Within(1e-3, 1e4)] = 30.0  # logits are scale * cosine
    background: str = "background"  # the text for places without a named thing

    def __post_init__(self) -> None:
        settle(self)
        contradictions(
            self,
            (not self.layers, "layers is empty: the head needs the tokens of one block or more"),
            (self.size % 4, f"size is {self.size}; a multiple of 4 is needed"),
        )


@dataclass(frozen=True)
class PreprocessConfig:
    """From RGB uint8 (H, W, 3) to normalised float (3, S, S)."""

    size: tuple[Side, Side] = (224, 224)  # (H, W) of the network's input
    # "shortest": the shorter side to `resize_to`, then centre crop; "square": to a square of
    # `resize_to` (DeiT), then centre crop; "squash": to the size; "cover": to the smallest size
    # that covers the size, then centre crop (open_clip's "shortest" with two sides); "contain": to
    # the largest size that fits into the size, then padding with `fill` (open_clip's "longest");
    # "patches": in its aspect ratio to whole patches, at most `max_patches` (NaFlex)
    resize: Literal["shortest", "square", "squash", "cover", "contain", "patches"] = "shortest"
    resize_to: Annotated[int, Within(1, 1 << 18)] = 224  # pixels, before the crop; unused otherwise
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    crop_rounding: Literal["floor", "round"] = "floor"  # of half an odd margin: floor as
    # transformers' processors, round (half to even) as torchvision's transforms
    rescale: Annotated[float, Within(1e-6, 1e3)] = 1 / 255
    mean: tuple[Mean, Mean, Mean] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[Std, Std, Std] = (0.26862954, 0.26130258, 0.27577711)
    max_patches: Annotated[int, Within(0, 1 << 16)] = 0  # with resize "patches"
    patch_size: Side = 16  # with resize "patches"
    fill: Annotated[int, Within(0, 255)] = 0  # grey level of the padding, with resize "contain"

    def __post_init__(self) -> None:
        settle(self)
        crops = self.resize in ("shortest", "square")
        contradictions(
            self,
            (
                self.resize == "patches" and not self.max_patches,
                'resize "patches" with max_patches 0 leaves nothing to see',
            ),
            (
                crops and self.resize_to > LARGEST_RESIZE * max(self.size),
                f"resize_to is {self.resize_to}, of which a crop of {max(self.size)} pixels shows "
                "next to nothing",
            ),
        )


@dataclass(frozen=True)
class BlipConfig:
    """The parts of a BLIP besides its image tower and its text tower (Li et al. 2022)."""

    decoder: TextConfig | None = None  # generates text
    writes_captions: bool = False  # the decoder cross-attends to the image
    # The decoder cross-attends to a question, which cross-attends to the image (figure 5).
    answers_questions: bool = False
    shared_decoder: bool = False  # decoder and text tower share all weights except self-attention
    matching: bool = False  # a head classifies whether image and text match (ITM)
    # The image tokens that texts cross-attend to: all, as in the paper, or the patches only. The
    # class token alone can contain all that a text needs, so that it ignores the patches.
    image_tokens: Literal["all", "patches"] = "all"

    def __post_init__(self) -> None:
        settle(self)
        writes = self.writes_captions or self.answers_questions
        decoder = self.decoder
        contradictions(
            self,
            (
                decoder is not None and not writes,
                "a decoder needs writes_captions or answers_questions",
            ),
            (
                decoder is None and (writes or self.shared_decoder),
                "writes_captions, answers_questions and shared_decoder need a decoder",
            ),
            (decoder and not decoder.causal, "the decoder writes word by word: it must be causal"),
            (decoder and not decoder.post_norm, "the decoder is a BERT: it needs post_norm"),
        )


@dataclass(frozen=True)
class ModelConfig:
    """A whole model: an image tower, a text tower, or both, and further parts.

    `assumed` names each value that is in no file of the checkpoint, with the source of its default.
    `read_from` names the files of the other values; it does not count in comparisons of configs.
    `patchword info` prints both.
    """

    vision: VisionConfig | None = None  # None: only a text tower
    preprocess: PreprocessConfig = PreprocessConfig()
    text: TextConfig | None = None
    blip: BlipConfig | None = None  # texts cross-attend to image tokens
    masked: MaskedConfig | None = None  # a masked autoencoder's decoder
    dense_head: DenseHeadConfig | None = None  # a head for dense prediction, trained with masks
    embed_dim: Output = 0  # width of the joint space of images and texts; 0 without one
    classes: Output = 0  # outputs of a classification head; 0 without one
    labels: tuple[str, ...] = ()  # names of the classes, if the checkpoint has them
    # layers of the image tower with which `inspect` finds most defects; empty: not measured
    defect_layers: tuple[int, ...] = ()
    # "softmax" over texts or classes; "sigmoid" for each pair, with a learned bias (SigLIP), or for
    # each class
    score: Literal["softmax", "sigmoid"] = "softmax"
    # the logit scale is clipped to this (Radford et al., 2.5)
    scale_limit: Annotated[float, Within(1e-3, 1e9)] = 100.0
    source: str = "patchword"  # the format the checkpoint was read from
    assumed: Mapping[str, str] = field(default_factory=dict)
    read_from: tuple[str, ...] = field(default=(), compare=False)  # files, weights first

    def __post_init__(self) -> None:
        settle(self)
        contradictions(self, *_parts(self))
        if self.vision is not None:
            contradictions(self, *_images(self.vision, self.preprocess))
        if self.masked is not None:
            contradictions(self, *_masked(self, self.masked))
        if self.dense_head is not None:
            contradictions(self, *_dense_head(self, self.dense_head))
        if self.blip is not None:
            contradictions(self, *_blip_parts(self, self.blip))
            contradictions(self, *_blip_widths(self, self.blip))

    @property
    def image_tower(self) -> VisionConfig:
        """`vision`. Raises UnsupportedError for a model without image tower."""
        if self.vision is None:
            raise UnsupportedError("this model has a text tower only and sees no images")
        return self.vision

    @property
    def decoder(self) -> TextConfig | None:
        """The decoder that generates text."""
        return None if self.blip is None else self.blip.decoder

    @property
    def text_or_decoder(self) -> TextConfig | None:
        """The text tower, or else the decoder: the one for which texts are tokenized."""
        return self.text or self.decoder

    @property
    def writes_captions(self) -> bool:
        """True if it generates captions of images."""
        return self.blip is not None and self.blip.writes_captions

    @property
    def answers_questions(self) -> bool:
        """True if it generates answers to questions about an image."""
        return self.blip is not None and self.blip.answers_questions

    @property
    def matching(self) -> bool:
        """True if it has a matching head, which classifies whether image and text belong
        together."""
        return self.blip is not None and self.blip.matching

    @property
    def feature_dim(self) -> int:
        """D of the features of images and texts."""
        if self.embed_dim:
            return self.embed_dim
        if self.vision is None:
            return self.text.width if self.text else 0
        return self.vision.out_width


def _parts(config: ModelConfig) -> Iterator[Check]:
    """Contradictions between towers and outputs."""
    vision, text, embed = config.vision, config.text, config.embed_dim
    pair = vision is not None and text is not None and config.blip is None
    alone = text is None and config.blip is None and config.masked is None
    yield not (vision or text), "it has neither an image tower (vision) nor a text tower (text)"
    yield config.blip and not vision, "a BLIP needs an image tower (vision)"
    yield pair and not embed, "two towers need embed_dim, the size of the space they share"
    mapped = pair and isinstance(vision, ViTConfig) and vision.pool == "map"
    width = vision.out_width if vision else 0
    yield (
        mapped and width != embed,
        f'vision.pool "map" gives {width} numbers as they are, and embed_dim is {embed}',
    )
    yield (
        isinstance(vision, ResNetConfig) and not embed,
        "a ResNet's attention pool ends in the joint space: it needs embed_dim",
    )
    yield (
        config.classes and (not alone or embed),
        "classes are of an image tower alone: without text, blip, masked and embed_dim",
    )
    yield (
        config.labels and len(config.labels) != config.classes,
        f"there are {len(config.labels)} labels and {config.classes} classes",
    )
    depth = vision.depth if isinstance(vision, ViTConfig) else 0
    yield (
        any(not 0 <= layer < depth for layer in config.defect_layers),
        f"defect_layers is {list(config.defect_layers)}, and a ViT here has {depth} blocks",
    )
    yield (
        config.score == "sigmoid" and not pair and not config.classes,
        'score "sigmoid" is of two towers that meet, or of classes',
    )
    yield (
        text and text.cross_width and not config.blip,
        "text.cross_width is of a BLIP, and there is no blip",
    )


def _images(vision: VisionConfig, preprocess: PreprocessConfig) -> Iterator[Check]:
    """Contradictions between image tower and preprocessing."""
    size, patch = preprocess.size, vision.patch_size
    has_convolutions = isinstance(vision, ResNetConfig) or (
        isinstance(vision, ViTConfig) and len(vision.stem_stages) > 0
    )
    yield (
        min(size) < patch or (has_convolutions and (size[0] % patch or size[1] % patch)),
        f"preprocess.size is {size[0]}x{size[1]} pixels, and the image tower's patches are of "
        f"{patch}",
    )
    if preprocess.resize == "patches":
        yield not isinstance(vision, ViTConfig), 'preprocess.resize "patches" needs a ViT'
        yield (
            preprocess.patch_size != patch,
            f"preprocess.patch_size is {preprocess.patch_size}, and vision.patch_size is {patch}",
        )


def _masked(config: ModelConfig, masked: MaskedConfig) -> Iterator[Check]:
    """Contradictions in a masked autoencoder."""
    vision, size = config.vision, config.preprocess.size
    if not isinstance(vision, ViTConfig) or vision.positions in ("rope", "pyramid"):
        yield True, "a masked autoencoder needs a ViT whose positions go with its tokens"
        return
    yield config.text or config.embed_dim, "a masked autoencoder has no text and no embed_dim"
    patch = vision.patch_size
    cut = [side for side in (*vision.image_size, *size) if side % patch]
    yield cut, f"a masked autoencoder paints whole patches, and {patch} does not divide {cut}"
    count = (size[0] // patch) * (size[1] // patch)
    yield (
        int(count * (1 - masked.mask_ratio)) < 1,
        f"masked.mask_ratio {masked.mask_ratio} leaves none of {count} patches to see",
    )


def _dense_head(config: ModelConfig, head: DenseHeadConfig) -> Iterator[Check]:
    """Contradictions in a dense head."""
    vision = config.vision
    yield not (config.text and config.embed_dim), "a dense_head needs text and embed_dim"
    if not isinstance(vision, ViTConfig) or vision.positions == "pyramid":
        yield True, "a dense_head needs a ViT, all of whose blocks have the same patches"
        return
    yield config.preprocess.resize == "patches", "a dense_head needs images of a size, not NaFlex"
    yield (
        max(head.layers) >= vision.depth,
        f"dense_head.layers is {list(head.layers)}, and there are {vision.depth} blocks",
    )
    yield (
        head.size % vision.patch_size,
        f"dense_head.size is {head.size}, and patches are of {vision.patch_size} pixels",
    )


def _blip_parts(config: ModelConfig, blip: BlipConfig) -> Iterator[Check]:
    """Missing and superfluous parts of a BLIP."""
    vision, text, decoder = config.vision, config.text, blip.decoder
    pooled = isinstance(vision, ViTConfig) and vision.pool == "cls"
    yield not pooled, 'a BLIP\'s image tower is a ViT with a class token, vision.pool "cls"'
    yield not (text or decoder), "a BLIP needs a text or a decoder config"
    yield config.masked, "a BLIP is no masked autoencoder"
    yield config.embed_dim and not text, "a BLIP's embed_dim is of the space shared with a text"
    reads = text is not None and text.cross_width > 0
    yield (
        (blip.matching or blip.answers_questions or blip.shared_decoder) and not reads,
        "matching, answers and a shared decoder need text.cross_width",
    )
    yield (
        text and reads and (text.causal or not text.post_norm),
        "a text tower that reads images is a BERT: post_norm and not causal",
    )


def _blip_widths(config: ModelConfig, blip: BlipConfig) -> Iterator[Check]:
    """Contexts of another width than cross-attention expects, and decoders that cannot share
    weights."""
    text, decoder, width = config.text, blip.decoder, config.image_tower.out_width
    contexts = []  # name and config of a tower that cross-attends, width of its context
    if text and text.cross_width:
        contexts.append(("text", text, width))
    if decoder and blip.writes_captions:
        contexts.append(("decoder", decoder, width))
    if decoder and text and blip.answers_questions:
        contexts.append(("decoder", decoder, text.width))
    for name, tower, context_width in contexts:
        yield (
            tower.cross_width != context_width,
            f"{name}.cross_width is {tower.cross_width}; what it reads is {context_width} wide",
        )
    if text and decoder and blip.shared_decoder:
        sizes, text_sizes = (
            (each.depth, each.width, each.heads, each.vocab_size) for each in (decoder, text)
        )
        yield (
            sizes != text_sizes,
            "a shared decoder and its text tower have the same depth, width, heads and vocab_size; "
            f"here {sizes} and {text_sizes}",
        )
