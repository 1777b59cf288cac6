"""Segmentation: which of several labels each pixel of a photo has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError, listed
from patchword.images import ImageLike
from patchword.images.preprocess import Geometry
from patchword.options import checked, text_list
from patchword.scope import Check
from patchword.show import label_map
from patchword.show.percent import share as percent
from patchword.show.result import Pictured
from patchword.tasks.label_cache import label_features
from patchword.text.templates import resolve_templates
from patchword.where.auto import usual_of
from patchword.where.dense import EDITS
from patchword.where.heatmap import cosines, resolve
from patchword.where.photo_maps import HEAD, mapped
from patchword.where.rle import rle
from patchword.where.windows import Progress, Scale

BACKGROUND = "background"
WORDS = (BACKGROUND,)  # for it where none are given, as in ClearCLIP's lists of classes
NAMED = 12  # labels without a pixel, in a picture's title
BAND = 1 << 23  # values of all words that are computed at once

Floats = NDArray[np.float32]
Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Rule:
    """How cosines become labels.

    logit_scale  by which cosines are multiplied before the softmax
    threshold    where no label is at least as probable, 0 to 1, a pixel is background
    least_area   a label with no larger share of the pixels of all labels, 0 to 1, is left out
    """

    logit_scale: float
    threshold: float = 0.0
    least_area: float = 0.0


@dataclass(frozen=True)
class Share:
    """How much of a photo a label has, 0 to 1, and the mean of its probability there; None where
    it has no pixel. Of a background without words that is 0."""

    label: str
    share: float
    probability: float | None


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(Pictured):
    """Which label each pixel has; labels are numbered from 1, 0 is the background.

    grid    (W, h, w) float32: the cosines of all words
    owners  (W,): the label that each word belongs to
    method  that made the map
    progress  called between parts of the work on all pixels, with those that are done and all
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    labels: tuple[str, ...]
    owners: tuple[int, ...]
    grid: Floats
    geometry: Geometry
    cell: int | None
    method: str
    rule: Rule
    progress: Progress | None = None

    @property
    def map(self) -> Labels:
        """(H, W) in the image's own pixels: 0 the background, i the label number i, which is
        `labels[i - 1]`. uint8, or uint16 for more than 255 labels."""
        return self._decided[0]

    @property
    def shares(self) -> tuple[Share, ...]:
        """Of the background, then of each label."""
        return self._decided[1]

    @cached_property
    def _decided(self) -> tuple[Labels, tuple[Share, ...]]:
        count = len(self.labels) + 1
        dropped: Sequence[int] = ()
        if self.rule.least_area:
            areas = np.zeros(count, np.int64)
            for band in self._probabilities(count):
                areas += np.bincount(band.argmax(axis=0).ravel(), minlength=count)
            dropped = too_small(areas, self.rule.least_area)
        found = np.empty(self.image.shape[:2], np.uint8 if count <= 256 else np.uint16)
        pixels, sums = np.zeros(count, np.int64), np.zeros(count)
        top = 0
        for band in self._probabilities(count):
            band[list(dropped)] = 0
            labels, best = decided(band, self.rule.threshold)
            found[top : top + len(labels)] = labels
            pixels += np.bincount(labels.ravel(), minlength=count)
            sums += np.bincount(labels.ravel(), best.ravel(), minlength=count)
            top += len(labels)
        shares = tuple(
            Share(name, int(n) / found.size, float(total / n) if n else None)
            for name, n, total in zip((BACKGROUND, *self.labels), pixels, sums, strict=True)
        )
        return found, shares

    def _probabilities(self, count: int) -> Iterator[Floats]:
        """(count, rows, W) of all rows, some at a time."""
        height, width = self.image.shape[:2]
        step = max(BAND // (len(self.owners) * width), 1)
        for top in range(0, height, step):
            rows = range(top, min(top + step, height))
            band = self.geometry.to_source(self.grid, self.cell, rows)
            yield probabilities(band, self.owners, count, self.rule.logit_scale)
            if self.progress:
                self.progress(rows.stop, height)

    def rle(self) -> dict[str, dict[str, Any]]:
        """Of each label that has pixels its mask as COCO's run lengths, {"size", "counts"}."""
        found = {}
        for number, label in enumerate(self.labels, start=1):
            if (mask := self.map == number).any():
                found[label] = rle(mask)
            if self.progress:
                self.progress(number, len(self.labels))
        return found

    @checked
    def picture(self, title: str = "") -> Image.Image:
        """The photo, the labels' colours over it, and which colour is whose: the largest label
        first, the background last, and of labels without a pixel their names in the title's
        remark."""
        (_, background), *found = (item for item in enumerate(self.shares))
        found.sort(key=lambda item: -item[1].share)
        legend = [(n, each.label, percent(each.share)) for n, each in found if each.share]
        legend += [(0, background.label, percent(background.share))] * bool(background.share)
        if none := [each.label for _, each in found if not each.share]:
            title += f"\nnot found: {listed(none, NAMED)}"
        return label_map.picture(self.image, self.map, legend, title)

    @checked
    def save_map(self, path: str | os.PathLike[str]) -> None:
        """Write `map` as a PNG: each pixel is the number of its label, shown in the colour that the
        label has in `picture`; 16 bits grey for more than 255 labels. Raises UnsupportedError for
        another suffix."""
        label_map.save(self.map, path)


def segment(
    model: Bundle,
    image: ImageLike,
    labels: str | Sequence[str],
    background: str | Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
    method: str = "auto",
    scale: Scale | None = None,
    refine: bool = False,
    logit_scale: float | None = None,
    threshold: float = 0.0,
    least_area: float = 0.0,
    progress: Progress | None = None,
) -> Segmentation:
    """The label of each pixel: a softmax over the scaled cosines of all words, of a label the most
    probable of its words, of a pixel the most probable label (SCLIP, Wang et al. 2023, its
    `clip_segmentor.py`).

    labels      "dog|puppy" is a label of two words, named after the first
    background  words for what no label fits; None: "background" itself; []: no words, so that only
                `threshold` makes background
    templates   sentences that words are put in, see `classify`
    method      one of `dense.EDITS`, or "head" of a model that has one; "auto": see `auto.usual`
    scale, refine  see `heatmap`
    logit_scale, threshold, least_area  see `Rule`; None: the head's or the model's own scale

    Raises ImageError, and UnsupportedError for labels that are none, empty or twice the same, for
    numbers that cannot be, and for a model that reads no text.
    """
    chosen = dense_method(model, method, scale)
    names, words, owners = read_labels(labels, WORDS if background is None else background)
    check = Check(model.scope, model.name)
    check.texts([word for word in words if word not in WORDS])
    check.places(words)
    rule = checked_rule(model, chosen, logit_scale, threshold, least_area)
    vectors = word_vectors(model, words, templates)
    return segmented(model, image, names, owners, vectors, chosen, rule, scale, refine, progress)


def segmented(
    model: Bundle,
    image: ImageLike,
    names: tuple[str, ...],
    owners: tuple[int, ...],
    vectors: torch.Tensor,
    method: str,
    rule: Rule,
    scale: Scale | None = None,
    refine: bool = False,
    progress: Progress | None = None,
) -> Segmentation:
    """What `segment` gives, of the unit vectors (W, D) of words that belong to `owners`: 0, the
    background, or the names from 1 on. Raises ImageError."""
    photo = model.opener(image, exact=True)
    run = partial(cosines, model, vectors, method)
    found = mapped(model, image, photo, run, scale, refine, progress, method)
    return Segmentation(
        photo, names, owners, found.values, found.geometry, found.cell, method, rule
    )


def dense_method(model: Bundle, method: str, scale: Scale | None = None) -> str:
    """The method that a name stands for: one of `dense.EDITS`, or a model's head for maps. Raises
    UnsupportedError for another."""
    able = (*EDITS, HEAD)
    found = usual_of(model, able) if method == "auto" else resolve(model, method, scale=scale)
    if found not in able:
        raise UnsupportedError(
            f"method {found!r} has no cosines to compare labels by; there are {', '.join(able)}"
        )
    return found


def read_labels(
    labels: str | Sequence[str], background: str | Sequence[str]
) -> tuple[tuple[str, ...], list[str], tuple[int, ...]]:
    """The labels' names; the words of the background and of all labels; the number of the label,
    from 1, or 0, that each word belongs to."""
    given = text_list(labels)
    if not given:
        raise UnsupportedError("segment needs at least one label")
    words = [*text_list(background)]
    owners, names = [0] * len(words), []
    for number, label in enumerate(given, start=1):
        own = [word.strip() for word in label.split("|")]
        names.append(own[0])
        words += own
        owners += [number] * len(own)
    if empty := [word for word in words if not word.strip()]:
        raise UnsupportedError(f"an empty label is given: {empty[0]!r}, among {list(given)!r}")
    if BACKGROUND in names:
        raise UnsupportedError(
            f"{BACKGROUND!r} is what no label fits, and there without being named; words for it "
            "are given by background"
        )
    if twice := [word for word in words if words.count(word) > 1]:
        raise UnsupportedError(f"{twice[0]!r} is given twice, as a label or for the background")
    return tuple(names), words, tuple(owners)


def checked_rule(
    model: Bundle, method: str, logit_scale: float | None, threshold: float, least_area: float
) -> Rule:
    """The rule of these numbers; no logit scale is that of the head, or of the model. Raises
    UnsupportedError for ones that cannot be."""
    for name, value in (("threshold", threshold), ("least_area", least_area)):
        if not 0 <= value <= 1:
            raise UnsupportedError(f"{name} is {value!r}; it is a share, 0 to 1")
    if logit_scale is not None and not 0 < logit_scale < math.inf:
        raise UnsupportedError(f"logit_scale is {logit_scale!r}; it is a finite number above 0")
    head = model.config.dense_head if method == HEAD else None
    usual = model.scale if head is None else head.scale
    return Rule(logit_scale or usual, threshold, least_area)


def word_vectors(
    model: Bundle, words: Sequence[str], templates: str | Sequence[str] | None
) -> torch.Tensor:
    """Unit vectors (W, D), each the mean over the templates."""
    if not model.config.embed_dim:
        model.embed_texts(words[:1])  # says why there are none
    sentences = resolve_templates(templates)
    return torch.from_numpy(label_features(model, words, sentences)).to(model.device)


def probabilities(cosines: Floats, owners: Sequence[int], count: int, scale: float) -> Floats:
    """Of each of `count` labels (count, H, W): a softmax over the scaled cosines (W, H, W) of all
    words, and of a label the largest of its words."""
    shares = cosines * np.float32(scale)
    shares -= shares.max(axis=0)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=0)
    out = np.zeros((count, *shares.shape[1:]), np.float32)
    for word, owner in enumerate(owners):
        np.maximum(out[owner], shares[word], out=out[owner])
    return out


def too_small(areas: NDArray[np.int64], least: float) -> list[int]:
    """The labels, of areas (C,) in pixels, that have no more than a share of the area of all labels
    but the first, which is the background."""
    limit = least * areas[1:].sum()
    return [n for n in range(1, len(areas)) if areas[n] <= limit]


def decided(probable: Floats, threshold: float) -> tuple[NDArray[np.intp], Floats]:
    """The most probable label of each pixel (H, W), 0 where none is probable enough, and how
    probable that is, from (C, H, W)."""
    labels = probable.argmax(axis=0)
    best: Floats = probable.max(axis=0)
    unsure = best < threshold
    labels[unsure] = 0
    best[unsure] = probable[0][unsure]
    return labels, best
