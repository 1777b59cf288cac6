"""Measures of methods that find defects, on data in the layout of MVTec AD.

FOLDER/train/good/*               good photos to learn from
FOLDER/test/good/*                good photos
FOLDER/test/KIND/*                bad photos
FOLDER/ground_truth/KIND/*        a mask of each bad photo, NAME_mask.png or NAME.png, not black
                                  where the photo is bad; or a folder NAME of several masks
FOLDER/defects_config.json        in MVTec LOCO AD: how much of each kind of defect is enough
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle
from patchword.data import folders
from patchword.errors import ImageError, PatchwordError
from patchword.evaluate import anomaly_metrics as metrics
from patchword.evaluate.defect_masks import (
    Defect,
    Mask,
    Saturation,
    Size,
    by_photo,
    read,
    saturations,
)
from patchword.inspect.acquisition import Appearance
from patchword.inspect.methods import options_of
from patchword.inspect.photos import found_each, opened_each
from patchword.inspect.protocol import RGB, Finding, Method, Progress, State
from patchword.scope import GOOD as GOOD_PHOTOS
from patchword.scope import Check

GOOD, TRAIN, TEST, TRUTH = "good", "train", "test", "ground_truth"
MAX_PIXELS = 1 << 28  # of all maps, which take some 10 GB while they are compared
IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro", "aupimo")
SETTINGS = {
    "maps": "bilinear, not smoothed",
    "aupro": {"limit": metrics.PRO_LIMIT, "neighbours": 8, "thresholds": "every score"},
    "spro": {"limit": metrics.SPRO_LIMIT},
    "aupimo": {"bounds": metrics.PIMO_BOUNDS, "thresholds": metrics.PIMO_THRESHOLDS},
}


@dataclass(frozen=True)
class Photo:
    """A photo of the test."""

    path: str
    kind: str
    masks: tuple[Path, ...]  # () for a good photo, and for data without masks

    @property
    def bad(self) -> bool:
        return self.kind != GOOD


@dataclass(frozen=True)
class Category:
    """The data of one kind of product."""

    path: Path
    good: tuple[str, ...]
    test: tuple[Photo, ...]
    masks: bool  # True if there are any
    enough: dict[int, Saturation] | None = None  # of each kind of defect, by its level in masks


@dataclass(frozen=True)
class Measured:
    """The measures of a method. One that cannot be computed is None, and `missing` says why."""

    category: str
    method: str
    options: dict[str, Any]
    learned: int  # good photos
    known: int  # photos of the test that are among the learned ones, pixel for pixel
    images: int
    bad: int
    seconds: float  # per photo of the test
    values: dict[str, float | None]
    missing: dict[str, str]
    side: int | None

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "task": "inspect",
            "category": self.category,
            "method": self.method,
            "images": self.images,
            "bad": self.bad,
            "good_photos": self.learned,
            "known": self.known,
            "seconds": self.seconds,
            **self.values,
            "missing": self.missing,
            "options": self.options,
            "settings": {**SETTINGS, "side": self.side},
        }


def categories(folder: Path) -> list[Path]:
    """The folder itself, if it has a folder "test"; else those of its folders that have one,
    sorted. Raises PatchwordError if there are none."""
    if (folder / TEST).is_dir():
        return [folder]
    with_test = [each for each in folders.subfolders(folder) if (each / TEST).is_dir()]
    if not with_test:
        raise PatchwordError(
            f"{folder}: no folder {TEST!r}, and none in its folders; it must hold {TRAIN}/{GOOD}, "
            f"{TEST}/KIND and {TRUTH}/KIND, as MVTec AD does"
        )
    return with_test


def category(folder: Path) -> Category:
    """The photos and masks of one category. Raises PatchwordError for a test without photos, and
    for a bad photo without a mask if there is a folder of masks."""
    truth = folder / TRUTH
    test: list[Photo] = []
    for kind in folders.subfolders(folder / TEST):
        has_masks = truth.is_dir() and kind.name != GOOD
        masks_by_photo = by_photo(truth / kind.name) if has_masks else {}
        for path in folders.pictures(kind):
            masks = masks_by_photo.get(Path(path).stem, ())
            if has_masks and not masks:
                place = truth / kind.name / Path(path).stem
                raise PatchwordError(
                    f"{path}: no mask; it must be {place}_mask.png, or lie in the folder {place}"
                )
            test.append(Photo(path, kind.name, masks))
    if not test:
        raise PatchwordError(f"{folder / TEST}: no photos in its folders, one for each kind")
    train = folder / TRAIN / GOOD
    good = folders.pictures(train) if train.is_dir() else []
    return Category(folder, tuple(good), tuple(test), truth.is_dir(), saturations(folder))


def enough_shots(category: Category, shots: int | None) -> None:
    """Raise PatchwordError if a category has fewer than `shots` good photos."""
    if shots and shots > len(category.good):
        raise PatchwordError(
            f"{category.path}: {len(category.good)} good photos, fewer than the {shots} shots to "
            "learn from; leave shots out to learn from all"
        )


class Inspecting:
    """Measures methods on categories. broken: the errors of photos that cannot be opened."""

    def __init__(
        self,
        model: Bundle,
        side: int | None = None,
        shots: int | None = None,
        advance: Progress | None = None,
    ) -> None:
        """side: pixels of the longer side at which maps and masks are compared; None: the photo's
        own size. shots: learn from the first so many good photos only; None: from all."""
        self.model, self.side, self.shots, self.advance = model, side, shots, advance
        self.broken: list[ImageError] = []

    def measure(self, category: Category, method: Method) -> Measured:
        """Learn from the good photos, score those of the test, and compare with labels and masks.

        Raises PatchwordError for fewer good photos than the method needs, for a mask of another
        size than its photo, and for maps with more than `MAX_PIXELS` in all.
        """
        state, learned = self._learn(category, method)
        scores: list[float] = []
        bad: list[bool] = []
        maps: list[NDArray[np.float32]] = []
        masks: list[Mask] = []
        defects: list[list[Defect]] = []
        appearances: dict[int, Appearance] = {}
        begun = time.perf_counter()
        for photo, finding in self._findings(category.test, method, state, appearances):
            scores.append(finding.score)
            bad.append(photo.bad)
            if category.masks:
                source = finding.geometry.source
                size = _fitted(source, self.side)
                maps.append(replace(finding.geometry, source=size).to_source(finding.grid))
                mask, of_photo = read(photo.masks, photo.path, source, size, category.enough)
                masks.append(mask)
                defects.append(of_photo)
                _check_pixels(sum(map(np.size, maps)), len(maps), len(category.test))
        seconds = (time.perf_counter() - begun) / max(len(scores), 1)
        if not scores:
            raise PatchwordError(f"{category.path / TEST}: none of its photos can be opened")
        saturated = None if category.enough is None else defects
        values, missing = measures(np.array(scores), np.array(bad), maps, masks, saturated)
        digests = set(learned)
        known = sum(appearance.digest in digests for appearance in appearances.values())
        return Measured(
            category.path.name, method.name, options_of(method), len(learned), known, len(scores),
            sum(bad), seconds, values, missing, self.side,
        )  # fmt: skip

    def _learn(self, category: Category, method: Method) -> tuple[State, list[str]]:
        """The state of the method, and a hash of each photo that it learned from."""
        enough_shots(category, self.shots)
        shots = len(category.good) if self.shots is None else self.shots
        good = category.good[: min(method.needs.most or shots, shots)]
        appearances: dict[int, Appearance] = {}

        def photos() -> Iterator[RGB]:
            check = Check(self.model.scope, self.model.name)
            check.kind = GOOD_PHOTOS
            for _, photo in check.each(
                opened_each(self.model, good, method.view, check, appearances)
            ):
                if isinstance(photo, ImageError):
                    self.broken.append(photo)
                else:
                    yield photo
            if good and not appearances:
                raise PatchwordError(
                    f"{category.path / TRAIN / GOOD}: none of {len(good)} good photos can be "
                    f"opened: {self.broken[-1]}"
                )

        if len(good) < method.needs.good:
            raise PatchwordError(
                f"{category.path / TRAIN / GOOD}: {len(good)} good photos, and {method.name} needs "
                f"{method.needs.good}; winclip and mutual need none"
            )
        state = method.fit(self.model, photos())
        return state, [appearance.digest for appearance in appearances.values()]

    def _findings(
        self,
        test: Sequence[Photo],
        method: Method,
        state: State,
        appearances: dict[int, Appearance],
    ) -> Iterator[tuple[Photo, Finding]]:
        """Each photo that can be opened, with its finding. appearances: see `opened_each`."""
        check = Check(self.model.scope, self.model.name)
        paths = [photo.path for photo in test]
        results = check.each(found_each(self.model, method, state, paths, check, appearances))
        for number, (photo, (_, result)) in enumerate(zip(test, results, strict=True), 1):
            if self.advance:
                self.advance(number, len(test))
            if isinstance(result, ImageError):
                self.broken.append(result)
            else:
                yield photo, result[1]


def _check_pixels(pixels: int, done: int, total: int) -> None:
    """Raise PatchwordError if the maps of `total` photos would have too many pixels, at the average
    of the first `done`."""
    if pixels * total > MAX_PIXELS * done:
        raise PatchwordError(
            f"the maps of {total} photos would have {pixels * total // done:,} pixels, more than "
            f"{MAX_PIXELS:,}; compare them at fewer, such as --side 1024"
        )


def measures(
    scores: NDArray[np.float64],
    bad: Mask,
    maps: Sequence[NDArray[np.float32]],
    masks: list[Mask],
    defects: Sequence[Sequence[Defect]] | None = None,
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Every measure by its name, None for those that cannot be computed, and the reasons. Without
    maps only those of images. defects: of each photo, for "spro"."""
    jobs: dict[str, Callable[[], float]] = {
        "image_auroc": lambda: metrics.auroc(scores, bad),
        "image_ap": lambda: metrics.average_precision(scores, bad),
        "image_f1_max": lambda: metrics.f1_max(scores, bad)[0],
    }
    if maps:
        pixels, inside = metrics.pooled(maps, masks)
        jobs |= {
            "pixel_auroc": lambda: metrics.auroc(pixels, inside),
            "pixel_ap": lambda: metrics.average_precision(pixels, inside),
            "pixel_f1_max": lambda: metrics.f1_max(pixels, inside)[0],
            "aupro": lambda: metrics.aupro(maps, masks),
            "aupimo": lambda: float(np.nanmean(metrics.aupimo(maps, masks))),
        }
    if maps and defects is not None:
        jobs["spro"] = lambda: metrics.auspro(maps, masks, defects)
    pixel_metrics = PIXEL_METRICS if defects is None else (*PIXEL_METRICS, "spro")
    values = dict.fromkeys((*IMAGE_METRICS, *pixel_metrics))
    missing = {} if maps else dict.fromkeys(pixel_metrics, f"there is no folder {TRUTH}")
    for name, job in jobs.items():
        try:
            values[name] = job()
        except PatchwordError as error:
            missing[name] = str(error)
    return values, missing


def _fitted(source: Size, side: int | None) -> Size:
    """The size reduced to a longer side of `side`; None, or a larger side: as it is."""
    factor = min((side or max(source)) / max(source), 1)
    return max(round(source[0] * factor), 1), max(round(source[1] * factor), 1)
