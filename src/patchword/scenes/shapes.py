"""Coloured shapes on patterned backgrounds, with clear relations between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, pi, sin
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchword.scenes.base import (
    Colour,
    Facts,
    Floats,
    Mask,
    blend,
    choose,
    cover,
    grid,
    polygon,
    smooth_noise,
    stretch,
    uniform,
    window,
)

COLOURS: dict[str, Colour] = {
    "red": (0.84, 0.12, 0.14),
    "orange": (0.97, 0.53, 0.08),
    "yellow": (0.97, 0.88, 0.18),
    "green": (0.14, 0.62, 0.24),
    "blue": (0.13, 0.33, 0.86),
    "purple": (0.52, 0.18, 0.66),
    "white": (0.97, 0.97, 0.97),
    "black": (0.04, 0.04, 0.05),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "heart")
_MARGIN = 0.03  # between two shapes, and between shapes and the border

Spot = tuple[float, float, float]  # x, y, radius


@dataclass(frozen=True)
class Shape:
    """One shape: its names, its centre, the radius of its circle, and its rotation in radians."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    turn: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


def relation(a: Shape, b: Shape) -> str | None:
    """The relation of `a` to `b`: "left of", "right of", "above" or "below"; None if it is not
    clear.

    It is clear if the shapes are apart along one axis by about both radii, and along the other axis
    by at most half of their distance along the first.
    """
    dx, dy = b.x - a.x, b.y - a.y
    reach = 0.8 * (a.radius + b.radius)
    if abs(dx) >= max(reach, 2 * abs(dy)):
        return "left of" if dx > 0 else "right of"
    if abs(dy) >= max(reach, 2 * abs(dx)):
        return "above" if dy > 0 else "below"
    return None


def place_of(shape: Shape) -> str | None:
    """The side of the image on which a shape is; None if it is not clear."""
    dx, dy = shape.x - 0.5, shape.y - 0.5
    if hypot(dx, dy) < 0.08:
        return "centre"
    if abs(dx) >= max(0.13, 2 * abs(dy)):
        return "left" if dx < 0 else "right"
    if abs(dy) >= max(0.13, 2 * abs(dx)):
        return "top" if dy < 0 else "bottom"
    return None


def _names(rng: np.random.Generator, count: int, palette: Sequence[str]) -> list[tuple[str, str]]:
    """Distinct (colour, shape) pairs. Sometimes two have the same colour or the same shape."""
    colours = list(np.resize(rng.permutation(list(palette)), count))
    shapes = list(rng.permutation(list(SHAPES))[:count])
    shared = rng.random()
    if count > 1 and shared < 0.15:
        colours[1] = colours[0]
    elif count > 1 and shared < 0.3:
        shapes[1] = shapes[0]
    return [(str(c), str(s)) for c, s in zip(colours, shapes, strict=True)]


def _one_spot(rng: np.random.Generator) -> list[Spot]:
    """One small or large spot."""
    radius = uniform(rng, 0.12, 0.19) if rng.random() < 0.5 else uniform(rng, 0.26, 0.36)
    room = 0.5 - radius - _MARGIN
    x, y = 0.5 + room * uniform(rng, -1, 1), 0.5 + room * uniform(rng, -1, 1)
    return [(x, y, radius)]


def _two_spots(rng: np.random.Generator) -> list[Spot]:
    """Two spots apart along one axis."""
    radii = uniform(rng, 0.11, 0.2), uniform(rng, 0.11, 0.2)
    distance = sum(radii) + _MARGIN + uniform(rng, 0, 0.12)
    low, high = radii[0] + _MARGIN, 1 - distance - radii[1] - _MARGIN
    first = uniform(rng, low, max(low, high))
    widest = max(radii) + _MARGIN
    middle = uniform(rng, widest + 0.05, 0.95 - widest)
    tilt = uniform(rng, -0.1, 0.1)
    along, across = (first, first + distance), (middle - tilt / 2, middle + tilt / 2)
    horizontal = rng.random() < 0.5
    x, y = (along, across) if horizontal else (across, along)
    spots = list(zip(x, y, radii, strict=True))
    return spots if rng.random() < 0.5 else spots[::-1]


