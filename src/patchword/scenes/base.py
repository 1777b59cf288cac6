"""The record of a scene, and drawing by signed distance.

Lengths are fractions of the image's side, (0, 0) is the top left corner and y points down: a layout
can be drawn at any size. A shape is given by its signed distance, negative inside. Its edge is one
pixel wide, which antialiases it without supersampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Colour: TypeAlias = tuple[float, float, float]
Facts: TypeAlias = dict[str, str | int]
Questions: TypeAlias = tuple[tuple[str, str], ...]

# Half of 3 pixels at 128 px. No mask is thinner, so that a heatmap can hit it in a pointing game.
HALF_WIDTH = 1.5 / 128


@dataclass(frozen=True)
class SceneObject:
    """An object in a scene: a noun phrase that refers to it, and its mask (H, W)."""

    name: str
    mask: Mask


@dataclass(frozen=True)
class Scene:
    """An image with everything that is known about it.

    image      (H, W, 3) uint8 RGB
    kind       "wafer" or "shapes"
    label      the wafer's class, or the canonical description of the shapes
    caption    a true description, in varied wording
    meaning    the facts that the caption states, in one form for all wordings
    facts      what was drawn
    objects    the objects with masks (none on a perfect wafer)
    questions  (question, answer) pairs
    """

    image: NDArray[np.uint8]
    kind: str
    label: str
    caption: str
    meaning: str
    facts: Facts
    objects: tuple[SceneObject, ...]
    questions: Questions


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A random number between two others."""
    return low + (high - low) * rng.random()


def choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    """A random one of the options."""
    return options[int(rng.integers(len(options)))]


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Floats, Floats]:
    """x (1, size) and y (size, 1) of the pixel centres."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    centres.setflags(write=False)
    return centres[None, :], centres[:, None]


def window(x: float, y: float, reach: float, size: int) -> tuple[slice, slice]:
    """(rows, columns) of the pixels within `reach` of a point, and two pixels more."""

    def span(centre: float) -> slice:
        first = int((centre - reach) * size) - 2
        last = int((centre + reach) * size) + 3
        return slice(min(max(first, 0), size), min(max(last, 0), size))

    return span(y), span(x)


def cover(distance: Floats, size: int) -> Floats:
    """The share of each pixel that is inside a shape, 0 to 1, from the shape's signed distance."""
    inside: Floats = np.clip(0.5 - distance * np.float32(size), 0, 1)
    return inside


def blend(image: Floats, colour: Colour | Floats, alpha: Floats | float) -> None:
    """Blend a colour, (3,) or (3, H, W), over an image (3, H, W), in place."""
    paint = np.asarray(colour, np.float32)
    if paint.ndim == 1:
        paint = paint[:, None, None]
    image += np.asarray(alpha, np.float32) * (paint - image)


def polygon(x: Floats, y: Floats, corners: NDArray[np.float64]) -> Floats:
    """Signed distance from points x (1, W), y (H, 1) to a simple polygon (N, 2): that of the
    nearest edge, with the sign from crossing parity."""
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf, np.float32)
    inside = np.zeros(nearest.shape, np.bool_)
    for (ax, ay), (bx, by) in zip(corners.tolist(), np.roll(corners, -1, 0).tolist(), strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - np.float32(ax), y - np.float32(ay)
        along = np.clip((px * ex + py * ey) / max(ex * ex + ey * ey, 1e-12), 0, 1)
        np.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2, out=nearest)
        if ey != 0:
            crosses = ((y >= ay) != (y >= by)) & (px < py * (ex / ey))
            inside ^= crosses
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def smooth_noise(rng: np.random.Generator, cells: int) -> Floats:
    """Random heights (cells, cells), to be enlarged by `stretch`."""
    return rng.standard_normal((cells, cells), np.float32)


def stretch(heights: Floats, size: int) -> Floats:
    """A coarse grid, enlarged to a smooth field (size, size)."""
    field = Image.fromarray(heights).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(field, np.float32)


def finish(image: Floats, noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add sensor noise and quantise: (3, H, W) of 0 to 1 -> (H, W, 3) uint8."""
    image += rng.standard_normal(image.shape, np.float32) * np.float32(noise)
    pixels = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))
