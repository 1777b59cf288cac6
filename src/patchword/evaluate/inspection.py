"""How well a method finds defects, in the layout of MVTec AD: photos, masks, and what is measured.

FOLDER/train/good/*               good photos to learn from
FOLDER/test/good/*                good photos
FOLDER/test/KIND/*                bad ones
FOLDER/ground_truth/KIND/*        for each bad photo a mask, NAME_mask.png or NAME.png: bad
                                  where it is not black; or a folder NAME of several
FOLDER/defects_config.json        of MVTec LOCO AD: how much of each kind of defect is enough
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
LARGEST = 1 << 28  # pixels of all maps: some 10 GB while they are compared
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
    """One photo of the test."""

    path: str
    kind: str
    masks: tuple[Path, ...]  # of a good one, and where there are no masks, none

    @property
    def bad(self) -> bool:
        return self.kind != GOOD


@dataclass(frozen=True)
class Category:
    """What one kind of product is measured on."""

    path: Path
    good: tuple[str, ...]
    test: tuple[Photo, ...]
    masks: bool  # whether there are any
    enough: dict[int, Saturation] | None = None  # of defects, by the level of their masks


@dataclass(frozen=True)
class Measured:
    """How well a method did. A measure that cannot be taken is None, and `missing` says why."""

    category: str
    method: str
    options: dict[str, Any]
    learned: int  # good photos
    known: int  # photos of the test that are among those, pixel for pixel
    images: int
    bad: int
    seconds: float  # for each photo of the test
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
    """The folder itself, if it holds a "test"; else those of its folders that do, sorted. Raises
    PatchwordError where there is none."""
    if (folder / TEST).is_dir():
        return [folder]
    found = [each for each in folders.subfolders(folder) if (each / TEST).is_dir()]
    if not found:
        raise PatchwordError(
            f"{folder}: no folder {TEST!r}, and none in its folders; it must hold {TRAIN}/{GOOD}, "
            f"{TEST}/KIND and {TRUTH}/KIND, as MVTec AD does"
        )
    return found


def category(folder: Path) -> Category:
    """The photos and masks of one. Raises PatchwordError for a test without photos, and for a bad
    photo without its mask where there are masks."""
    truth = folder / TRUTH
    test: list[Photo] = []
    for kind in folders.subfolders(folder / TEST):
        needed = truth.is_dir() and kind.name != GOOD
        known = by_photo(truth / kind.name) if needed else {}
        for path in folders.pictures(kind):
            masks = known.get(Path(path).stem, ())
            if needed and not masks:
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


def enough_shots(found: Category, shots: int | None) -> None:
    """Raise PatchwordError where a category has fewer good photos than are to be learned from."""
    if shots and shots > len(found.good):
        raise PatchwordError(
            f"{found.path}: {len(found.good)} good photos, fewer than the {shots} shots to learn "
            "from; leave shots out to learn from all"
        )


class Inspecting:
    """Runs methods on a category, each photo in turn. `broken`: photos that cannot be opened."""

    def __init__(
        self,
        model: Bundle,
        side: int | None = None,
        shots: int | None = None,
        advance: Progress | None = None,
    ) -> None:
        """side: pixels of the longer side at which maps and masks are compared; None: their own.
        shots: the first so many good photos alone are learned from; None: all."""
        self.model, self.side, self.shots, self.advance = model, side, shots, advance
        self.broken: list[ImageError] = []

    def measure(self, found: Category, method: Method) -> Measured:
        """Learn from the good photos, score those of the test, and compare with labels and masks.

        Raises PatchwordError where there are fewer good photos than the method needs, where a mask
        is not of its photo's size, and for more pixels of maps than memory should hold.
        """
        state, learned = self._learned(found, method)
        scores: list[float] = []
        bad: list[bool] = []
        maps: list[NDArray[np.float32]] = []
        masks: list[Mask] = []
        defects: list[list[Defect]] = []
        appearances: dict[int, Appearance] = {}
        begun = time.perf_counter()
        for photo, finding in self._found(found.test, method, state, appearances):
            scores.append(finding.score)
            bad.append(photo.bad)
            if found.masks:
                source = finding.geometry.source
                size = _fitted(source, self.side)
                maps.append(replace(finding.geometry, source=size).to_source(finding.grid))
                mask, each = read(photo.masks, photo.path, source, size, found.enough)
                masks.append(mask)
                defects.append(each)
                self._bounded(sum(each.size for each in maps), len(maps), len(found.test))
        seconds = (time.perf_counter() - begun) / max(len(scores), 1)
        if not scores:
            raise PatchwordError(f"{found.path / TEST}: none of its photos can be opened")
        own = None if found.enough is None else defects
        values, missing = measures(np.array(scores), np.array(bad), maps, masks, own)
        pixels = set(learned)
        known = sum(appearance.digest in pixels for appearance in appearances.values())
        return Measured(
            found.path.name, method.name, options_of(method), len(learned), known, len(scores),
            sum(bad), seconds, values, missing, self.side,
        )  # fmt: skip

    def _learned(self, found: Category, method: Method) -> tuple[State, list[str]]:
        """Also a hash of each photo's pixels, see `Appearance`."""
        enough_shots(found, self.shots)
        most = min(method.needs.most or len(found.good), self.shots or len(found.good))
        good = found.good[: 0 if self.shots == 0 else most]
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
                    f"{found.path / TRAIN / GOOD}: none of {len(good)} good photos can be opened: "
                    f"{self.broken[-1]}"
                )

        if len(good) < method.needs.good:
            raise PatchwordError(
                f"{found.path / TRAIN / GOOD}: {len(good)} good photos, and {method.name} needs "
                f"{method.needs.good}; winclip and mutual need none"
            )
        state = method.fit(self.model, photos())
        return state, [appearance.digest for appearance in appearances.values()]

    def _found(
        self,
        test: Sequence[Photo],
        method: Method,
        state: State,
        appearances: dict[int, Appearance],
    ) -> Iterator[tuple[Photo, Finding]]:
        """Each photo that can be opened, with its finding. appearances: see `opened_each`."""
        check = Check(self.model.scope, self.model.name)
        paths = [photo.path for photo in test]
        each = check.each(found_each(self.model, method, state, paths, check, appearances))
        for number, (photo, (_, result)) in enumerate(zip(test, each, strict=True), 1):
            if self.advance:
                self.advance(number, len(test))
            if isinstance(result, ImageError):
                self.broken.append(result)
            else:
                yield photo, result[1]

    def _bounded(self, pixels: int, done: int, total: int) -> None:
        if pixels * total > LARGEST * done:
            raise PatchwordError(
                f"the maps of {total} photos would have {pixels * total // done:,} pixels, more "
                f"than {LARGEST:,}; compare them at fewer, such as --side 1024"
            )


def measures(
    scores: NDArray[np.float64],
    bad: Mask,
    maps: Sequence[NDArray[np.float32]],
    masks: list[Mask],
    defects: Sequence[Sequence[Defect]] | None = None,
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Every measure by its name, None for those that cannot be taken, and why not. Without maps
    those of images alone. defects: of each photo, for "spro"."""
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
    of_pixels = PIXEL_METRICS if defects is None else (*PIXEL_METRICS, "spro")
    values = dict.fromkeys((*IMAGE_METRICS, *of_pixels))
    missing = {} if maps else dict.fromkeys(of_pixels, f"there is no folder {TRUTH}")
    for name, job in jobs.items():
        try:
            values[name] = job()
        except PatchwordError as error:
            missing[name] = str(error)
    return values, missing


def _fitted(source: Size, side: int | None) -> Size:
    """The size whose longer side is `side`, if that is less."""
    factor = min((side or max(source)) / max(source), 1)
    return max(round(source[0] * factor), 1), max(round(source[1] * factor), 1)
