"""Attention maps: which patches the pooled token attends to, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.finite import check_image
from patchword.images import ImageLike
from patchword.images.preprocess import Geometry
from patchword.models.protocols import ImageNetwork, Tower
from patchword.nn.inference_mode import inference
from patchword.options import checked
from patchword.show import plots
from patchword.show.colours import MAP, ends_of, known, scale_of
from patchword.show.token_matrix import View
from patchword.tasks.attention_layers import chosen, layers_of, mean_of, pooling
from patchword.tasks.grid_maps import GridMaps
from patchword.tasks.out_of_scope import judged
from patchword.tasks.token_attention import TokenAttention
from patchword.visible_area import Sight, noted


@dataclass(frozen=True, eq=False, repr=False)
class AttentionMap(GridMaps):
    """How much the pooled token attends to each patch.

    weights  (heads, N, N), or (heads, 1, N) for attention pooling; rows sum to 1. The rollout has
             one matrix instead of heads, all layers have one each
    mean     (1, N, N): the mean over heads, if it is not among the weights; else (0, N, N)
    grid     (K, h, w) float32: for each title the pooled token's row over the patches; of all heads
             the mean comes first. With mean pooling it is the mean of the patches' rows; for the
             rollout before an attention pooling, the pooling's attention times the rollout
    tokens   the N names: "class", "2,5" for the patch in row 2 and column 5
    view     the network's input, and its grid of patches
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    weights: NDArray[np.float32]
    mean: NDArray[np.float32]
    grid: NDArray[np.float32]
    titles: tuple[str, ...]
    tokens: tuple[str, ...]
    view: View
    geometry: Geometry
    cell: int | None

    @property
    def matrix(self) -> TokenAttention:
        """The attention of all tokens to all tokens: the mean over heads and each head of a layer,
        or one head. Raises UnsupportedError for attention pooling, which has one query."""
        if self.weights.shape[-2] == 1:
            raise UnsupportedError(
                "attention pooling has one query: there is no matrix of tokens, and the map over "
                "the photo shows all of it"
            )
        titles = self.titles
        if len(self.mean) and "mean" not in titles:
            titles = ("mean", *titles)
        weights = np.concatenate([self.mean, self.weights])
        return TokenAttention(self.tokens, weights, titles, self.view)

    @checked
    def picture(
        self,
        each: bool = True,
        title: str = "",
        colours: str = MAP,
        scale: Sequence[float] | None = None,
    ) -> Image.Image:
        """The photo, and each map over it. each: every map has its own colour scale, printed under
        it; else all share one. colours, scale: see `Heatmap.picture`."""
        photo, values = self._drawn
        ends = scale_of(scale) or (None if each else ends_of(self.grid))
        return plots.maps_panel(photo, values, self.titles, title, ends, known(colours))


def attention(
    model: Bundle,
    image: ImageLike,
    layer: int | None = None,
    head: int | None = None,
    rollout: bool = False,
    all_layers: bool = False,
) -> AttentionMap:
    """The attention of one layer, of all layers, or the rollout through all layers.

    layer       0 to depth - 1, or counted from the end; None: the last. A ResNet has one layer, its
                attention pooling
    head        0 to heads - 1; None: the mean over heads, then each head
    rollout     see `attention_layers.rolled` (Abnar & Zuidema 2020, section 3)
    all_layers  the mean over heads, or that head, of each layer

    Raises ImageError, and UnsupportedError for an unknown layer or head and for options that
    contradict each other.
    """
    tower, network = model.image_tower, model.own_network
    assert isinstance(network, ImageNetwork)
    names = [f"image.{name}.attn" for name in tower.attention_layers]
    if not names:
        raise UnsupportedError(
            f"{model.name} is a Swin, which attends inside windows and pools by the mean: it has "
            "no map of the whole image; heatmap with like, the (x, y) of a pixel, shows what looks "
            "like the patch there"
        )
    shown = layers_of(names, model.name, layer, head, rollout, all_layers)
    photo = model.opener(image, exact=True)
    pixels, geometry = model.preprocess(photo)
    with noted() as sights:
        sights.note(Sight.of(image, geometry, photo))
    judged(model, image, photo)
    with inference(network):
        pool_taps = pooling(tower) if rollout else []
        _, taps = network.encode_image(model.tensor(pixels)[None], taps=[*shown, *pool_taps])
        layers = [taps[name][0].float() for name in shown]
        weights, titles = chosen(layers, head, rollout, all_layers)
        pooled = weights
        if pool_taps:
            pooled = taps[pool_taps[0]][0].float().mean(dim=0) @ weights
        mean = mean_of(layers, rollout or all_layers)
    check_image(image, weights, model.no_vector)
    rows = tower.pooled_attention(pooled, geometry.size)
    if len(titles) > len(rows):  # there is a title for the mean over heads
        rows = torch.cat([rows.mean(dim=0, keepdim=True), rows])
    patch = model.config.image_tower.patch_size
    return AttentionMap(
        photo,
        weights.cpu().numpy(),
        mean.cpu().numpy(),
        torch.unflatten(rows, -1, tower.grid(geometry.size)).cpu().numpy(),
        tuple(titles),
        token_names(tower, geometry.size, weights.shape[-1]),
        View(model.preprocess.photo(pixels), patch, tower.grid(geometry.size), tower.prefix),
        geometry,
        patch,
    )


def token_names(tower: Tower, size: tuple[int, int], count: int) -> tuple[str, ...]:
    """The names of `count` tokens of an image of `size` (H, W) pixels: "class"; "2,5" for the patch
    in row 2 and column 5; "smaller 0" for the lower levels of an image pyramid."""
    rows, columns = tower.grid(size)
    patches = [f"{row},{column}" for row in range(rows) for column in range(columns)]
    smaller = range(count - tower.prefix - len(patches))
    return (*tower.prefix_names, *patches, *(f"smaller {i}" for i in smaller))
