"""Boxes and masks of what texts name, in a photo's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.images import ImageLike
from patchword.models.edits import DenseEdit
from patchword.options import checked, checked_probability, text_list
from patchword.scope import Check
from patchword.show import label_map
from patchword.show.result import Brief, Pictured
from patchword.visible_area import untold
from patchword.where.auto import usual_of
from patchword.where.dense import OF_PATCHES, dense, edit_of, on_grid
from patchword.where.heatmap import of_texts, resolve
from patchword.where.photo_maps import HEAD, mapped, refined
from patchword.where.presence import LEAST, least, likely
from patchword.where.presence import present as probabilities
from patchword.where.regions import Mask, parts
from patchword.where.rle import rle
from patchword.where.segment import dense_method
from patchword.where.windows import Grid, Mapper, Progress, Scale

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; x2 and y2 lie beyond the last pixel


@dataclass(frozen=True, repr=False)
class Region(Brief):
    """A part of a photo that a text names.

    score  the highest cosine of the text's map in the region; for a given box the cosine of the
           text with the mean of the dense features inside
    box    (x1, y1, x2, y2) in pixels of the photo; x2 and y2 lie beyond the last pixel
    area   in pixels
    mask   (y2 - y1, x2 - x1): which pixels of the box belong to the region; None for a given box
    crop   for a given box: the cosine of the text with the encoded crop
    """

    text: str
    score: float
    box: Box
    area: int
    mask: Mask | None = field(default=None, compare=False)
    crop: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Located(Pictured):
    """Where the texts are: `regions`, the largest first; for given boxes, each box with each text.

    present  the probability, 0 to 1, that each text is in the photo; None for given boxes
    least    texts that are less probable have no regions
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    texts: tuple[str, ...]
    regions: tuple[Region, ...]
    method: str
    present: tuple[float, ...] | None
    least: float

    @property
    def missing(self) -> tuple[str, ...]:
        """The texts without regions."""
        found = {region.text for region in self.regions}
        return tuple(text for text in self.texts if text not in found)

    @checked
    def mask(self, region: Region) -> Mask:
        """A region's mask in the whole photo, (H, W)."""
        out = np.zeros(self.image.shape[:2], np.bool_)
        x1, y1, x2, y2 = region.box
        out[y1:y2, x1:x2] = True if region.mask is None else region.mask
        return out

    @checked
    def rle(self, region: Region) -> dict[str, Any]:
        """A region's mask as COCO's run lengths."""
        return rle(self.mask(region))

    @checked
    def picture(self, title: str = "") -> Image.Image:
        """The photo under the regions in their texts' colours, with their boxes and a legend."""
        numbers = {text: number for number, text in enumerate(self.texts, start=1)}
        labels = np.zeros(self.image.shape[:2], np.uint16)
        for region in reversed(self.regions):  # small regions above large ones
            if region.mask is not None:
                x1, y1, x2, y2 = region.box
                labels[y1:y2, x1:x2][region.mask] = numbers[region.text]
        drawn = [region for region in self.regions if region.mask is not None]
        if not drawn:  # each given box in the colour of the text that fits it best
            by_score = sorted(self.regions, key=lambda region: region.score)
            drawn = list({region.box: region for region in by_score}.values())
        boxes = [(numbers[region.text], region.box) for region in drawn]
        legend = [(numbers[text], text, self._summary(text)) for text in self.texts]
        return label_map.picture(self.image, labels, legend, title, boxes)

    def _summary(self, text: str) -> str:
        """The legend of a text: its number of regions and its highest score."""
        scores = [region.score for region in self.regions if region.text == text]
        if not scores:
            return "not found"
        best = f"{max(scores):.3f}"
        return best if len(scores) == 1 else f"{len(scores)} regions, best {best}"