def _three_spots(rng: np.random.Generator) -> list[Spot]:
    """Three spots in different cells of a 2 x 2 or 3 x 3 board."""
    cells = 2 if rng.random() < 0.6 else 3
    side = 1 / cells
    spots = []
    for cell in rng.permutation(cells * cells)[:3].tolist():
        radius = uniform(rng, 0.3, 0.4) * side if cells == 2 else uniform(rng, 0.38, 0.44) * side
        room = side / 2 - radius - _MARGIN / 2
        x = (cell % cells + 0.5) * side + room * uniform(rng, -1, 1)
        y = (cell // cells + 0.5) * side + room * uniform(rng, -1, 1)
        spots.append((x, y, radius))
    return spots


def draw_shapes(rng: np.random.Generator, palette: Sequence[str] = ()) -> list[Shape]:
    """One to three shapes that do not touch. palette: their possible colours; empty: all."""
    count = int(rng.integers(1, 4))
    spots = (_one_spot, _two_spots, _three_spots)[count - 1](rng)
    shapes = []
    for (colour, shape), (x, y, radius) in zip(
        _names(rng, count, palette or tuple(COLOURS)), spots, strict=True
    ):
        shapes.append(Shape(colour, shape, x, y, radius, uniform(rng, -0.26, 0.26)))
    return shapes


def facts_of(shapes: list[Shape]) -> Facts:
    """The number of shapes; the colour and shape of each, numbered from 1; the size and place of a
    single shape; and the relation of each pair."""
    facts: Facts = {"count": len(shapes)}
    for i, a in enumerate(shapes, start=1):
        facts[f"colour {i}"], facts[f"shape {i}"] = a.colour, a.shape
        if len(shapes) == 1:  # among several shapes, size and place could mean something else
            facts[f"size {i}"] = "large" if a.radius > 0.22 else "small"
            place = place_of(a)
            if place:
                facts[f"place {i}"] = place
        for j, b in enumerate(shapes[i:], start=i + 1):
            between = relation(a, b)
            if between:
                facts[f"relation {i} {j}"] = between
    return facts


def _star(points: int, inner: float) -> NDArray[np.float64]:
    turns = np.arange(2 * points) * pi / points - pi / 2
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(turns), radii * np.sin(turns)], 1)


def _regular(corners: int, first: float) -> NDArray[np.float64]:
    turns = np.arange(corners) * 2 * pi / corners + first
    return np.stack([np.cos(turns), np.sin(turns)], 1)


def _cross(arm: float) -> NDArray[np.float64]:
    x = [-arm, arm, arm, 1, 1, arm, arm, -arm, -arm, -1, -1, -arm]
    y = [-1, -1, -arm, -arm, arm, arm, 1, 1, arm, arm, -arm, -arm]
    return np.array([x, y], np.float64).T * 0.96


def _heart() -> NDArray[np.float64]:
    t = np.arange(28) * 2 * pi / 28
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y + 0.7], 1) / 17.5  # moves the centre of area to 0


_CORNERS = {
    "square": _regular(4, pi / 4),
    "triangle": _regular(3, -pi / 2),
    "star": _star(5, 0.42),
    "cross": _cross(0.33),
    "heart": _heart(),
}


