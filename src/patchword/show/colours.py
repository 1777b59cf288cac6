"""Colour maps: numbers as colours, and the bar that explains them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from patchword.errors import UnsupportedError
from patchword.show.text_drawing import FAINT, INK, PAPER, SMALL, font

RGB = tuple[int, int, int]
Values = NDArray[np.floating]

MAP, MATRIX, SHARES = "inferno", "viridis", "Blues"  # colour maps of matplotlib, by use
CHOICES = ("inferno", "viridis", "turbo", "jet", "gray")  # that users can choose


def known(name: str) -> str:
    """The name of a colour map that users can choose. Raises UnsupportedError for any other."""
    if name not in CHOICES:
        raise UnsupportedError(f"no colours {name!r}; there are {', '.join(CHOICES)}")
    return name


def scale_of(ends: Sequence[float] | None) -> tuple[float, float] | None:
    """Both ends of a scale. Raises UnsupportedError unless they are two numbers, lower first."""
    if ends is None:
        return None
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise UnsupportedError(f"scale is {ends!r}; it is two numbers, the lower first")
    return float(ends[0]), float(ends[1])


@lru_cache(maxsize=8)
def table(name: str) -> NDArray[np.float32]:
    """A colour map of matplotlib, (256, 3), 0 to 255."""
    from matplotlib import colormaps

    return np.asarray(colormaps[name](np.arange(256))[:, :3] * 255, np.float32)


def ends_of(values: Values) -> tuple[float, float]:
    """Smallest and largest finite value; (0, 0) if there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def flat(low: float, high: float) -> bool:
    """Whether both ends of a scale are equal up to rounding."""
    return high - low <= 1e-6 * max(abs(low), abs(high))


def unit(values: Values, low: float, high: float) -> NDArray[np.float32]:
    """low..high -> 0..1; NaN -> 0; all 0 on a flat scale."""
    span = high - low
    if flat(low, high):
        return np.zeros(values.shape, np.float32)
    level: NDArray[np.float32] = np.nan_to_num((values - low) / span).clip(0, 1)
    return level.astype(np.float32)


def numbered(scale: tuple[float, float]) -> tuple[str, str]:
    """Both ends of a scale as texts."""
    return digits(scale[0], scale), digits(scale[1], scale)


def digits(value: float, scale: tuple[float, float]) -> str:
    """A number of a scale: with three decimals, or more where two digits of the scale's largest
    number need them; with an exponent from nine decimals on."""
    largest = max(map(abs, scale))
    decimals = 3
    if 0 < largest < math.inf:
        decimals = max(3, 1 - math.floor(math.log10(largest)))
    return f"{value:.{decimals}f}" if decimals < 9 else f"{value:.1e}"


def colour_bar(
    draw: ImageDraw.ImageDraw,
    name: str,
    ends: tuple[str, str],
    left: int,
    top: int,
    width: int,
    middle: str = "",
) -> None:
    """Draw a colour map as a bar, with texts under its ends and its middle."""
    colours = table(name).astype(int)
    for x in range(width):
        r, g, b = colours[x * 255 // max(1, width - 1)].tolist()
        draw.line((left + x, top, left + x, top + 7), (r, g, b))
    baseline = top + 10 + SMALL
    draw.text((left, baseline), ends[0], FAINT, font(SMALL), anchor="ls")
    draw.text((left + width, baseline), ends[1], FAINT, font(SMALL), anchor="rs")
    draw.text((left + width // 2, baseline), middle, FAINT, font(SMALL), anchor="ms")


def shade(value: float, scale: tuple[float, float], colours: str = MATRIX) -> tuple[RGB, RGB]:
    """The colour of a value between the ends of a scale, and the text colour with more contrast on
    it."""
    level = int(unit(np.array(value), *scale) * 255)
    r, g, b = table(colours)[level].astype(int).tolist()
    linear = (np.array([r, g, b]) / 255) ** 2.2
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    # Under a luminance of about 0.2, white has more contrast than black (WCAG 2.2).
    return (r, g, b), INK if luminance > 0.2 else PAPER
