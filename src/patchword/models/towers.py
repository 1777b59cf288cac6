"""Image towers by kind, the base classes of networks with an image or a text tower, and networks of
one tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from torch import Tensor, nn

from patchword.config import ModelConfig, ResNetConfig, SwinConfig, VisionConfig
from patchword.errors import ConfigError, UnsupportedError
from patchword.models.dense_head import DenseHead, dense_cosines
from patchword.models.protocols import Pixels, Tower
from patchword.models.resnet import ModifiedResNet
from patchword.models.swin import SwinTransformer
from patchword.models.text import TextTransformer
from patchword.models.vit import VisionTransformer
from patchword.nn.taps import NO_TAPS, Taps


def image_tower(config: VisionConfig, out: int, head_bias: bool = False) -> Tower:
    """The tower of the config's kind: pixels (B, 3, H, W) -> (B, out), (B, D) when `out` is 0."""
    if isinstance(config, ResNetConfig):
        return ModifiedResNet(config, out)
    if isinstance(config, SwinConfig):
        return SwinTransformer(config, out, head_bias)
    return VisionTransformer(config, out, head_bias)


class ImageEncoder(nn.Module):
    """Base class of networks with an image tower, `image`."""

    image: Tower

    def __init__(self) -> None:
        super().__init__()
        self.dense_head: DenseHead | None = None

    def add_dense_head(self, config: ModelConfig) -> None:
        """Create `dense_head`, if the config has one."""
        if config.dense_head:
            width = config.image_tower.out_width
            self.dense_head = DenseHead(config.dense_head, width, config.embed_dim)

    def dense_cosines(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """Cosines (B, T, H / 2, W / 2), float32, of every second pixel of images (B, 3, H, W) with
        unit texts (T, D), by the dense head. Raises UnsupportedError for a network without one."""
        if self.dense_head is None:
            raise UnsupportedError("this network has no dense head")
        return dense_cosines(self.image, self.dense_head, pixels, texts)

    @overload
    def encode_image(self, pixels: Pixels) -> Tensor: ...
    @overload
    def encode_image(
        self, pixels: Pixels, taps: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    def encode_image(
        self, pixels: Pixels, taps: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Pixels (B, 3, H, W) -> features (B, D), not normalised: in the joint space, or pooled
        features without one. With `taps` also those tensors, whose names begin with "image."."""
        requested = Taps(taps)
        features = self._image_features(pixels, requested.inside("image"))
        return (features, requested.result()) if taps else features

    def _image_features(self, pixels: Pixels, taps: Taps) -> Tensor:
        return self.image(pixels, taps)


class TextEncoder(nn.Module):
    """Base class of networks with a text tower, `text`."""

    text: TextTransformer

    @overload
    def encode_text(self, ids: Tensor) -> Tensor: ...
    @overload
    def encode_text(self, ids: Tensor, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]: ...
    def encode_text(
        self, ids: Tensor, taps: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Ids (B, L) -> features (B, D), not normalised: in the joint space, or pooled features
        without one. With `taps` also those tensors, whose names begin with "text."."""
        requested = Taps(taps)
        features: Tensor = self.text(ids, requested.inside("text"))
        return (features, requested.result()) if taps else features


class ImageModel(ImageEncoder):
    """One image tower: a classifier, or a feature extractor when `config.classes` is 0.

    With `config.embed_dim` it is the image half of a two-tower model, and projects to its joint
    space.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        out = config.classes or config.embed_dim
        self.image = image_tower(config.image_tower, out, head_bias=config.classes > 0)
        self.projects = config.embed_dim > 0

    def forward(self, pixels: Pixels) -> Tensor:
        """Logits (B, classes)."""
        return self.image(pixels)

    def heads(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) of the class token's head and of the distillation token's, which
        learn from different targets (Touvron et al. 2021, section 4); without a distillation token
        the same logits twice."""
        if isinstance(self.image, VisionTransformer):
            return self.image.heads(pixels)
        logits = self.image(pixels)
        return logits, logits

    def _image_features(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        """In the joint space, or before the classifier's head."""
        return self.image(pixels, taps) if self.projects else self.image.features(pixels, taps)


class TextModel(TextEncoder):
    """One text tower, such as the text encoder of a diffusion model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.text is None:
            raise ConfigError("a text model needs a text config")
        self.text = TextTransformer(config.text, config.embed_dim)
