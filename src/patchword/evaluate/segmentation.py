"""Measures of semantic segmentation, from photos, masks of their classes and names of the classes.

They are those of mmsegmentation (mmseg/evaluation/metrics/iou_metric.py): with pixels counted over
all photos together, for each class

    IoU = TP / (TP + FP + FN)

and the mean over the classes that are in a mask or in an answer. scikit-learn's `jaccard_score`
gives the same; the tests compare with it.
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
from patchword.where.segment import (
    Rule,
    checked_rule,
    dense_method,
    segmented,
    usual_templates,
    word_vectors,
)
from patchword.where.windows import Progress, Scale

IGNORED = 255  # value of a mask for pixels that do not count
CLASSES = "classes.txt"
LAYOUTS = (("JPEGImages", "SegmentationClass"), ("images", "masks"), ("images", "annotations"))
SPLITS = Path("ImageSets", "Segmentation")  # the folder of VOC's lists of splits


@dataclass(frozen=True)
class Masked:
    """Photos and their masks."""

    path: Path
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    unmasked: int  # images without a mask


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement; numbers can be compared if all of them are equal, so that they
    are printed with the numbers.

    classes            the words of each class; the first is its name
    templates          as they were given, or `usual_templates` of the method
    rule               see `where.segment.Rule`; its background is the first class
    reduce_zero_label  0 in a mask does not count, 1 is the first class
    """

    classes: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    method: str
    rule: Rule
    scale: Scale
    refine: bool
    reduce_zero_label: bool

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "classes": ["|".join(words) for words in self.classes],
            "templates": list(self.templates),
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
    """The result on `images` photos. counts (C, C): pixels, row = right class, column = predicted
    class."""

    settings: Settings
    counts: Indices
    images: int

    @property
    def iou(self) -> NDArray[np.float64]:
        """(C,); NaN for a class that is in no mask and no answer."""
        hit = np.diag(self.counts)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - hit
        return hit / np.where(union > 0, union, np.nan)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """The share of each class's pixels that are right, (C,); NaN for a class in no mask."""
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
        of_classes = zip(self.settings.classes, self.iou, self.accuracy, strict=True)
        return {
            "task": "segment",
            "images": self.images,
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "classes": [
                {"label": words[0], "iou": or_none(iou), "accuracy": or_none(accuracy)}
                for words, iou, accuracy in of_classes
            ],
            "settings": self.settings.record(),
        }


def or_none(value: float) -> float | None:
    """The value; None for NaN."""
    return None if np.isnan(value) else float(value)


@dataclass
class Segmenting:
    """Measures a model. broken: the errors of photos that could not be measured."""

    model: Bundle
    advance: Progress = lambda done, total: None
    broken: list[ImageError] = field(default_factory=list)

    def measure(self, data: Masked, settings: Settings) -> Segmented:
        """Raises PatchwordError if no photo can be measured."""
        words = [word for synonyms in settings.classes for word in synonyms]
        owners = tuple(n for n, synonyms in enumerate(settings.classes) for _ in synonyms)
        names = tuple(synonyms[0] for synonyms in settings.classes)
        vectors = word_vectors(self.model, words, settings.templates)
        counts = np.zeros((len(names), len(names)), np.int64)
        done = 0
        for number, (image, file) in enumerate(zip(data.images, data.masks, strict=True), 1):
            try:
                mask = read_mask(file, len(names), settings.reduce_zero_label)
                predicted = segmented(
                    self.model, str(image), names[1:], owners, vectors, settings.method,
                    settings.rule, settings.scale, settings.refine,
                ).map  # fmt: skip
                if mask.shape != predicted.shape:
                    raise ImageError(str(file), _sizes(mask, predicted, image))
                counted = mask != IGNORED
                counts += confusion(mask[counted], predicted[counted].astype(np.int64), len(names))
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
    """The settings from the options of `where.segment.segment`. Raises UnsupportedError for invalid
    ones."""
    chosen = dense_method(model, method, scale)
    return Settings(
        tuple(map(tuple, classes)),
        tuple(templates or usual_templates(chosen)),
        chosen,
        checked_rule(model, chosen, logit_scale, threshold, least_area),
        replace(scale or Scale(), even=True),
        refine,
        reduce_zero_label,
    )


def masked(path: Path, split: str | None = None) -> Masked:
    """The photos and masks in a folder: in JPEGImages and SegmentationClass, as in VOC, or in
    images and masks; a photo and its mask have the same name without the suffix. split: only photos
    in VOC's list of that name. Raises PatchwordError if there are none, and for a mask without a
    photo."""
    for image_name, mask_name in LAYOUTS:
        image_folder, mask_folder = path / image_name, path / mask_name
        if image_folder.is_dir() and mask_folder.is_dir():
            break
    else:
        layouts = "; ".join(" and ".join(pair) for pair in LAYOUTS)
        raise PatchwordError(f"{path}: no folders of images and masks: {layouts}")
    photos, masks = _files(image_folder, picture_suffixes()), _files(mask_folder, {".png"})
    if split is not None:
        file = path / SPLITS / f"{split}.txt"
        if not file.is_file():
            raise PatchwordError(f"{file}: no such file; it lists the photos of the split")
        names = list_lines(str(file))
        if lost := [name for name in names if name not in masks]:
            raise PatchwordError(f"{file}: {lost[0]} has no mask in {mask_folder}")
        masks = {name: masks[name] for name in names}
    if not masks:
        raise PatchwordError(f"{mask_folder}: no masks; they are .png files")
    if alone := [file for stem, file in masks.items() if stem not in photos]:
        raise PatchwordError(f"{alone[0]}: no photo of that name in {image_folder}")
    unmasked = 0 if split else len(photos) - len(masks)
    images = tuple(photos[stem] for stem in masks)
    return Masked(path, images, tuple(masks.values()), unmasked)


def _files(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """The files in a folder with one of the suffixes, by their names without it. Hidden files are
    left out."""
    return {
        file.stem: file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix.lower() in suffixes and not file.name.startswith(".")
    }


def read_classes(file: Path) -> list[list[str]]:
    """The words of each class from a file with one class a line, in the order of the numbers in
    masks; synonyms are separated by commas or "|". Raises PatchwordError for a file with fewer than
    two classes, and for a repeated word."""
    if not file.is_file():
        raise PatchwordError(
            f"{file}: no such file; it names the classes, one a line, synonyms separated by commas"
        )
    classes = []
    for number, line in enumerate(list_lines(str(file)), start=1):
        words = [word.strip() for word in line.replace("|", ",").split(",")]
        if "" in words:
            raise PatchwordError(f"{file}, line {number}: an empty word in {line!r}")
        classes.append(words)
    all_words = [word for words in classes for word in words]
    if len(classes) < 2:
        raise PatchwordError(f"{file}: {len(classes)} classes; two are the least")
    if twice := [word for word in all_words if all_words.count(word) > 1]:
        raise PatchwordError(f"{file}: {twice[0]!r} is there twice")
    return classes


def read_mask(file: Path, classes: int, reduce_zero_label: bool = False) -> NDArray[np.int64]:
    """The class of each pixel (H, W), `IGNORED` for pixels that do not count. Raises ImageError for
    a file that is no mask, and for a number that is no class."""
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


def _sizes(mask: NDArray[Any], predicted: NDArray[Any], image: Path) -> str:
    (height, width), (rows, columns) = mask.shape, predicted.shape
    return f"a mask of {width} x {height} pixels, but {image.name} has {columns} x {rows}"
