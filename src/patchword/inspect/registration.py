"""How a photo lies on another of the same thing: shifted, and a little turned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RGB = NDArray[np.uint8]  # (H, W, 3)
Grey = NDArray[np.float32]  # (H, W)

SIDE = 256  # pixels to which the longer side is reduced
LEAST = 0.5  # of the photo that must stay covered along each side
ENOUGH = 0.95  # of the difference: what leaves more is no better than not to move
FLAT = 8.0  # grey levels, of 255: in a photo that varies by less there is nothing to recognise
STEP = 0.5  # degrees between the turns that are tried


@dataclass(frozen=True)
class Motion:
    """A turn about the middle, degrees counterclockwise, then a shift: shares of height and
    width, down and to the right."""

    turn: float = 0.0
    down: float = 0.0
    right: float = 0.0

    def apply(self, photo: RGB) -> RGB:
        """The photo moved, its size kept, bicubic; black where it shows nothing."""
        if self == Motion():
            return photo
        return np.asarray(self._moved(Image.fromarray(photo), Image.Resampling.BICUBIC))

    def covered(self, height: int, width: int) -> NDArray[np.bool_]:
        """Which pixels (H, W) a moved photo of that size still shows."""
        whole = Image.new("L", (width, height), 255)
        return np.asarray(self._moved(whole, Image.Resampling.NEAREST)) > 0

    def _moved(self, image: Image.Image, how: Image.Resampling) -> Image.Image:
        shift = (self.right * image.width, self.down * image.height)
        if not self.turn:  # by whole pixels, so that nothing is blurred
            shift = (round(shift[0]), round(shift[1]))
        return image.rotate(self.turn, resample=how, translate=shift)  # type: ignore[arg-type]


def register(moving: RGB, fixed: RGB, most: float = 3.0) -> Motion:
    """The motion that lays `moving` on `fixed`, two photos of one size; none where no motion makes
    their difference smaller.

    most: degrees up to which turns are tried; 0: none. For each turn the shift is the peak of the
    phase correlation (Kuglin & Hines 1975). The turn with the highest peak, those near it and no
    turn at all are then compared: how large is the mean difference of what both show, beside that
    of the same pixels without any motion?
    """
    low, still = _reduced(moving), _grey(_reduced(fixed))
    best = max(_shifts(low, still, _turns(most)), key=lambda pair: pair[0])[1].turn
    near = (best + part * STEP / 4 for part in range(-3, 4)) if most else ()
    tried = [motion for _, motion in _shifts(low, still, {0.0, *near})]
    left, motion = min(
        ((_left(each, low, still), each) for each in tried), key=lambda pair: pair[0]
    )
    return motion if left < ENOUGH else Motion()


def correlation(moved: RGB, fixed: RGB, motion: Motion) -> float:
    """The correlation of two photos' grey, where the one that was moved by `motion` shows
    something: 1 is the same but for light; 1 also where it varies by less than FLAT."""
    inside = motion.covered(*_reduced(fixed).shape[:2])
    one, other = (_grey(_reduced(each))[inside] for each in (moved, fixed))
    if float(one.std()) < FLAT:
        return 1.0
    return float(((one - one.mean()) * (other - other.mean())).mean()) / max(
        float(one.std() * other.std()), 1e-6
    )


def _left(motion: Motion, low: RGB, still: Grey) -> float:
    """The difference after a motion by that before it."""
    inside = motion.covered(*still.shape)
    before, after = (np.abs(_grey(each) - still)[inside] for each in (low, motion.apply(low)))
    return float(after.sum() / before.sum()) if before.any() else 1.0


def _turns(most: float) -> Iterable[float]:
    count = int(most / STEP)
    return (number * STEP for number in range(-count, count + 1))


def _shifts(low: RGB, still: Grey, turns: Iterable[float]) -> Iterable[tuple[float, Motion]]:
    """For each turn the height of the correlation's peak, and the motion."""
    window = np.outer(*(np.hanning(side) for side in still.shape))
    there = np.fft.rfft2((still - still.mean()) * window)
    for turn in turns:
        grey = _grey(Motion(turn).apply(low))
        here = np.fft.rfft2((grey - grey.mean()) * window)
        cross = there * here.conj()
        peaks = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-12), still.shape)
        height, down, right = _peak(peaks)
        yield height, Motion(turn, down / still.shape[0], right / still.shape[1])


def _peak(peaks: NDArray[np.float64]) -> tuple[float, float, float]:
    """The highest value among the shifts that leave enough covered, and the shift (down, right) in
    pixels; between pixels by a parabola along each axis."""
    shifts = [np.fft.fftfreq(side, 1 / side) for side in peaks.shape]
    near = [np.abs(each) <= len(each) * LEAST for each in shifts]
    found = np.where(np.outer(*near), peaks, -np.inf)
    place = np.unravel_index(int(found.argmax()), found.shape)
    at = []
    for axis, number in enumerate(place):
        line = np.take(peaks, place[1 - axis], axis=1 - axis)
        before, here, after = line[number - 1], line[number], line[(number + 1) % len(line)]
        bend = before - 2 * here + after
        at.append(float(shifts[axis][number] + (0.5 * (before - after) / bend if bend < 0 else 0)))
    return float(peaks[place]), at[0], at[1]


def _reduced(photo: RGB) -> RGB:
    image = Image.fromarray(photo)
    factor = SIDE / max(image.size)
    if factor < 1:
        size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
        image = image.resize(size, Image.Resampling.BOX)
    return np.asarray(image)


def _grey(photo: RGB) -> Grey:
    grey: Grey = photo.mean(axis=2, dtype=np.float32)
    return grey
