"""Boxes and masks of what texts name, in a photo's own pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from patchword.where.photo_maps import HEAD, mapped
from patchword.where.presence import least
from patchword.where.presence import present as probabilities
from patchword.where.regions import Mask, parts
from patchword.where.rle import rle
from patchword.where.segment import dense_method
from patchword.where.windows import Grid, Mapper, Progress, Scale

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; x2 and y2 lie beyond the last pixel


@dataclass(frozen=True, repr=False)
class Region(Brief):
    """A part of a photo that a text names.

    score  the highest cosine of the text's map in it; of a box that was given, the cosine of the
           text with the mean of the dense features inside
    box    (x1, y1, x2, y2), in pixels of the photo; x2 and y2 lie beyond the last pixel
    area   pixels
    mask   (y2 - y1, x2 - x1): which pixels of the box; None for a box that was given
    crop   of a box that was given: the cosine of the text with the box cut out and encoded
    """

    text: str
    score: float
    box: Box
    area: int
    mask: Mask | None = field(default=None, compare=False)
    crop: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Located(Pictured):
    """Where the texts are: `regions`, the largest first; of boxes that were given, each box with
    each text.

    present  how probable each text is in the photo, 0 to 1; None where that was not asked
    least    a text that is less probable is not found
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    texts: tuple[str, ...]
    regions: tuple[Region, ...]
    method: str
    present: tuple[float, ...] | None
    least: float

    @property
    def missing(self) -> tuple[str, ...]:
        """The texts that were not found."""
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
        """The photo, the regions over it in their texts' colours with their boxes, and which colour
        is whose."""
        numbers = {text: number for number, text in enumerate(self.texts, start=1)}
        labels = np.zeros(self.image.shape[:2], np.uint16)
        for region in reversed(self.regions):  # small ones above large ones
            if region.mask is not None:
                x1, y1, x2, y2 = region.box
                labels[y1:y2, x1:x2][region.mask] = numbers[region.text]
        # A box that was given has the colour of the text that fits it best.
        best = {region.box: region for region in sorted(self.regions, key=lambda r: r.score)}
        drawn = [r for r in self.regions if r.mask is not None] or best.values()
        boxes = [(numbers[region.text], region.box) for region in drawn]
        legend = [(numbers[text], text, words) for text, words in self._told()]
        return label_map.picture(self.image, labels, legend, title, boxes)

    def _told(self) -> Iterator[tuple[str, str]]:
        """Of each text its name and what the legend says: the highest score, of how many."""
        for text in self.texts:
            scores = [region.score for region in self.regions if region.text == text]
            several = f"{len(scores)} regions, best " if len(scores) > 1 else ""
            yield text, f"{several}{max(scores):.3f}" if scores else "not found"


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

    A region is a connected part of the photo, by sides or corners, where the text's map is above
    the background's, of a model that has a head for maps; a line goes on at its ends where it is
    nearly so (see `extent.parts`). Of others it is where the map is more than half of the way up
    from its median to its peak. It is at least a tenth as large as the text's largest. Measured:
    docs/benchmarks.md.

    boxes    (x1, y1, x2, y2) in pixels: no regions are looked for; each of these is scored
    method   one of `dense.EDITS`, or without `boxes` "head"; with them of `dense.OF_PATCHES`;
             "auto": see `auto.usual`
    scale, refine  see `heatmap`
    present  how probable a text must be in the photo, against `negatives` (see `present.present`).
             None: 0.5 against them, else 0.1; where there is a head, which tells what is not there,
             and no `negatives`: that is not asked

    Raises ImageError, and UnsupportedError for texts and boxes that cannot be, and for a model that
    reads no text.
    """
    names = _texts(texts)
    # Features of a box are those of patches, which a head for maps does not have.
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
        given = _boxes(boxes, photo)
        run: Mapper = partial(_features, model, edit_of(chosen))
        found = mapped(model, image, photo, run, scale, False, progress, chosen)
        scored = _scored(model, photo, names, given, found)
        return Located(photo, names, scored, chosen, None, 0.0)
    run = of_texts(model, names, chosen, None)
    found = mapped(model, image, photo, run, scale, refine, progress, chosen)
    against = len(names) if chosen == HEAD else None  # the map of the background

    def regions(numbers: Sequence[int]) -> tuple[Region, ...]:
        every: list[Region] = []
        for done, number in enumerate(numbers, start=1):
            every += regions_of(names[number], number, found, against)
            if progress:
                progress(done, len(numbers))
        return tuple(sorted(every, key=lambda each: -each.area))

    if present is None and negatives is None and chosen == HEAD:
        return Located(photo, names, regions(range(len(names))), chosen, None, 0.0)
    present = least(negatives) if present is None else present
    with untold():  # the whole is seen, as the maps show it
        probable = probabilities(model.opening(squash=True), photo, names, negatives)
    kept = [number for number, p in enumerate(probable) if p >= present]
    return Located(photo, names, regions(kept), chosen, probable, present)


def _texts(texts: str | Sequence[str]) -> tuple[str, ...]:
    given = text_list(texts)
    if not given:
        raise UnsupportedError("locate needs at least one text")
    if empty := [text for text in given if not text.strip()]:
        raise UnsupportedError(f"a text without words is nowhere: {empty[0]!r}")
    if len(set(given)) < len(given):
        raise UnsupportedError(f"a text is given twice: {given!r}")
    return tuple(given)


def _boxes(boxes: Sequence[Sequence[int]], photo: NDArray[np.uint8]) -> list[Box]:
    """The boxes. Raises UnsupportedError for one that is none, or lies outside the photo."""
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


def regions_of(text: str, number: int, found: Grid, against: int | None = None) -> list[Region]:
    """The regions of the map with that number, the largest first; against: the number of the map
    that it must be above."""
    values = found.geometry.to_source(found.values[number], found.cell)
    below = None
    if against is not None:
        below = found.geometry.to_source(found.values[against], found.cell)
    out = []
    for (rows, columns), mask in parts(values, found.values[number], below):
        box = (columns.start, rows.start, columns.stop, rows.stop)
        score = float(values[rows, columns][mask].max())
        out.append(Region(text, score, box, int(mask.sum()), mask))
    return out


def _of_parts(model: Bundle) -> Bundle:
    """The model for parts of a photo: of a whole that it knows, they may look unlike what it was
    trained on."""
    return replace(model.opening(squash=True), scope=None)


def _features(model: Bundle, edit: DenseEdit, pixels: Tensor) -> Tensor:
    """Dense features (B, D, h, w) of images (B, 3, H, W)."""
    return on_grid(model, dense(model, pixels, edit), pixels)


def _scored(
    model: Bundle,
    photo: NDArray[np.uint8],
    names: Sequence[str],
    boxes: Sequence[Box],
    features: Grid,
) -> tuple[Region, ...]:
    """Each box with each text: by the mean of the dense features in it, each cell counting by how
    much of it the box covers, and by what is cut out and encoded."""
    texts = model.embed_texts(names)
    crops = [np.ascontiguousarray(photo[y1:y2, x1:x2]) for x1, y1, x2, y2 in boxes]
    with untold():
        encoded = _of_parts(model).embed_images(crops) @ texts.T
    out = []
    for box, crop in zip(boxes, encoded, strict=True):
        x1, y1, x2, y2 = box
        rows, columns = _covered(features, 0, y1, y2), _covered(features, 1, x1, x2)
        mean = np.einsum("dhw,h,w->d", features.values, rows, columns)
        pooled = texts @ (mean / np.linalg.norm(mean))
        for name, score, own in zip(names, pooled, crop, strict=True):
            out.append(Region(name, float(score), box, (x2 - x1) * (y2 - y1), crop=float(own)))
    return tuple(out)


def _covered(grid: Grid, axis: int, start: int, stop: int) -> NDArray[np.float64]:
    """How much of each cell along an axis lies between two pixels of the photo, in pixels of the
    network's input."""
    geometry, cells = grid.geometry, grid.values.shape[1 + axis]
    factor = geometry.resized[axis] / geometry.source[axis]
    side = grid.cell or geometry.size[axis] / cells
    edges = np.arange(cells + 1) * side
    edges[-1] = max(edges[-1], geometry.size[axis])  # patches that do not divide the input
    ends = np.array([start, stop]) * factor - geometry.crop[axis]
    inside = edges.clip(*ends)
    return np.diff(inside)
