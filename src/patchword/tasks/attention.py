"""Attention maps: what a token looks at, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from patchword import images
from patchword.bundle import Bundle
from patchword.config import ResNetConfig, SwinConfig, ViTConfig
from patchword.errors import UnsupportedError
from patchword.images import ImageLike
from patchword.images.preprocess import Geometry
from patchword.show import plots


@dataclass(frozen=True)
class AttentionMap:
    """Where the pooled token looks.

    weights  (heads, N, N), or (heads, 1, N) for attention pooling; rows sum to 1. Rollout has one
    maps     (K, H, W) float32 in the image's own pixels, NaN outside the crop: one per head, the
             pooled token's row of `weights` over the patches
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    weights: NDArray[np.float32]
    maps: NDArray[np.float32]
    titles: tuple[str, ...]

    def picture(self) -> Image.Image:
        """The photo and each map over it."""
        return plots.maps_panel(self.image, self.maps, self.titles)

    def save(self, path: str | Path) -> None:
        """Write `picture()`; the suffix of `path` chooses the format."""
        self.picture().save(path)


def attention(
    model: Bundle,
    image: ImageLike,
    layer: int = -1,
    head: int | None = None,
    rollout: bool = False,
) -> AttentionMap:
    """One layer's attention, of every head or of one; or the rollout through all layers.

    layer    0 to depth - 1, or counted from the end. A ResNet has one, its attention pooling
    head     0 to heads - 1; None: the mean of the heads first, then each
    rollout  the product over the layers of (A + I) / 2, A the mean over heads, rows renormalised
             (Abnar & Zuidema 2020, section 3)

    Raises ImageError, or UnsupportedError for a layer or head that the network does not have.
    """
    names = layer_taps(model)
    if not -len(names) <= layer < len(names):
        raise UnsupportedError(f"no layer {layer}: {model.name} has layers 0 to {len(names) - 1}")
    wanted = names if rollout else [names[layer]]
    photo = images.open(image, exact=True)
    pixels, geometry = model.preprocess(photo)
    batch = torch.from_numpy(pixels)[None].to(next(model.network.parameters()))
    with torch.inference_mode():
        _, taps = model.network.encode_image(batch, taps=wanted)  # type: ignore[operator]
    if rollout:
        weights, titles = rolled([taps[name][0].float() for name in names])[None], ["rollout"]
    else:
        weights, titles = of_heads(taps[wanted[0]][0].float(), head)
    rows = pooled_rows(model, weights, geometry.size)
    if len(titles) > len(rows):
        rows = torch.cat([rows.mean(dim=0, keepdim=True), rows])
    grids = rows.reshape(-1, *patch_grid(model, geometry)).cpu().numpy()
    maps = geometry.to_source(grids, model.config.image_tower.patch_size)
    return AttentionMap(photo, weights.cpu().numpy(), maps, tuple(titles))


def of_heads(weights: Tensor, head: int | None) -> tuple[Tensor, list[str]]:
    """weights (heads, N, M) of one head or, for None, of all; titles, the mean's first for all."""
    if head is None:
        return weights, ["mean", *(f"head {i}" for i in range(len(weights)))]
    if not 0 <= head < len(weights):
        raise UnsupportedError(f"no head {head}: the layer has 0 to {len(weights) - 1}")
    return weights[head : head + 1], [f"head {head}"]


def layer_taps(model: Bundle) -> list[str]:
    """The taps of a tower's attention maps, first layer first."""
    vision = model.config.image_tower
    if isinstance(vision, ResNetConfig):
        return ["image.attnpool.attn"]
    if isinstance(vision, SwinConfig):
        raise UnsupportedError(
            f"{model.name} is a Swin, which attends inside windows and pools by the mean: it has "
            "no map of the whole image"
        )
    return [f"image.blocks.{i}.attn" for i in range(vision.depth)]


def patch_grid(model: Bundle, geometry: Geometry) -> tuple[int, int]:
    """Patches (rows, columns) of an image as the model's preprocessing brought it to size."""
    height, width = geometry.size
    return (
        height // model.config.image_tower.patch_size,
        width // model.config.image_tower.patch_size,
    )


def patch_slice(model: Bundle, size: tuple[int, int]) -> slice:
    """Which of a ViT's tokens are the patches of an image of `size` (H, W) pixels: neither those
    before, nor a pyramid's lower levels after them."""
    vision = model.config.image_tower
    count = (size[0] // vision.patch_size) * (size[1] // vision.patch_size)
    return slice(vision.prefix, vision.prefix + count)


def pooled_rows(model: Bundle, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """weights (heads, N, M) -> (heads, patches): the row of the pooled token over the patches of
    an image of `size` (H, W) pixels.

    That is the class token's, or, where a tower pools all patches, the mean of theirs.
    """
    vision, patches = model.config.image_tower, patch_slice(model, size)
    if isinstance(vision, ResNetConfig):  # the query, a mean, stands first among the keys
        return weights[:, 0, 1:]
    if isinstance(vision, ViTConfig) and vision.pool in ("cls", "distilled"):
        return weights[:, 0, patches]
    return weights[:, vision.prefix :, patches].mean(dim=1)


def rolled(layers: list[Tensor]) -> Tensor:
    """Attention rollout (Abnar & Zuidema 2020, section 3) of maps (heads, N, N): (N, N)."""
    total = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device)
    for weights in layers:
        mixed = weights.mean(dim=0) + torch.eye(len(total), dtype=total.dtype, device=total.device)
        total = (mixed / mixed.sum(dim=-1, keepdim=True)) @ total
    return total
