"""Segmentation: which of several labels each pixel of a photo has.

With c_w the cosine of a pixel with word w, and scale s (SCLIP, Wang et al. 2023, its
`clip_segmentor.py`):

    p_w = softmax over all words of s c_w
    label of a pixel = the one with the most probable word, or background below the threshold
"""

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
from patchword.options import checked, checked_probability, text_list
from patchword.scope import Check
from patchword.show import label_map
from patchword.show.percent import share as percent
from patchword.show.result import Pictured
from patchword.tasks.label_cache import label_features
from patchword.text.templates import PLAIN, resolve_templates
from patchword.where.auto import usual_of
from patchword.where.dense import EDITS
from patchword.where.heatmap import cosines, resolve
from patchword.where.photo_maps import HEAD, mapped, refined
from patchword.where.presence import LEAST, likely
from patchword.where.rle import rle
from patchword.where.windows import Progress, Scale

BACKGROUND = "background"
WORDS = (BACKGROUND,)  # the background's words by default, as in ClearCLIP's lists of classes
NAMED = 12  # labels without pixels that a picture's title names
BAND = 1 << 23  # values of all words that are computed at a time

Floats = NDArray[np.float32]
Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Rule:
    """How cosines become labels.

    logit_scale  cosines are multiplied by it before the softmax
    threshold    a pixel is background if no label has this probability, 0 to 1
    least_area   a label is left out if its share of the pixels of all labels, 0 to 1, is not larger
    least        a label is left out if its probability in the photo, `Segmentation.present`, is
                 lower
    """

    logit_scale: float
    threshold: float = 0.0
    least_area: float = 0.0
    least: float = 0.0


