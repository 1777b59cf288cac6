"""Whether photos were taken as the good ones were: size, colour, brightness and contrast.

A photo is reported if one of its numbers x lies outside both

- the prediction interval of the n good photos, |x - mean| > t s sqrt(1 + 1/n). s is their standard
  deviation, t the two-sided quantile of Student's distribution with n - 1 degrees of freedom at
  `RARE` / m (Bonferroni's correction for m photos). With few good photos t is large: for one photo
  the limit is 14.1 s with n = 4, and 3.7 s with n = 30;
- the range of the good photos, widened at each end by `SHARE` of that end and at least by a fixed
  amount, so that small differences are not reported where all good photos are equal.

The mean brightness and contrast of the photos that are not reported are then compared with those of
the good photos: |their mean - mean| > t s sqrt(1/m + 1/n), and more than the same least difference.

Colour is compared in many pixels only, for a defect may be of a few coloured pixels: all photos of
one kind must be grey in every pixel, and those of the other in colour in more than `SHARE` of them.

Measured on random draws of photos taken alike (wafer scenes with and without defects, whose
brightness differs by 18% between scenes, DeepPCB; 4 to 100 good photos, 1 to 40 others): at most 8
of 1,000 runs give a remark with 4 good photos, 5 with 10 or more. Photos 30% darker or brighter are
reported in all of 1,000 runs where one scene is taken again and again with a lamp that varies by 1%
(99 of 100 for 4 good photos and 1 other); of different wafers in all runs for 40 photos against
100, and in at most 11 of 100 for a single photo. A board of black and white does not become
brighter.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword.errors import listed
from patchword.images.photo import RGB

RARE = 0.001  # probability of a remark on photos taken alike, for each kind of difference
SHARE = 0.1  # smaller differences from the good photos are never reported
# The least differences that are reported, in pixels, levels and levels of 255.
SIDE, BRIGHTNESS, CONTRAST = 3.0, 3.0, 8.0
UNKNOWN = (
    "an older version fitted this: photos that were taken otherwise than the good ones, and copies "
    "of good ones, are not noticed; fit it anew"
)
_REMEDY = "that alone changes scores: take photos as the good ones were taken, or new good ones"
_ROWS = 256  # of a photo at a time, so that no copy of a large photo is made


@dataclass(frozen=True)
class Appearance:
    """The numbers of a photo that are compared.

    digest      a hash of its pixels
    grey        the share of pixels that are grey, 0 to 1
    brightness  the mean grey level, 0 to 255
    contrast    the mean distance of grey levels from `brightness`, which a small defect hardly
                changes
    """

    digest: str
    height: int
    width: int
    grey: float
    brightness: float
    contrast: float

    @classmethod
    def of(cls, photo: RGB) -> Appearance:
        """The numbers of a photo (H, W, 3)."""
        height, width = photo.shape[:2]
        digest = hashlib.blake2b(f"{height} {width} ".encode(), digest_size=16)
        levels = np.arange(256)
        counts, grey = np.zeros(256), 0
        for top in range(0, height, _ROWS):
            rows = np.ascontiguousarray(photo[top : top + _ROWS])
            digest.update(rows.data)
            counts += Image.fromarray(rows).convert("L").histogram()
            red, green, blue = np.moveaxis(rows, 2, 0)
            grey += int(np.count_nonzero((red == green) & (red == blue)))
        mean = float(np.average(levels, weights=counts))
        contrast = float(np.average(abs(levels - mean), weights=counts))
        return cls(digest.hexdigest(), height, width, grey / (height * width), mean, contrast)


class GoodPhoto(NamedTuple):
    """A good photo; group: see `Calibration`, "" where there are no groups."""

    group: str
    appearance: Appearance

    def row(self) -> list[Any]:
        """As JSON, for `of_row`."""
        return [self.group, *astuple(self.appearance)]

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> GoodPhoto:
        """The photo that `row` wrote. Raises TypeError or ValueError for anything else."""
        group, digest, height, width, *levels = row
        grey, brightness, contrast = map(float, levels)
        numbers = Appearance(str(digest), int(height), int(width), grey, brightness, contrast)
        return cls(str(group), numbers)


class InspectedPhoto(NamedTuple):
    """A photo that was inspected."""

    name: str
    group: str
    appearance: Appearance
    known: bool  # True if it is one of the good photos


def short(names: Sequence[str]) -> list[str]:
    """Names of files without their folders, where no two files have the same name."""
    last = [os.path.basename(name) for name in names]
    count = Counter(last)
    return [base if count[base] == 1 else name for base, name in zip(last, names, strict=True)]


def some_photos(count: int, total: int) -> str:
    """The subject of a sentence about `count` of `total` photos."""
    return "the photo" if total == 1 else f"{count} of {total} photos"


def remarks(good: Sequence[GoodPhoto], photos: Sequence[InspectedPhoto]) -> list[str]:
    """Sentences, without full stops: one about photos that are among the good ones, one about good
    photos that are copies of each other, and for each group one for each kind of difference from
    its good photos."""
    sentences = []
    if known := [photo.name for photo in photos if photo.known]:
        are, scores = ("is", "its score says") if len(known) == 1 else ("are", "their scores say")
        sentences.append(
            f"{some_photos(len(known), len(photos))} {are} among the good ones, pixel for pixel: "
            f"{listed(known)}; {scores} nothing new"
        )
    different = {(photo.group, photo.appearance.digest): photo for photo in good}
    if copies := len(good) - len(different):
        are = "is a copy of another" if copies == 1 else "are copies of others"
        sentences.append(
            f"{copies} of {len(good)} good photos {are}, pixel for pixel: a threshold from them "
            "may be too low"
        )
    for group in sorted({photo.group for photo in photos}):
        of_group = [photo.appearance for photo in different.values() if photo.group == group]
        new = [photo for photo in photos if photo.group == group]
        start = f"{group}: " if group else ""
        for difference in _differences(of_group, new):
            sentences.append(f"{start}{difference}; {_REMEDY}")
    return sentences


def _differences(good: Sequence[Appearance], new: Sequence[InspectedPhoto]) -> list[str]:
    if not good:
        return []
    sentences = [_size(good, new), _colour(good, new)]
    if len(good) > 1:
        sentences += _level("brightness", BRIGHTNESS, good, new)
        sentences += _level("contrast", CONTRAST, good, new)
    return [sentence for sentence in sentences if sentence]


def _size(good: Sequence[Appearance], new: Sequence[InspectedPhoto]) -> str:
    """A sentence about photos of other sizes; "" for none."""
    differs = np.zeros(len(new), bool)
    ranges = []
    for side in ("width", "height"):
        expected, actual = _values(side, good), _values(side, [each.appearance for each in new])
        differs |= _outside(expected, actual, SIDE)
        ranges.append(_range(expected))
    names = [f"{each.name} ({each.appearance.width} x {each.appearance.height})" for each in new]
    return _differ(names, differs, "size", f"{' x '.join(ranges)} px")


def _colour(good: Sequence[Appearance], new: Sequence[InspectedPhoto]) -> str:
    """A sentence about photos in colour among grey ones, or the reverse; "" for none."""
    shares = _values("grey", good)
    all_grey = bool(shares.min() == 1)
    if all_grey:
        names = [photo.name for photo in new if photo.appearance.grey < 1 - SHARE]
    elif shares.max() < 1 - SHARE:
        names = [photo.name for photo in new if photo.appearance.grey == 1]
    else:
        names = []
    if not names:
        return ""
    are = "is" if len(names) == 1 else "are"
    start = f"{some_photos(len(names), len(new))} {are}"
    if all_grey:
        return f"{start} in colour, and all good ones are grey: {listed(names)}"
    return f"{start} grey, and all good ones are in colour: {listed(names)}"


def _level(
    kind: str, least: float, good: Sequence[Appearance], new: Sequence[InspectedPhoto]
) -> list[str]:
    """Sentences about photos whose brightness or contrast differs, and about the mean of the
    rest."""
    expected, actual = _values(kind, good), _values(kind, [each.appearance for each in new])
    differs = _outside(expected, actual, least)
    names = [f"{each.name} ({value:.0f})" for each, value in zip(new, actual, strict=True)]
    sentences = [_differ(names, differs, kind, f"{_range(expected)} of 255")]
    rest = actual[~differs]
    if _shifted(expected, rest, least):
        which = f"other {len(rest)}" if differs.any() else f"{len(rest)}"
        how = "more" if rest.mean() > expected.mean() else "less"
        sentences.append(
            f"the {which} photos together have {how} {kind} than the good ones: in the mean "
            f"{rest.mean():.0f} of 255, and the good ones {expected.mean():.0f}"
        )
    return sentences


def _differ(names: Sequence[str], differs: NDArray[np.bool_], kind: str, expected: str) -> str:
    """A sentence about the photos that differ; "" for none."""
    chosen = [name for name, bad in zip(names, differs, strict=True) if bad]
    if not chosen:
        return ""
    differ = "differs" if len(chosen) == 1 else "differ"
    some = some_photos(len(chosen), len(names))
    return f"{some} {differ} in {kind} from the good ones ({expected}): {listed(chosen)}"


def _outside(
    good: NDArray[np.float64], new: NDArray[np.float64], least: float
) -> NDArray[np.bool_]:
    """Which of the new numbers differ, see the top of this file."""
    interval = _interval(good, RARE / len(new), 1)
    low, high = good.min(), good.max()
    out_of_range = (new < low - max(least, SHARE * low)) | (new > high + max(least, SHARE * high))
    differs: NDArray[np.bool_] = out_of_range & (abs(new - good.mean()) > interval)
    return differs


def _shifted(good: NDArray[np.float64], new: NDArray[np.float64], least: float) -> bool:
    """True if the mean of the new numbers differs, see the top of this file."""
    if len(new) < 2:
        return False
    mean, interval = good.mean(), _interval(good, RARE, len(new))
    return bool(abs(new.mean() - mean) > max(interval, least, SHARE * mean))


def _interval(good: NDArray[np.float64], p: float, count: int) -> float:
    """Half the width of the prediction interval, at level 1 - p, of the mean of `count` photos; 0
    from a single good photo."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    n = len(good)
    if n < 2:
        return 0.0
    return float(-stdtrit(n - 1, p / 2) * good.std(ddof=1) * math.sqrt(1 / count + 1 / n))


def _values(kind: str, appearances: Sequence[Appearance]) -> NDArray[np.float64]:
    return np.array([getattr(each, kind) for each in appearances], float)


def _range(values: NDArray[np.float64]) -> str:
    low, high = f"{values.min():.0f}", f"{values.max():.0f}"
    return low if low == high else f"{low} to {high}"
