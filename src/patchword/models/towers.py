"""Image towers by kind, and what stands on one tower alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from patchword.config import ModelConfig, ResNetConfig, SwinConfig, VisionConfig
from patchword.errors import ConfigError
from patchword.models.resnet import ModifiedResNet
from patchword.models.swin import SwinTransformer
from patchword.models.text import TextTransformer
from patchword.models.vit import Pixels, VisionTransformer
from patchword.nn.taps import Taps


def image_tower(config: VisionConfig, out: int, head_bias: bool = False) -> nn.Module:
    """The tower of that kind: pixels (B, 3, H, W) -> (B, out), (B, D) when `out` is 0."""
    if isinstance(config, ResNetConfig):
        return ModifiedResNet(config, out)
    if isinstance(config, SwinConfig):
        return SwinTransformer(config, out, head_bias)
    return VisionTransformer(config, out, head_bias)


class ImageModel(nn.Module):
    """One image tower alone: a classifier, or a feature extractor when `config.classes` is 0.

    With `config.embed_dim` it is one half of a two-tower model, and projects.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        out = config.classes or config.embed_dim
        self.image = image_tower(config.image_tower, out, head_bias=config.classes > 0)
        self.projects = config.embed_dim > 0

    def forward(self, pixels: Pixels) -> Tensor:
        """Logits (B, classes)."""
        return self.image(pixels)  # type: ignore[no-any-return]

    def heads(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) of the class token's head and of the distillation token's, which
        learn from different targets (Touvron et al. 2021, section 4); twice the same without."""
        if isinstance(self.image, VisionTransformer):
            return self.image.heads(pixels)
        logits = self(pixels)
        return logits, logits

    def encode_image(
        self, pixels: Pixels, taps: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Features (B, D) before the head; with `taps`, those intermediates too."""
        if self.projects:
            return tapped("image", self.image, pixels, taps)
        wanted = Taps({"image.features", *taps})
        self.image(pixels, wanted.inside("image"))
        kept = wanted.result()
        features = kept["image.features"]
        return (features, {name: kept[name] for name in taps}) if taps else features


class TextModel(nn.Module):
    """One text tower alone, such as conditions a diffusion model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.text is None:
            raise ConfigError("a text model needs a text config")
        self.text = TextTransformer(config.text, config.embed_dim)

    def encode_text(
        self, ids: Tensor, taps: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Ids (B, L) -> (B, D): projected with `config.embed_dim`, else as pooled."""
        return tapped("text", self.text, ids, taps)


def tapped(
    name: str, tower: nn.Module, x: Any, names: Sequence[str]
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """`tower(x)`, and the taps called `names` if there are any, under the tower's `name`."""
    taps = Taps(names)
    features = tower(x, taps.inside(name))
    return (features, taps.result()) if names else features
