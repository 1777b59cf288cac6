"""Whether photos were taken as the good ones were: size, colour, brightness and contrast.

A photo is said to differ where one of its numbers x lies both

- outside of what n good photos let expect of m photos, if they are normally distributed: |x - mean|
  > t s sqrt(1 + 1/n), s their standard deviation and t Student's quantile with n - 1 degrees of
  freedom, of `RARE` / m on both sides (the prediction interval, Bonferroni for m photos); few good
  photos say little, and t is large (n = 4: 14.1 s for one photo; n = 30: 3.7 s);
- beyond the smallest and the largest of the good ones by `SHARE` of that and by a least number,
  so that nothing is said where all good photos are equal and a new one nearly so.

The brightness and contrast of those that do not differ are then held against the good ones
together, where each alone says nothing: |their mean - mean| > t s sqrt(1/m + 1/n), and more than
the same least difference.

Between grey and colour nothing is said of a few pixels, which a defect may be: one kind of photos
is grey in every pixel, the other in colour in more than `SHARE` of them.

Measured on random draws of photos taken alike (wafer scenes with and without defects, whose
brightness differs by 18% between scenes, DeepPCB; 4 to 100 good ones, 1 to 40 others) at most 8 of
1,000 runs are said to differ with 4 good photos, 5 with 10 or more. Photos 30% darker or brighter
are told in all of 1,000 runs where a scene is taken again and again with a lamp that varies by 1%
(99 of 100 for 4 good photos and 1 other), of different wafers in all for 40 photos against 100, and
in 11 of 100 at most for a single one. A board of black and white does not become brighter.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchword.errors import listed
from patchword.images.photo import RGB

RARE = 0.001  # probability of a remark on photos taken alike, of each kind of difference
SHARE = 0.1  # what lies less beyond the good photos is never told
SIDE, BRIGHTNESS, CONTRAST = 3.0, 3.0, 8.0  # nor less than so many pixels, levels, levels
UNKNOWN = (
    "an older version fitted this: photos that were taken otherwise than the good ones, and copies "
    "of good ones, are not noticed; fit it anew"
)
_REMEDY = "that alone changes scores: take photos as the good ones were taken, or new good ones"
_ROWS = 256  # of a photo at once: no copy of a large one is made


@dataclass(frozen=True)
class Look:
    """How a photo was taken. pixels: a hash of them; grey: the share of them that is, 0 to 1;
    brightness: the mean level of its grey, 0 to 255; contrast: the mean distance of levels from
    that, which a small defect hardly changes."""

    pixels: str
    height: int
    width: int
    grey: float
    brightness: float
    contrast: float

    @classmethod
    def of(cls, photo: RGB) -> Look:
        height, width = photo.shape[:2]
        made = hashlib.blake2b(f"{height} {width} ".encode(), digest_size=16)
        levels = np.arange(256)
        counts, grey = np.zeros(256), 0
        for top in range(0, height, _ROWS):
            rows = np.ascontiguousarray(photo[top : top + _ROWS])
            made.update(rows.data)
            counts += Image.fromarray(rows).convert("L").histogram()
            red, green, blue = np.moveaxis(rows, 2, 0)
            grey += int(np.count_nonzero((red == green) & (red == blue)))
        mean = float(np.average(levels, weights=counts))
        spread = float(np.average(abs(levels - mean), weights=counts))
        return cls(made.hexdigest(), height, width, grey / (height * width), mean, spread)


class Good(NamedTuple):
    """A good photo; group: as of `Calibration`, empty where all are one."""

    group: str
    look: Look

    def row(self) -> list[Any]:
        """As JSON, for `of_row`."""
        return [self.group, *astuple(self.look)]

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Good:
        """Raises TypeError and ValueError for what `row` does not make."""
        group, pixels, height, width, *levels = row
        grey, brightness, contrast = map(float, levels)
        look = Look(str(pixels), int(height), int(width), grey, brightness, contrast)
        return cls(str(group), look)


class Named(NamedTuple):
    """A photo that was inspected."""

    name: str
    group: str
    look: Look
    known: bool  # whether it is among the good ones


def short(names: Sequence[str]) -> list[str]:
    """The names of files without their folders, but for those that several have."""
    last = [os.path.basename(name) for name in names]
    count = Counter(last)
    return [one if count[one] == 1 else whole for one, whole in zip(last, names, strict=True)]


def remarks(good: Sequence[Good], photos: Sequence[Named]) -> list[str]:
    """What to say of photos, in sentences without their ends: one of those that are among the good
    ones, one of good ones that are copies of each other, and one of each kind of difference from
    the good ones of their group."""
    said = []
    if known := [each.name for each in photos if each.known]:
        are, them = ("is", "its score says") if len(known) == 1 else ("are", "their scores say")
        said.append(
            f"{_some(len(known), len(photos))} {are} among the good ones, pixel for pixel: "
            f"{listed(known)}; {them} nothing new"
        )
    once = {(each.group, each.look.pixels): each for each in good}
    if copies := len(good) - len(once):
        are = "is a copy of another" if copies == 1 else "are copies of others"
        said.append(
            f"{copies} of {len(good)} good photos {are}, pixel for pixel: a threshold from them "
            "may be too low"
        )
    for group in sorted({each.group for each in photos}):
        beside = [each.look for each in once.values() if each.group == group]
        new = [each for each in photos if each.group == group]
        start = f"{group}: " if group else ""
        said += [f"{start}{each}; {_REMEDY}" for each in _differences(beside, new)]
    return said


def _differences(good: Sequence[Look], new: Sequence[Named]) -> list[str]:
    if not good:
        return []
    said = [_size(good, new), _colour(good, new)]
    if len(good) > 1:
        said += [*_level("brightness", BRIGHTNESS, good, new)]
        said += [*_level("contrast", CONTRAST, good, new)]
    return [each for each in said if each]


def _size(good: Sequence[Look], new: Sequence[Named]) -> str:
    other = np.zeros(len(new), bool)
    ends = []
    for side in ("width", "height"):
        known, found = _values(side, good), _values(side, [each.look for each in new])
        other |= _outside(known, found, SIDE)
        ends.append(_range(known))
    sizes = [f"{each.name} ({each.look.width} x {each.look.height})" for each in new]
    return _differ(sizes, other, "size", f"{' x '.join(ends)} px")


def _colour(good: Sequence[Look], new: Sequence[Named]) -> str:
    known, other = _values("grey", good), list[Named]()
    if grey := known.min() == 1:
        other = [each for each in new if each.look.grey < 1 - SHARE]
    elif known.max() < 1 - SHARE:
        other = [each for each in new if each.look.grey == 1]
    if not other:
        return ""
    some, names = _some(len(other), len(new)), listed([each.name for each in other])
    are = "is" if len(other) == 1 else "are"
    if grey:
        return f"{some} {are} in colour, and all good ones are grey: {names}"
    return f"{some} {are} grey, and all good ones are in colour: {names}"


def _level(kind: str, least: float, good: Sequence[Look], new: Sequence[Named]) -> Iterator[str]:
    known, found = _values(kind, good), _values(kind, [each.look for each in new])
    other = _outside(known, found, least)
    levels = [f"{each.name} ({value:.0f})" for each, value in zip(new, found, strict=True)]
    yield _differ(levels, other, kind, f"{_range(known)} of 255")
    rest = found[~other]
    if _shifted(known, rest, least):
        which = f"other {len(rest)}" if other.any() else f"{len(rest)}"
        how = "more" if rest.mean() > known.mean() else "less"
        yield (
            f"the {which} photos together have {how} {kind} than the good ones: in the mean "
            f"{rest.mean():.0f} of 255, and the good ones {known.mean():.0f}"
        )


def _differ(every: Sequence[str], other: NDArray[np.bool_], kind: str, known: str) -> str:
    """Empty where none is another."""
    names = [each for each, bad in zip(every, other, strict=True) if bad]
    if not names:
        return ""
    differ = "differs" if len(names) == 1 else "differ"
    some = _some(len(names), len(every))
    return f"{some} {differ} in {kind} from the good ones ({known}): {listed(names)}"


def _outside(
    good: NDArray[np.float64], new: NDArray[np.float64], least: float
) -> NDArray[np.bool_]:
    """Which of the new numbers differ, see above."""
    far = _expected(good, RARE / len(new), 1)
    low, high = good.min(), good.max()
    beyond = (new < low - max(least, SHARE * low)) | (new > high + max(least, SHARE * high))
    found: NDArray[np.bool_] = beyond & (abs(new - good.mean()) > far)
    return found


def _shifted(good: NDArray[np.float64], new: NDArray[np.float64], least: float) -> bool:
    """Whether the new numbers together differ, see above."""
    if len(new) < 2:
        return False
    mean, far = good.mean(), _expected(good, RARE, len(new))
    return bool(abs(new.mean() - mean) > max(far, least, SHARE * mean))


def _expected(good: NDArray[np.float64], p: float, count: int) -> float:
    """How far the mean of so many photos lies from that of the good ones at most, but with
    probability p; of one good photo, beside which all have one size, 0."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    n = len(good)
    if n < 2:
        return 0.0
    return float(-stdtrit(n - 1, p / 2) * good.std(ddof=1) * math.sqrt(1 / count + 1 / n))


def _values(kind: str, looks: Sequence[Look]) -> NDArray[np.float64]:
    return np.array([getattr(each, kind) for each in looks], float)


def _range(values: NDArray[np.float64]) -> str:
    low, high = f"{values.min():.0f}", f"{values.max():.0f}"
    return low if low == high else f"{low} to {high}"


def _some(count: int, total: int) -> str:
    return "the photo" if total == 1 else f"{count} of {total} photos"
