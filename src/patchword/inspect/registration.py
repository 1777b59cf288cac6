"""Registration: the shift and the small rotation that lay one photo on another of the same object.

For each rotation the shift is the peak of the phase correlation (Kuglin & Hines 1975) of the two
grey photos with the Fourier transforms F and G:

    peak of the inverse transform of F conj(G) / |F conj(G)|
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RGB = NDArray[np.uint8]  # (H, W, 3)
Grey = NDArray[np.float32]  # (H, W)

SIDE = 256  # pixels to which the longer side is reduced
MAX_SHIFT = 0.5  # of each side
ENOUGH = 0.95  # a motion must reduce the difference to less than this share of it
FLAT = 8.0  # grey levels of 255: a photo with a smaller standard deviation shows no structure
STEP = 0.5  # degrees between the rotations that are tried


@dataclass(frozen=True)
class Motion:
    """A rotation about the middle, in degrees counterclockwise, then a shift down and to the right,
    in shares of height and width."""

    turn: float = 0.0
    down: float = 0.0
    right: float = 0.0

    def apply(self, photo: RGB) -> RGB:
        """The photo moved, at its own size, bicubic; black where it no longer covers a pixel."""
        if self == Motion():
            return photo
        return np.asarray(self._moved(Image.fromarray(photo), Image.Resampling.BICUBIC))

    def covered(self, height: int, width: int) -> NDArray[np.bool_]:
        """Which pixels (H, W) a moved photo of that size still covers."""
        white = Image.new("L", (width, height), 255)
        return np.asarray(self._moved(white, Image.Resampling.NEAREST)) > 0

    def _moved(self, image: Image.Image, resampling: Image.Resampling) -> Image.Image:
        shift = (self.right * image.width, self.down * image.height)
        if not self.turn:  # whole pixels, which blur nothing
            shift = (round(shift[0]), round(shift[1]))
        return image.rotate(self.turn, resample=resampling, translate=shift)  # type: ignore[arg-type]


def register(moving: RGB, fixed: RGB, most: float = 3.0) -> Motion:
    """The motion that lays `moving` on `fixed`, two photos of one size; `Motion()`, which moves
    nothing, where no motion makes their difference smaller.

    most: degrees up to which rotations are tried; 0: none. Of the rotation with the highest
    correlation peak, rotations near it and no rotation, the motion is taken that leaves the least
    mean difference of the pixels that both photos cover, relative to the difference of the same
    pixels before the motion.
    """
    source, target = _reduced(moving), _grey(_reduced(fixed))
    count = int(most / STEP)
    coarse = [number * STEP for number in range(-count, count + 1)]
    _, best = max(_correlated(source, target, coarse), key=lambda pair: pair[0])
    fine = {0.0}
    if most:
        fine.update(best.turn + part * STEP / 4 for part in range(-3, 4))
    motions = [motion for _, motion in _correlated(source, target, fine)]
    differences = [_difference(motion, source, target) for motion in motions]
    least = min(differences)
    return motions[differences.index(least)] if least < ENOUGH else Motion()


def correlation(moved: RGB, fixed: RGB, motion: Motion) -> float:
    """The correlation, -1 to 1, of the grey levels of two photos where the one moved by `motion`
    covers the other; 1 where the moved one varies by less than FLAT."""
    covered = motion.covered(*_reduced(fixed).shape[:2])
    x, y = _grey(_reduced(moved))[covered], _grey(_reduced(fixed))[covered]
    if float(x.std()) < FLAT:
        return 1.0
    covariance = float(((x - x.mean()) * (y - y.mean())).mean())
    return covariance / max(float(x.std() * y.std()), 1e-6)


def _difference(motion: Motion, source: RGB, target: Grey) -> float:
    """The difference of two photos after a motion, divided by that before it."""
    covered = motion.covered(*target.shape)
    before = np.abs(_grey(source) - target)[covered]
    after = np.abs(_grey(motion.apply(source)) - target)[covered]
    return float(after.sum() / before.sum()) if before.any() else 1.0


def _correlated(
    source: RGB, target: Grey, turns: Iterable[float]
) -> Iterable[tuple[float, Motion]]:
    """For each rotation the height of the phase correlation's peak, and the motion there."""
    window = np.outer(*(np.hanning(side) for side in target.shape))
    target_spectrum = np.fft.rfft2((target - target.mean()) * window)
    for turn in turns:
        grey = _grey(Motion(turn).apply(source))
        spectrum = np.fft.rfft2((grey - grey.mean()) * window)
        cross = target_spectrum * spectrum.conj()
        values = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-12), target.shape)
        height, down, right = _peak(values)
        yield height, Motion(turn, down / target.shape[0], right / target.shape[1])


def _peak(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The highest of the correlation's values whose shift is at most `MAX_SHIFT`, and that shift
    (down, right) in pixels, refined between pixels by a parabola along each axis."""
    shifts = [np.fft.fftfreq(side, 1 / side) for side in values.shape]
    allowed = [np.abs(shift) <= len(shift) * MAX_SHIFT for shift in shifts]
    candidates = np.where(np.outer(*allowed), values, -np.inf)
    place = np.unravel_index(int(candidates.argmax()), candidates.shape)
    peak = []
    for axis, index in enumerate(place):
        line = np.take(values, place[1 - axis], axis=1 - axis)
        before, top, after = line[index - 1], line[index], line[(index + 1) % len(line)]
        curvature = before - 2 * top + after
        offset = 0.5 * (before - after) / curvature if curvature < 0 else 0
        peak.append(float(shifts[axis][index] + offset))
    return float(values[place]), peak[0], peak[1]


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
