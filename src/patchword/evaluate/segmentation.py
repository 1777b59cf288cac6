"""How well a model segments: photos, masks of their classes, and the names of the classes.

The measures are those of mmsegmentation (mmseg/evaluation/metrics/iou_metric.py): of each class
TP / (TP + FP + FN), pixels counted over all photos together, and the mean over the classes that
are in a mask or in an answer. scikit-learn's `jaccard_score` gives the same; the tests compare.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle
from patchword.errors import ImageError, PatchwordError
from patchword.evaluate.mask_files import samples
from patchword.evaluate.metrics import Indices, confusion
from patchword.images.files import picture_suffixes
from patchword.text.lines import list_lines
from patchword.where.segment import Rule, checked_rule, dense_method, segmented, word_vectors
from patchword.where.windows import Progress, Scale

IGNORED = 255  # of a mask: pixels that do not count
CLASSES = "classes.txt"
LAYOUTS = (("JPEGImages", "SegmentationClass"), ("images", "masks"), ("images", "annotations"))
SPLITS = Path("ImageSets", "Segmentation")  # where VOC lists the names of each split


@dataclass(frozen=True)
class Masked:
    """Photos and their masks."""

    path: Path
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    unmasked: int  # images without a mask


@dataclass(frozen=True)
class Settings:
    """What makes a number comparable with another: all of it is printed beside the number.

    classes            of each class its words, the first of which is its name
    templates          as they were given; None: "a photo of a {}"
    rule               scale, threshold and least area; what is below them counts as the first class
    reduce_zero_label  0 in a mask does not count, 1 is the first class
    """

    classes: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...] | None
    method: str
    rule: Rule
    scale: Scale
    refine: bool
    reduce_zero_label: bool

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        templates = list(self.templates) if self.templates else ["a photo of a {}"]
        return {
            "classes": ["|".join(words) for words in self.classes],
            "templates": templates,
            "method": self.method,
            "logit_scale": self.rule.logit_scale,
            "threshold": self.rule.threshold,
            "least_area": self.rule.least_area,
            "window": self.scale.window,
            "stride": self.scale.stride,
            "short_side": self.scale.short_side,
            "refine": self.refine,
            "ignore_index": IGNORED,
            "reduce_zero_label": self.reduce_zero_label,
        }


@dataclass(frozen=True)
class Segmented:
    """What was measured on `images` photos. counts (C, C): pixels, row = right class, column =
    predicted."""

    settings: Settings
    counts: Indices
    images: int

    @property
    def iou(self) -> NDArray[np.float64]:
        """Of each class, (C,); NaN for one that is in no mask and no answer."""
        hit = np.diag(self.counts)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - hit
        return hit / np.where(union > 0, union, np.nan)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Of each class the share of its pixels that are right, (C,); NaN for one in no mask."""
        pixels = self.counts.sum(axis=1)
        return np.diag(self.counts) / np.where(pixels > 0, pixels, np.nan)

    @property
    def mean_iou(self) -> float:
        return float(np.nanmean(self.iou))

    @property
    def pixel_accuracy(self) -> float:
        return float(np.trace(self.counts) / self.counts.sum())

    @property
    def mean_accuracy(self) -> float:
        return float(np.nanmean(self.accuracy))

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        each = zip(self.settings.classes, self.iou, self.accuracy, strict=True)
        return {
            "task": "segment",
            "images": self.images,
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "classes": [
                {"label": words[0], "iou": known(iou), "accuracy": known(accuracy)}
                for words, iou, accuracy in each
            ],
            "settings": self.settings.record(),
        }


def known(value: float) -> float | None:
    """None for NaN."""
    return None if np.isnan(value) else float(value)


@dataclass
class Segmenting:
    """A model that is measured. broken: the photos that could not be, with their reasons."""

    model: Bundle
    advance: Progress = lambda done, total: None
    broken: list[ImageError] = field(default_factory=list)

    def measure(self, data: Masked, settings: Settings) -> Segmented:
        """Raises PatchwordError where no photo can be measured, and for a mask with a class that is
        none of the settings'."""
        words = [word for each in settings.classes for word in each]
        owners = tuple(n for n, each in enumerate(settings.classes) for _ in each)
        names = tuple(each[0] for each in settings.classes)
        vectors = word_vectors(self.model, words, settings.templates)
        counts = np.zeros((len(names), len(names)), np.int64)
        done = 0
        for number, (image, file) in enumerate(zip(data.images, data.masks, strict=True), 1):
            try:
                mask = read_mask(file, len(names), settings.reduce_zero_label)
                found = segmented(
                    self.model, str(image), names[1:], owners, vectors, settings.method,
                    settings.rule, settings.scale, settings.refine,
                ).map  # fmt: skip
                if mask.shape != found.shape:
                    raise ImageError(str(file), _sizes(mask, found, image))
                counted = mask != IGNORED
                counts += confusion(
                    mask[counted].astype(np.int64), found[counted].astype(np.int64), len(names)
                )
                done += 1
            except ImageError as error:
                self.broken.append(error)
            self.advance(number, len(data.images))
        if not counts.sum():
            first = f": {self.broken[0]}" if self.broken else "; all pixels are ignored"
            raise PatchwordError(f"{data.path}: none of {len(data.images)} photos counts{first}")
        return Segmented(settings, counts, done)


