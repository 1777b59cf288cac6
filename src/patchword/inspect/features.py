"""Patch features of whole photos of any size, from which every method here starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.images.preprocess import Geometry, Preprocess, resize
from patchword.inspect.protocol import RGB, View
from patchword.models.edits import DenseEdit
from patchword.nn.inference_mode import inference
from patchword.nn.taps import Taps

BATCH = 16  # tiles in one pass of the network
MAX_TILES = 1024  # of a photo

Size = tuple[int, int]


@dataclass(frozen=True)
class Tiles:
    """A whole photo as the network's input."""

    pixels: Tensor  # (rows * columns, 3, h, w), row by row, without overlap
    rows: int
    columns: int
    geometry: Geometry  # of all tiles together


@dataclass(frozen=True)
class Patches:
    """The patch tokens of a photo, float32."""

    values: Tensor  # (L, h, w, D): L layers of the view, 1 if it names none
    geometry: Geometry

    @property
    def grid(self) -> Size:
        """(h, w)."""
        return self.values.shape[1], self.values.shape[2]

    @property
    def rows(self) -> Tensor:
        """(h * w, L * D): the tokens of all layers at each place, concatenated."""
        return self.values.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def patches_each(model: Bundle, photos: Iterable[RGB], view: View) -> Iterator[Patches]:
    """The patch tokens of each photo, in order; photos of few tiles share a batch. Raises
    UnsupportedError for layers that the tower does not have."""
    batch: list[Tiles] = []
    for photo in photos:
        batch.append(tiles(model, photo, view))
        if sum(len(each.pixels) for each in batch) >= BATCH:
            yield from _run(model, batch, view)
            batch = []
    if batch:
        yield from _run(model, batch, view)


def with_layers(model: Bundle, view: View) -> View:
    """The view; if it names no layers, with the model's `default_layers`."""
    return view if view.layers else replace(view, layers=default_layers(model)[0])


def default_layers(model: Bundle) -> tuple[tuple[int, ...], str]:
    """The layers in which patches are compared by default, and the reason; () stands for the last
    one, after the final norm. The last blocks of a network trained for one vector per image (with
    texts or classes) mix its patches, so that a defect shows everywhere (docs/benchmarks.md); those
    of DINOv2 do not."""
    config = model.config
    if config.defect_layers:
        return config.defect_layers, "which finds defects best in this model (docs/benchmarks.md)"
    layers = middle(model) if config.embed_dim or config.classes or config.blip else ()
    if layers:
        return layers, "in the middle: the last blocks of such a network mix its patches"
    return (), "the last one"


def middle(model: Bundle) -> tuple[int, ...]:
    """The block in the middle of a ViT; () for another tower."""
    tower = model.image_tower
    depth = len(tower.layer_names)
    return (max(depth // 2, 1) - 1,) if tower.attention_layers == tower.layer_names else ()


def quarters(model: Bundle) -> tuple[int, ...]:
    """The last block of each quarter of a ViT; () for another tower."""
    tower = model.image_tower
    depth = len(tower.layer_names)
    if tower.attention_layers != tower.layer_names:
        return ()
    return tuple(sorted({max(depth * part // 4, 1) - 1 for part in range(1, 5)}))


def tiles(model: Bundle, photo: RGB, view: View) -> Tiles:
    """A photo resized to a whole number of tiles of the network's input size. Nothing is cropped,
    and its proportions change by less than half a tile. Raises UnsupportedError for too many
    tiles."""
    config, size = model.preprocess.config, window(model)
    rows, columns = layout(model, photo.shape[0], photo.shape[1], view)
    resized = rows * size[0], columns * size[1]
    normalise = Preprocess(replace(config, resize="squash", size=size))
    whole = resize(photo, resized, config)
    cut = [
        normalise(np.ascontiguousarray(whole[y : y + size[0], x : x + size[1]]))[0]
        for y in range(0, resized[0], size[0])
        for x in range(0, resized[1], size[1])
    ]
    source = photo.shape[0], photo.shape[1]
    pixels = model.tensor(np.stack(cut))
    return Tiles(pixels, rows, columns, Geometry(source, resized, (0, 0), resized))


def window(model: Bundle) -> Size:
    """(H, W) of a tile in pixels: the size that the network was trained at, in whole patches."""
    size, patch = model.preprocess.config.size, model.config.image_tower.patch_size
    return size[0] // patch * patch, size[1] // patch * patch


def layout(model: Bundle, height: int, width: int, view: View) -> Size:
    """The tiles (rows, columns) of a photo. Raises UnsupportedError for more than `MAX_TILES`."""
    size = window(model)
    factor = (view.short_side or min(size)) / min(height, width)
    rows = max(round(height * factor / size[0]), 1)
    columns = max(round(width * factor / size[1]), 1)
    if rows * columns > MAX_TILES:
        raise UnsupportedError(
            f"{width} x {height} px take {rows * columns:,} tiles of {size[1]} x {size[0]} px, "
            f"more than {MAX_TILES:,}; cut the photo, or take a smaller short side"
        )
    return rows, columns


def tokens(model: Bundle, pixels: Tensor, layers: Sequence[int] = ()) -> Tensor:
    """Pixels (B, 3, H, W) -> patch tokens (L, B, h, w, D), float32, of each of `layers`; () gives
    those after the final norm, L = 1. Raises UnsupportedError for a layer that does not exist."""
    tower = model.image_tower
    size = (pixels.shape[-2], pixels.shape[-1])
    with inference(model.own_network):
        if not layers:
            patches = tower.dense(pixels, DenseEdit(), project=False)[None]
        else:
            names = [_layer_name(tower.layer_names, layer) for layer in layers]
            taps = Taps(names, stop_early=True)
            tower.encode(pixels, taps)
            tapped = taps.result()
            if any(tapped[name].ndim != 3 for name in names):
                raise UnsupportedError(
                    f"the layers of {model.name} have no tokens of one size; leave layers out: "
                    "the last one's are taken"
                )
            patches = torch.stack([tapped[name][:, tower.patches(size)] for name in names])
    return patches.float().cpu().unflatten(2, tower.grid(size))  # type: ignore[no-untyped-call, no-any-return]


def _layer_name(names: Sequence[str], layer: int) -> str:
    if not -len(names) <= layer < len(names):
        raise UnsupportedError(
            f"no layer {layer}: there are 0 to {len(names) - 1}, or -1 to {-len(names)} from the "
            "end"
        )
    return names[layer]


def _run(model: Bundle, photos: Sequence[Tiles], view: View) -> Iterator[Patches]:
    """The patch tokens of some photos, whose tiles go through the network in batches."""
    pixels = torch.cat([photo.pixels for photo in photos])
    batches = torch.split(pixels, BATCH)
    values = torch.cat([tokens(model, batch, view.layers) for batch in batches], dim=1)
    counts = [len(photo.pixels) for photo in photos]
    for photo, of_tiles in zip(photos, torch.split(values, counts, dim=1), strict=True):
        yield Patches(joined(of_tiles, photo.rows, photo.columns), photo.geometry)


def joined(values: Tensor, rows: int, columns: int) -> Tensor:
    """Tiles (L, rows * columns, h, w, D) -> one grid (L, rows * h, columns * w, D)."""
    grid = values.unflatten(1, (rows, columns))  # type: ignore[no-untyped-call]
    return grid.transpose(2, 3).flatten(1, 2).flatten(2, 3)  # type: ignore[no-any-return]