def locate(
    model: Bundle,
    image: ImageLike,
    texts: str | Sequence[str],
    boxes: Sequence[Sequence[int]] | None = None,
    method: str = "auto",
    scale: Scale | None = None,
    refine: bool = False,
    present: float | None = None,
    negatives: str | Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Located:
    """The regions of each text that is in a photo.

    A region is connected by sides or corners. With a model that has a head for maps it is where the
    text's map is above the background's; lines are continued at their ends (see `regions.parts`).
    Else it is where the map is above the middle between its median and its maximum. Regions smaller
    than a tenth of the text's largest are left out. Measured: docs/benchmarks.md.

    boxes    (x1, y1, x2, y2) in pixels: score these boxes instead of searching regions
    method   one of `dense.EDITS`, or "head"; with `boxes` one of `dense.OF_PATCHES`; "auto": see
             `auto.usual`
    scale, refine  see `heatmap`
    present  a text with a lower probability has no regions. None: 0.5 against `negatives`; else
             0.65 with a head, whose maps give the probability (see `presence.likely`), and 0.1
             without one (see `presence.present`)

    Raises ImageError, and UnsupportedError for invalid texts and boxes, and for a model without a
    text tower.
    """
    names = _checked_texts(texts)
    if boxes is None:
        chosen = dense_method(model, method, scale)
    elif method == "auto":
        chosen = usual_of(model, OF_PATCHES)
    else:
        chosen = resolve(model, method, scale=scale)
    checked_probability("present", present)
    if boxes is not None and (refine or present is not None or negatives is not None):
        raise UnsupportedError(
            "boxes are scored as they are: leave out refine, present and negatives, or boxes"
        )
    if boxes is not None and chosen not in OF_PATCHES:
        raise UnsupportedError(
            f"method {chosen!r} has no features of boxes; there are {', '.join(OF_PATCHES)}"
        )
    Check(model.scope, model.name).places(names)
    photo = model.opener(image, exact=True)
    if boxes is not None:
        checked_boxes = _checked_boxes(boxes, photo)
        run: Mapper = partial(_features, model, edit_of(chosen))
        features = mapped(model, image, photo, run, scale, False, progress, chosen)
        scored = _scored_boxes(model, photo, names, checked_boxes, features)
        return Located(photo, names, scored, chosen, None, 0.0)
    run = of_texts(model, names, chosen, None)
    head = model.config.dense_head if chosen == HEAD else None
    maps = mapped(model, image, photo, run, scale, refine and not head, progress, chosen)
    if head and negatives is None:
        probable = likely(maps.values[:-1], maps.values[-1], head.scale)
        threshold = LEAST
    else:
        threshold = least(negatives)
        with untold():  # `mapped` has warned of the photo
            probable = probabilities(model.opening(squash=True), photo, names, negatives)
    if present is not None:
        threshold = present
    if head and refine:  # after the probabilities, as in `heatmap`
        maps = refined(photo, maps)
    background = len(names) if head else None  # the number of its map
    in_photo = [number for number, p in enumerate(probable) if p >= threshold]
    regions: list[Region] = []
    for done, number in enumerate(in_photo, start=1):
        regions += regions_of(names[number], number, maps, background)
        if progress:
            progress(done, len(in_photo))
    regions.sort(key=lambda region: -region.area)
    return Located(photo, names, tuple(regions), chosen, probable, threshold)


def _checked_texts(texts: str | Sequence[str]) -> tuple[str, ...]:
    texts = text_list(texts)
    if not texts:
        raise UnsupportedError("locate needs at least one text")
    if empty := [text for text in texts if not text.strip()]:
        raise UnsupportedError(f"a text without words is nowhere: {empty[0]!r}")
    if len(set(texts)) < len(texts):
        raise UnsupportedError(f"a text is given twice: {texts!r}")
    return tuple(texts)


def _checked_boxes(boxes: Sequence[Sequence[int]], photo: NDArray[np.uint8]) -> list[Box]:
    """Raises UnsupportedError for a box that is empty or not inside the photo."""
    height, width = photo.shape[:2]
    out: list[Box] = []
    for box in boxes:
        if len(box) != 4:
            raise UnsupportedError(f"box {list(box)!r}: it is x1, y1, x2, y2 in pixels")
        x1, y1, x2, y2 = box
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise UnsupportedError(
                f"box {list(box)!r}: x1 < x2 and y1 < y2 lie within the photo, {width} x {height}"
            )
        out.append((x1, y1, x2, y2))
    return out


def regions_of(text: str, number: int, maps: Grid, background: int | None = None) -> list[Region]:
    """The regions of the map with that number, the largest first. background: the number of the
    background's map."""
    values = maps.geometry.to_source(maps.values[number], maps.cell)
    lower = None
    if background is not None:
        lower = maps.geometry.to_source(maps.values[background], maps.cell)
    regions = []
    for (rows, columns), mask in parts(values, maps.values[number], lower):
        box = (columns.start, rows.start, columns.stop, rows.stop)
        score = float(values[rows, columns][mask].max())
        regions.append(Region(text, score, box, int(mask.sum()), mask))
    return regions


def _features(model: Bundle, edit: DenseEdit, pixels: Tensor) -> Tensor:
    """Dense features (B, D, h, w) of images (B, 3, H, W)."""
    return on_grid(model, dense(model, pixels, edit), pixels)


def _scored_boxes(
    model: Bundle,
    photo: NDArray[np.uint8],
    names: Sequence[str],
    boxes: Sequence[Box],
    features: Grid,
) -> tuple[Region, ...]:
    """Each box with each text: the cosine with the mean of the dense features in the box, weighted
    by how much of each cell the box covers, and the cosine with the encoded crop."""
    texts = model.embed_texts(names)
    crops = [np.ascontiguousarray(photo[y1:y2, x1:x2]) for x1, y1, x2, y2 in boxes]
    # Crops may look unlike the model's training images even where the photo does not.
    model_of_crops = replace(model.opening(squash=True), scope=None)
    with untold():
        crop_cosines = model_of_crops.embed_images(crops) @ texts.T  # (boxes, T)
    regions = []
    for box, of_crop in zip(boxes, crop_cosines, strict=True):
        x1, y1, x2, y2 = box
        rows, columns = _covered(features, 0, y1, y2), _covered(features, 1, x1, x2)
        mean = np.einsum("dhw,h,w->d", features.values, rows, columns)
        scores = texts @ (mean / np.linalg.norm(mean))
        area = (x2 - x1) * (y2 - y1)
        for name, score, crop in zip(names, scores, of_crop, strict=True):
            regions.append(Region(name, float(score), box, area, crop=float(crop)))
    return tuple(regions)


def _covered(grid: Grid, axis: int, start: int, stop: int) -> NDArray[np.float64]:
    """The length of each cell along an axis that lies between two pixels of the photo, in pixels of
    the network's input."""
    geometry, cells = grid.geometry, grid.values.shape[1 + axis]
    factor = geometry.resized[axis] / geometry.source[axis]
    side = grid.cell or geometry.size[axis] / cells
    edges = np.arange(cells + 1) * side
    edges[-1] = max(edges[-1], geometry.size[axis])  # for patches that do not divide the input
    first, last = np.array([start, stop]) * factor - geometry.crop[axis]
    return np.diff(edges.clip(first, last))