def settled(
    model: Bundle,
    classes: Sequence[Sequence[str]],
    templates: Sequence[str] | None = None,
    method: str = "auto",
    logit_scale: float | None = None,
    threshold: float = 0.0,
    least_area: float = 0.0,
    scale: Scale | None = None,
    refine: bool = False,
    reduce_zero_label: bool = False,
) -> Settings:
    """The settings, as `where.segment.segment` takes them. Raises UnsupportedError for what cannot
    be."""
    chosen = dense_method(model, method, scale)
    return Settings(
        tuple(map(tuple, classes)),
        tuple(templates) if templates else None,
        chosen,
        checked_rule(model, chosen, logit_scale, threshold, least_area),
        replace(scale or Scale(), even=True),
        refine,
        reduce_zero_label,
    )


def masked(path: Path, split: str | None = None) -> Masked:
    """The photos and masks in a folder: JPEGImages and SegmentationClass, as VOC's, or images and
    masks; of the same name but for the suffix. split: only those that VOC's list of that name has.
    Raises PatchwordError where there are none, and for a mask without its photo."""
    known = [
        (path / a, path / b) for a, b in LAYOUTS if (path / a).is_dir() and (path / b).is_dir()
    ]
    if not known:
        wanted = "; ".join(" and ".join(pair) for pair in LAYOUTS)
        raise PatchwordError(f"{path}: no folders of images and masks: {wanted}")
    photos, masks = _files(known[0][0], picture_suffixes()), _files(known[0][1], {".png"})
    if split is not None:
        file = path / SPLITS / f"{split}.txt"
        if not file.is_file():
            raise PatchwordError(f"{file}: no such file; it lists the photos of the split")
        names = list_lines(str(file))
        if lost := [name for name in names if name not in masks]:
            raise PatchwordError(f"{file}: {lost[0]} has no mask in {known[0][1]}")
        masks = {name: masks[name] for name in names}
    if not masks:
        raise PatchwordError(f"{known[0][1]}: no masks; they are .png files")
    if alone := [file for stem, file in masks.items() if stem not in photos]:
        raise PatchwordError(f"{alone[0]}: no photo of that name in {known[0][0]}")
    unmasked = 0 if split else len(photos) - len(masks)
    images = tuple(photos[stem] for stem in masks)
    return Masked(path, images, tuple(masks.values()), unmasked)


def _files(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """The files in a folder with one of the suffixes, by their names without; hidden ones are left
    out."""
    return {
        file.stem: file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix.lower() in suffixes and not file.name.startswith(".")
    }


def read_classes(file: Path) -> list[list[str]]:
    """The words of each class, one class a line, in the order of the numbers in masks; synonyms are
    separated by commas or "|". Raises PatchwordError for a file without classes, and for a word
    that is there twice."""
    if not file.is_file():
        raise PatchwordError(
            f"{file}: no such file; it names the classes, one a line, synonyms separated by commas"
        )
    out = []
    for number, line in enumerate(list_lines(str(file)), start=1):
        words = [word.strip() for word in line.replace("|", ",").split(",")]
        if "" in words:
            raise PatchwordError(f"{file}, line {number}: an empty word in {line!r}")
        out.append(words)
    every = [word for words in out for word in words]
    if len(out) < 2:
        raise PatchwordError(f"{file}: {len(out)} classes; two are the least")
    if twice := [word for word in every if every.count(word) > 1]:
        raise PatchwordError(f"{file}: {twice[0]!r} is there twice")
    return out


def read_mask(file: Path, classes: int, reduce_zero_label: bool = False) -> NDArray[np.int64]:
    """The class of each pixel (H, W), `IGNORED` where none counts. Raises ImageError for a file
    that is no mask, and for a number that is no class."""
    mask = samples(file)
    if mask.ndim != 2:
        raise ImageError(
            str(file), "a mask has one number a pixel, as palette or grey PNG; this one has colours"
        )
    out = mask.astype(np.int64)
    if reduce_zero_label:
        out = np.where((out == 0) | (out == IGNORED), IGNORED, out - 1)
    numbers = np.unique(out[out != IGNORED])
    if len(numbers) and numbers[-1] >= classes:
        raise ImageError(
            str(file),
            f"it has class {numbers[-1]}; the {classes} classes are 0 to {classes - 1}, "
            f"{IGNORED} is ignored",
        )
    return out


def _sizes(mask: NDArray[Any], found: NDArray[Any], image: Path) -> str:
    (height, width), (rows, columns) = mask.shape, found.shape
    return f"a mask of {width} x {height} pixels, but {image.name} has {columns} x {rows}"
