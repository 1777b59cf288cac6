"""Attention maps: which patches a token attends to, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.images import ImageLike
from patchword.models.protocols import ImageNetwork
from patchword.show import plots
from patchword.show.result import Pictured
from patchword.unseen import Sight, noted


@dataclass(frozen=True, eq=False, repr=False)
class AttentionMap(Pictured):
    """How much the pooled token attends to each patch.

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
    tower, network = model.image_tower, model.network
    assert isinstance(network, ImageNetwork)
    names = [f"image.{name}.attn" for name in tower.attention_layers]
    if not names:
        raise UnsupportedError(
            f"{model.name} is a Swin, which attends inside windows and pools by the mean: it has "
            "no map of the whole image"
        )
    _check_layer(layer, len(names), model.name)
    if rollout and head is not None:
        raise UnsupportedError("rollout is of the mean over heads; leave out head or rollout")
    wanted = names if rollout else [names[layer]]
    photo = model.opener(image, exact=True)
    pixels, geometry = model.preprocess(photo)
    with noted() as sights:
        sights.note(Sight.of(image, geometry))
    with torch.inference_mode():
        _, taps = network.encode_image(model.tensor(pixels)[None], taps=wanted)
    if rollout:
        weights, titles = rolled([taps[name][0].float() for name in names])[None], ["rollout"]
    else:
        weights, titles = of_heads(taps[wanted[0]][0].float(), head)
    rows = tower.pooled_attention(weights, geometry.size)
    if len(titles) > len(rows):
        rows = torch.cat([rows.mean(dim=0, keepdim=True), rows])
    grids = rows.reshape(-1, *tower.grid(geometry.size)).cpu().numpy()
    maps = geometry.to_source(grids, model.config.image_tower.patch_size)
    return AttentionMap(photo, weights.cpu().numpy(), maps, tuple(titles))


def _check_layer(layer: int, count: int, name: str) -> None:
    """Raise UnsupportedError for a layer that is not there."""
    if isinstance(layer, bool) or not isinstance(layer, int) or not -count <= layer < count:
        raise UnsupportedError(
            f"no layer {layer!r}: {name} has layers 0 to {count - 1}, or -1 to {-count} from the "
            "end"
        )


def of_heads(weights: Tensor, head: int | None) -> tuple[Tensor, list[str]]:
    """weights (heads, N, M) of one head or, for None, of all; titles, the mean's first for all."""
    if head is None:
        return weights, ["mean", *(f"head {i}" for i in range(len(weights)))]
    if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < len(weights):
        raise UnsupportedError(f"no head {head!r}: the layer has 0 to {len(weights) - 1}")
    return weights[head : head + 1], [f"head {head}"]


def rolled(layers: list[Tensor]) -> Tensor:
    """Attention rollout (Abnar & Zuidema 2020, section 3) of maps (heads, N, N): (N, N)."""
    total = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device)
    for weights in layers:
        mixed = weights.mean(dim=0) + torch.eye(len(total), dtype=total.dtype, device=total.device)
        total = (mixed / mixed.sum(dim=-1, keepdim=True)) @ total
    return total