@dataclass(frozen=True)
class Share:
    """The share of a photo's pixels that have a label, 0 to 1; the mean of its probability there:
    None if it has no pixel, 0 for a background without words; and the probability that it is in the
    photo, see `Segmentation.present`: None for the background."""

    label: str
    share: float
    probability: float | None
    present: float | None


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(Pictured):
    """The label of each pixel; labels are numbered from 1, 0 is the background.

    grid      (W, h, w) float32: the cosines of all words
    owners    (W,): the number of the label that each word belongs to
    method    the method that made the map
    present   the probability, 0 to 1, that each label is in the photo, by a head trained with masks
              and the background's words; None without one of these
    progress  called with (rows or labels done, all of them) as pixels are computed
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    labels: tuple[str, ...]
    owners: tuple[int, ...]
    grid: Floats
    geometry: Geometry
    cell: int | None
    method: str
    rule: Rule
    present: tuple[float, ...] | None = None
    progress: Progress | None = None

    @property
    def map(self) -> Labels:
        """(H, W) in the image's own pixels: 0 for the background, i for `labels[i - 1]`. uint8, or
        uint16 for more than 255 labels."""
        return self._map_and_shares[0]

    @property
    def shares(self) -> tuple[Share, ...]:
        """The share of the background, then of each label."""
        return self._map_and_shares[1]

    @cached_property
    def _map_and_shares(self) -> tuple[Labels, tuple[Share, ...]]:
        count = len(self.labels) + 1
        dropped = [n for n, p in enumerate(self.present or (), 1) if p < self.rule.least]
        if self.rule.least_area:
            areas = np.zeros(count, np.int64)
            for band in self._probabilities(count):
                band[dropped] = 0
                areas += np.bincount(band.argmax(axis=0).ravel(), minlength=count)
            dropped += too_small(areas, self.rule.least_area)
        label_map = np.empty(self.image.shape[:2], np.uint8 if count <= 256 else np.uint16)
        pixels, sums = np.zeros(count, np.int64), np.zeros(count)
        top = 0
        for band in self._probabilities(count):
            band[dropped] = 0
            labels, best = decided(band, self.rule.threshold)
            label_map[top : top + len(labels)] = labels
            pixels += np.bincount(labels.ravel(), minlength=count)
            sums += np.bincount(labels.ravel(), best.ravel(), minlength=count)
            top += len(labels)
        names = (BACKGROUND, *self.labels)
        present = (None, *(self.present or [None] * len(self.labels)))
        shares = tuple(
            Share(name, int(n) / label_map.size, float(total / n) if n else None, p)
            for name, n, total, p in zip(names, pixels, sums, present, strict=True)
        )
        return label_map, shares

    def _probabilities(self, count: int) -> Iterator[Floats]:
        """The probabilities (count, rows, W) of all rows of the photo, some rows at a time."""
        height, width = self.image.shape[:2]
        step = max(BAND // (len(self.owners) * width), 1)
        for top in range(0, height, step):
            rows = range(top, min(top + step, height))
            band = self.geometry.to_source(self.grid, self.cell, rows)
            yield probabilities(band, self.owners, count, self.rule.logit_scale)
            if self.progress:
                self.progress(rows.stop, height)

    def rle(self) -> dict[str, dict[str, Any]]:
        """The mask of each label that has pixels as COCO's run lengths, {"size", "counts"}."""
        masks = {}
        for number, label in enumerate(self.labels, start=1):
            mask = self.map == number
            if mask.any():
                masks[label] = rle(mask)
            if self.progress:
                self.progress(number, len(self.labels))
        return masks

    @checked
    def picture(self, title: str = "") -> Image.Image:
        """The photo under the labels' colours, and a legend: the largest label first, the
        background last. The title names the labels without pixels."""
        background, *labels = enumerate(self.shares)
        labels.sort(key=lambda item: -item[1].share)
        legend = [
            (number, each.label, percent(each.share))
            for number, each in (*labels, background)
            if each.share
        ]
        missing = [each.label for _, each in labels if not each.share]
        if missing:
            title += f"\nno pixels: {listed(missing, NAMED)}"
        return label_map.picture(self.image, self.map, legend, title)

    @checked
    def save_map(self, path: str | os.PathLike[str]) -> None:
        """Write `map` as a PNG: each pixel is the number of its label, with the colours of
        `picture` as its palette; 16-bit grey for more than 255 labels. Raises UnsupportedError for
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
    present: float | None = None,
    progress: Progress | None = None,
) -> Segmentation:
    """The label of each pixel (SCLIP, Wang et al. 2023, its `clip_segmentor.py`).

    labels      "dog|puppy" is one label with two words, named after the first
    background  words for what no label fits; None: "background" itself; []: no words, so that only
                pixels below `threshold` are background
    templates   sentences that words are put in, see `classify`; None: see `usual_templates`
    method      one of `dense.EDITS`, or "head" of a model that has one; "auto": see `auto.usual`
    scale, refine  see `heatmap`
    logit_scale, threshold, least_area  see `Rule`; None: the scale of the head, or of the model
    present     the least probability of a label in the photo, see `Rule.least`; None: as in a
                heatmap with "head" and words for the background, else 0

    Raises ImageError, and UnsupportedError for no labels, empty or repeated ones, for numbers out
    of range, for `present` where that probability is not known, and for a model without a text
    tower.
    """
    chosen = dense_method(model, method, scale)
    names, words, owners = read_labels(labels, WORDS if background is None else background)
    check = Check(model.scope, model.name)
    check.texts([word for word in words if word not in WORDS])
    check.places(words)
    least = _least(chosen, 0 in owners, present)
    rule = checked_rule(model, chosen, logit_scale, threshold, least_area, least)
    vectors = word_vectors(model, words, templates or usual_templates(chosen))
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
    """Like `segment`, from the unit vectors (W, D) of words. owners: (W,) the number of the label
    that each word belongs to, 0 for the background. Raises ImageError."""
    photo = model.opener(image, exact=True)
    run = partial(cosines, model, vectors, method)
    head = model.config.dense_head if method == HEAD else None
    grid = mapped(model, image, photo, run, scale, refine and not head, progress, method)
    present = None
    if head and 0 in owners:
        present = present_labels(grid.values, owners, len(names), head.scale)
    if head and refine:  # after the probabilities, as in `heatmap`
        grid = refined(photo, grid)
    return Segmentation(
        photo, names, owners, grid.values, grid.geometry, grid.cell, method, rule, present
    )


def present_labels(
    cosines: Floats, owners: Sequence[int], count: int, scale: float
) -> tuple[float, ...]:
    """The probability of each of `count` labels in a photo, that of its most probable word, from
    the cosines (W, h, w) of a head for all words. See `presence.likely`."""
    label_of = np.array(owners)
    of_words = likely(cosines, cosines[label_of == 0].max(axis=0), scale)
    of_labels = np.zeros(count + 1)
    np.maximum.at(of_labels, label_of, of_words)
    return tuple(of_labels[1:].tolist())


def _least(method: str, has_background: bool, present: float | None) -> float:
    """The least probability of a label, by default where it is known that of a heatmap. Raises
    UnsupportedError for one that is given and cannot be compared."""
    checked_probability("present", present)
    known = method == HEAD and has_background
    if present and not known:
        if method == HEAD:
            raise UnsupportedError("present needs words for the background, to compare with")
        raise UnsupportedError(f"present is of method {HEAD!r}, not of {method!r}")
    if present is None:
        return LEAST if known else 0.0
    return present


def dense_method(model: Bundle, method: str, scale: Scale | None = None) -> str:
    """The method of that name, "auto" resolved: one of `dense.EDITS`, or a model's head for maps.
    Raises UnsupportedError for another."""
    able = (*EDITS, HEAD)
    if method == "auto":
        return usual_of(model, able)
    resolved = resolve(model, method, scale=scale)
    if resolved not in able:
        raise UnsupportedError(
            f"method {resolved!r} has no cosines to compare labels by; there are {', '.join(able)}"
        )
    return resolved


def read_labels(
    labels: str | Sequence[str], background: str | Sequence[str]
) -> tuple[tuple[str, ...], list[str], tuple[int, ...]]:
    """The names of the labels; the words of the background and of all labels; for each word the
    number of its label, from 1, or 0 for the background."""
    labels = text_list(labels)
    if not labels:
        raise UnsupportedError("segment needs at least one label")
    words = [*text_list(background)]
    owners, names = [0] * len(words), []
    for number, label in enumerate(labels, start=1):
        synonyms = [word.strip() for word in label.split("|")]
        names.append(synonyms[0])
        words += synonyms
        owners += [number] * len(synonyms)
    if empty := [word for word in words if not word.strip()]:
        raise UnsupportedError(f"an empty label is given: {empty[0]!r}, among {labels!r}")
    if BACKGROUND in names:
        raise UnsupportedError(
            f"{BACKGROUND!r} is what no label fits, and there without being named; words for it "
            "are given by background"
        )
    if twice := [word for word in words if words.count(word) > 1]:
        raise UnsupportedError(f"{twice[0]!r} is given twice, as a label or for the background")
    return tuple(names), words, tuple(owners)


def checked_rule(
    model: Bundle,
    method: str,
    logit_scale: float | None,
    threshold: float,
    least_area: float,
    least: float = 0.0,
) -> Rule:
    """The rule with these numbers; a logit scale of None is that of the head, or of the model.
    Raises UnsupportedError for numbers out of range."""
    for name, value in (("threshold", threshold), ("least_area", least_area)):
        if not 0 <= value <= 1:
            raise UnsupportedError(f"{name} is {value!r}; it is a share, 0 to 1")
    if logit_scale is not None and not 0 < logit_scale < math.inf:
        raise UnsupportedError(f"logit_scale is {logit_scale!r}; it is a finite number above 0")
    head = model.config.dense_head if method == HEAD else None
    default = model.scale if head is None else head.scale
    return Rule(logit_scale or default, threshold, least_area, least)


def usual_templates(method: str) -> tuple[str, ...]:
    """The templates by default. A head has learned from words as they are, as heatmaps use them:
    so a label is in the photo by both or by none."""
    return ("{}",) if method == HEAD else PLAIN


def word_vectors(
    model: Bundle, words: Sequence[str], templates: str | Sequence[str]
) -> torch.Tensor:
    """Unit vectors (W, D) of words, each the mean over the templates."""
    if not model.config.embed_dim:
        model.embed_texts(words[:1])  # raises the error that says why
    sentences = resolve_templates(templates)
    return torch.from_numpy(label_features(model, words, sentences)).to(model.device)


def probabilities(cosines: Floats, owners: Sequence[int], count: int, scale: float) -> Floats:
    """The probabilities (count, H, W) of labels from the cosines (n, H, W) of their n words: a
    softmax over all words, then the largest of each label's words."""
    of_words = cosines * np.float32(scale)
    of_words -= of_words.max(axis=0)
    np.exp(of_words, out=of_words)
    of_words /= of_words.sum(axis=0)
    of_labels = np.zeros((count, *of_words.shape[1:]), np.float32)
    for word, owner in enumerate(owners):
        np.maximum(of_labels[owner], of_words[word], out=of_labels[owner])
    return of_labels


def too_small(areas: NDArray[np.int64], least: float) -> list[int]:
    """The labels with areas (C,) in pixels whose share of the area of all labels is not above
    `least`. The first area, the background's, does not count."""
    limit = least * areas[1:].sum()
    return [n for n in range(1, len(areas)) if areas[n] <= limit]


def decided(probable: Floats, threshold: float) -> tuple[NDArray[np.intp], Floats]:
    """From probabilities (C, H, W) the label of each pixel (H, W), 0 below the threshold, and its
    probability (H, W)."""
    labels = probable.argmax(axis=0)
    best: Floats = probable.max(axis=0)
    unsure = best < threshold
    labels[unsure] = 0
    best[unsure] = probable[0][unsure]
    return labels, best