def _distance(shape: Shape, x: Floats, y: Floats) -> Floats:
    """Signed distance to a shape from points x (1, W), y (H, 1)."""
    if shape.shape in _CORNERS:
        c, s = cos(shape.turn), sin(shape.turn)
        corners = _CORNERS[shape.shape] @ np.array([[c, s], [-s, c]]) * shape.radius
        return polygon(x, y, corners + np.array([shape.x, shape.y]))
    radius, wx, wy = shape.radius, shape.x, shape.y
    if shape.shape == "crescent":  # moved so that its centre of area lies at (x, y)
        radius *= 0.88
        wx, wy = wx + 0.386 * radius * cos(shape.turn), wy + 0.386 * radius * sin(shape.turn)
    dx, dy = x - np.float32(wx), y - np.float32(wy)
    out: Floats = np.sqrt(dx * dx + dy * dy)
    distance: Floats = out - np.float32(radius)
    if shape.shape == "ring":
        distance = np.abs(out - np.float32(0.78 * radius)) - np.float32(0.22 * radius)
    elif shape.shape == "crescent":
        bx, by = 0.5 * radius * cos(shape.turn), 0.5 * radius * sin(shape.turn)
        bite: Floats = np.sqrt((dx - bx) ** 2 + (dy - by) ** 2)
        distance = np.maximum(distance, np.float32(0.8 * radius) - bite)
    return distance


class Ground(NamedTuple):
    """A muted background pattern."""

    pattern: str
    first: Colour
    second: Colour
    direction: float  # radians
    stripes: float  # number of stripes over the image
    heights: Floats  # (7, 7), of clouds


def draw_ground(rng: np.random.Generator) -> Ground:
    """A random background."""
    level = uniform(rng, 0.36, 0.64)
    tint = rng.uniform(-0.05, 0.05, (2, 3))
    step = uniform(rng, 0.03, 0.09) * (1 if rng.random() < 0.5 else -1)
    one, two = (level + step + tint[0]).tolist(), (level - step + tint[1]).tolist()
    pattern = choose(rng, ("gradient", "clouds", "stripes", "checks"))
    direction, stripes = uniform(rng, 0, pi), uniform(rng, 5, 12)
    first, second = (one[0], one[1], one[2]), (two[0], two[1], two[2])
    return Ground(pattern, first, second, direction, stripes, smooth_noise(rng, 7))


def paint_ground(ground: Ground, size: int) -> Floats:
    """The background as an image (3, H, W) of 0 to 1."""
    pattern, stripes = ground.pattern, ground.stripes
    x, y = grid(size)
    cosine, sine = cos(ground.direction), sin(ground.direction)
    across = (x - 0.5) * cosine + (y - 0.5) * sine
    along = (y - 0.5) * cosine - (x - 0.5) * sine
    mix: NDArray[np.floating]
    if pattern == "gradient":
        mix = across + 0.5
    elif pattern == "clouds":
        mix = 0.5 + 0.35 * stretch(ground.heights, size)
    elif pattern == "stripes":
        mix = 0.5 + 0.5 * np.sin(across * (2 * pi * stripes))
    else:
        mix = 0.5 + np.clip(
            4 * np.sin(across * (pi * stripes)) * np.sin(along * (pi * stripes)), -0.5, 0.5
        )
    first = np.asarray(ground.first, np.float32)[:, None, None]
    second = np.asarray(ground.second, np.float32)[:, None, None]
    image: Floats = first + (second - first) * np.clip(mix, 0, 1).astype(np.float32)
    return image


def paint_shape(rng: np.random.Generator, shape: Shape, image: Floats) -> Mask:
    """Paint a shape, lit from one side, over the image (3, H, W). Returns its mask (H, W)."""
    size = image.shape[1]
    jitter = rng.uniform(-0.03, 0.03, 3)
    lx, ly = uniform(rng, -0.12, 0.12), uniform(rng, -0.12, 0.12)
    rows, columns = window(shape.x, shape.y, 1.15 * shape.radius, size)
    x, y = grid(size)
    x, y = x[:, columns], y[rows]
    distance = _distance(shape, x, y)
    light = 1 + ((x - shape.x) * lx + (y - shape.y) * ly) / shape.radius
    colour = np.asarray(COLOURS[shape.colour] + jitter, np.float32)[:, None, None] * light
    blend(image[:, rows, columns], colour.astype(np.float32), cover(distance, size))
    mask = np.zeros(image.shape[1:], np.bool_)
    mask[rows, columns] = distance < 0
    return mask
