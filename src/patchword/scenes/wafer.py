"""Wafer surfaces: a disc with dies under a thin film, with one defect or none.

The wafer takes its random numbers before the defect does, so a (seed, index) shows the same wafer
for every label.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from patchword.scenes.base import (
    HALF_WIDTH,
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

# Colours of a thin film on silicon: at the middle, and where it is thicker.
FILMS: dict[str, tuple[Colour, Colour]] = {
    "blue": ((0.20, 0.38, 0.74), (0.26, 0.28, 0.70)),
    "green": ((0.22, 0.56, 0.34), (0.42, 0.60, 0.26)),
    "violet": ((0.46, 0.25, 0.64), (0.58, 0.26, 0.58)),
    "gold": ((0.76, 0.60, 0.24), (0.70, 0.50, 0.18)),
    "grey": ((0.52, 0.54, 0.57), (0.46, 0.47, 0.48)),
    "copper": ((0.66, 0.35, 0.21), (0.57, 0.28, 0.19)),
}
# Direction of each side in the image, radians; y points down.
SIDES = {"right": 0.0, "bottom": 0.5 * pi, "left": pi, "top": 1.5 * pi}
_DIES = 32  # side of the table of dies; a wafer has at most 20 across

Block = tuple[float, float, float, float, float]  # x0, y0, x1, y1 in a die, and tone


@dataclass(frozen=True)
class Wafer:
    """Everything that determines how a wafer looks. Lengths are fractions of the image's side."""

    centre: tuple[float, float]
    radius: float
    turn: float  # of the die grid, radians
    notch: float  # direction of the notch, radians
    film: tuple[Floats, Floats]  # colours at the middle and at the rim
    thickness: Floats  # (5, 5) unevenness of the film
    pitch: tuple[float, float]  # of the dies
    street: float  # half width of the streets
    street_colour: Colour
    street_alpha: float
    tones: Floats  # (_DIES, _DIES) brightness of each die
    blocks: tuple[Block, ...]  # in every die
    light: tuple[float, float]
    sheen: tuple[float, float, float]  # direction, width, strength
    ground: Colour
    noise: float

    @property
    def brightness(self) -> float:
        """Mean grey level of the film, 0 to 1."""
        return float((self.film[0] + self.film[1]).mean() / 2)


def _blocks(rng: np.random.Generator) -> tuple[Block, ...]:
    blocks = []
    for _ in range(int(rng.integers(1, 4))):
        x, y = uniform(rng, 0.08, 0.5), uniform(rng, 0.08, 0.5)
        wide, tall = uniform(rng, 0.2, 0.42), uniform(rng, 0.2, 0.42)
        blocks.append((x, y, x + wide, y + tall, uniform(rng, -0.16, 0.16)))
    return tuple(blocks)


def draw_wafer(rng: np.random.Generator) -> tuple[Wafer, Facts]:
    """A wafer without defects, and the facts about it: film, notch."""
    film = choose(rng, tuple(FILMS))
    middle, rim = (np.asarray(colour, np.float32) for colour in FILMS[film])
    gain = np.float32(uniform(rng, 0.85, 1.15))
    shift = rng.uniform(-0.025, 0.025, 3).astype(np.float32)
    side = choose(rng, ("bottom", "bottom", "bottom", *SIDES))
    turn = uniform(rng, -0.16, 0.16)
    pitch = uniform(rng, 0.07, 0.12)
    bright = rng.random() < 0.5
    wafer = Wafer(
        centre=(0.5 + uniform(rng, -0.02, 0.02), 0.5 + uniform(rng, -0.02, 0.02)),
        radius=uniform(rng, 0.415, 0.465),
        turn=turn,
        notch=SIDES[side] + turn,
        film=(middle * gain + shift, rim * gain + shift),
        thickness=smooth_noise(rng, 5),
        pitch=(pitch, pitch * uniform(rng, 0.75, 1.3)),
        street=uniform(rng, 0.0022, 0.0042),
        street_colour=(0.78, 0.78, 0.76) if bright else (0.08, 0.08, 0.10),
        street_alpha=uniform(rng, 0.3, 0.5) if bright else uniform(rng, 0.4, 0.7),
        tones=1 + 0.035 * smooth_noise(rng, _DIES),
        blocks=_blocks(rng),
        light=(uniform(rng, -0.22, 0.22), uniform(rng, -0.22, 0.22)),
        sheen=(uniform(rng, 0, pi), uniform(rng, 0.06, 0.16), uniform(rng, 0.04, 0.2)),
        ground=(uniform(rng, 0.02, 0.08), uniform(rng, 0.02, 0.08), uniform(rng, 0.03, 0.09)),
        noise=uniform(rng, 0.008, 0.022),
    )
    return wafer, {"film": film, "notch": side}


def _within(wafer: Wafer, size: int) -> tuple[Floats, Floats, Floats]:
    """dx (1, W), dy (H, 1) from the wafer's centre and the distance to its rim (H, W)."""
    x, y = grid(size)
    dx, dy = x - np.float32(wafer.centre[0]), y - np.float32(wafer.centre[1])
    return dx, dy, np.sqrt(dx * dx + dy * dy) - np.float32(wafer.radius)


def _dies(wafer: Wafer, surface: Floats, dx: Floats, dy: Floats, size: int) -> None:
    """Print the dies in place: only those that are completely inside the rim, as on a real
    wafer."""
    c, s = cos(wafer.turn), sin(wafer.turn)
    u = (dx * c + dy * s) * (1 / wafer.pitch[0]) + _DIES / 2
    v = (dy * c - dx * s) * (1 / wafer.pitch[1]) + _DIES / 2
    column, row = u.astype(np.int32), v.astype(np.int32)
    u -= column
    v -= row
    edge = np.arange(_DIES + 1) - _DIES / 2
    far_x = np.maximum(np.abs(edge[:-1]), np.abs(edge[1:])) * wafer.pitch[0]
    far_y = np.maximum(np.abs(edge[:-1]), np.abs(edge[1:])) * wafer.pitch[1]
    printed = np.hypot(far_x[None, :], far_y[:, None]) < wafer.radius * 0.97
    tone = np.where(printed, wafer.tones, 0).astype(np.float32)[row, column]
    on_die = tone > 0
    gap: Floats = np.minimum(
        np.minimum(u, 1 - u) * np.float32(wafer.pitch[0]),
        np.minimum(v, 1 - v) * np.float32(wafer.pitch[1]),
    )
    for x0, y0, x1, y1, lift in wafer.blocks:
        reach = np.maximum(
            np.abs(u - (x0 + x1) / 2) - (x1 - x0) / 2, np.abs(v - (y0 + y1) / 2) - (y1 - y0) / 2
        )
        tone += np.float32(lift) * cover(reach * np.float32(wafer.pitch[0]), size)
    surface *= np.where(on_die, tone, np.float32(0.82))
    blend(
        surface, wafer.street_colour, cover(gap - wafer.street, size) * on_die * wafer.street_alpha
    )


def paint_wafer(wafer: Wafer, size: int) -> tuple[Floats, Floats]:
    """The wafer without defects: an image (3, H, W) of 0 to 1, and the wafer's coverage (H, W)."""
    dx, dy, rim = _within(wafer, size)
    spread = np.clip((rim / wafer.radius + 1) ** 2, 0, 1)
    spread = np.clip(spread * 0.8 + 0.16 * stretch(wafer.thickness, size), 0, 1.2)
    middle, outer = wafer.film
    surface = middle[:, None, None] + (outer - middle)[:, None, None] * spread
    _dies(wafer, surface, dx, dy, size)
    angle, width, strength = wafer.sheen
    across = (dx * sin(angle) - dy * cos(angle)) / width
    shade = 1 - 0.12 * spread + (dx * wafer.light[0] + dy * wafer.light[1]) / wafer.radius
    surface *= shade + strength * np.exp(-across * across)
    blend(surface, (0.72, 0.73, 0.74), cover(np.abs(rim + 0.007) - 0.003, size) * 0.45)
    nx, ny = wafer.radius * cos(wafer.notch), wafer.radius * sin(wafer.notch)
    notch = np.sqrt((dx - nx) ** 2 + (dy - ny) ** 2) - np.float32(0.042 * wafer.radius)
    present = cover(np.maximum(rim, -notch), size)
    image = np.empty_like(surface)
    image[:] = np.asarray(wafer.ground, np.float32)[:, None, None]
    image *= 1 + (dx * wafer.light[0] + dy * wafer.light[1]) * 2
    blend(image, surface, present)
    return image, present


def _is_bright(rng: np.random.Generator, wafer: Wafer) -> bool:
    """Whether a mark is bright. It contrasts with the film; on a film of medium brightness it is
    bright or dark at random."""
    at_random = rng.random() < 0.5
    return at_random if 0.38 < wafer.brightness < 0.5 else wafer.brightness <= 0.38


def _spot(
    rng: np.random.Generator, wafer: Wafer, place: str, near: float, far: float
) -> tuple[float, float, float]:
    """x, y and direction of a random point at a place. On a side, it is `near` to `far` radii from
    the centre."""
    if place == "centre":
        angle, out = uniform(rng, 0, 2 * pi), uniform(rng, 0, 0.18) * wafer.radius
    else:
        angle, out = SIDES[place] + uniform(rng, -0.4, 0.4), uniform(rng, near, far) * wafer.radius
    return wafer.centre[0] + out * cos(angle), wafer.centre[1] + out * sin(angle), angle


def add_scratch(
    rng: np.random.Generator, wafer: Wafer, image: Floats, present: Floats
) -> tuple[Mask, Facts]:
    """A thin curved line, bright or dark, with fading ends."""
    size = image.shape[1]
    place, large = choose(rng, ("centre", *SIDES)), rng.random() < 0.5
    x, y, out = _spot(rng, wafer, place, 0.48, 0.62)
    half = wafer.radius * (uniform(rng, 0.46, 0.7) if large else uniform(rng, 0.16, 0.26))
    # On a side the line follows the rim, so that it stays on that side.
    turn = uniform(rng, 0, pi) if place == "centre" else out + pi / 2 + uniform(rng, -0.5, 0.5)
    width = uniform(rng, 0.0034, 0.0066)
    bend, wave, phase = uniform(rng, -0.24, 0.24), uniform(rng, 0, 0.03), uniform(rng, 0, 2 * pi)
    bright, strength = _is_bright(rng, wafer), uniform(rng, 0.78, 0.97)
    rows, columns = window(x, y, half * 1.3, size)
    px, py = grid(size)
    dx, dy = px[:, columns] - np.float32(x), py[rows] - np.float32(y)
    t = (dx * cos(turn) + dy * sin(turn)) / half
    path = bend * (t * t - 0.4) + wave * np.sin(6 * t + phase)
    slope = 2 * bend * t + 6 * wave * np.cos(6 * t + phase)
    off = np.abs(dy * cos(turn) - dx * sin(turn) - half * path) / np.sqrt(1 + slope * slope)
    beyond = (np.abs(t) - 1) * half
    taper = width * np.sqrt(np.clip(1.04 - t * t, 0.04, 1))
    alpha = cover(np.maximum(off - taper, beyond), size) * present[rows, columns]
    alpha *= strength * (0.9 + 0.1 * np.sin(9 * t + phase))
    colour = (0.93, 0.93, 0.90) if bright else (0.03, 0.03, 0.04)
    blend(image[:, rows, columns], colour, alpha)
    mask = np.zeros(present.shape, np.bool_)
    mask[rows, columns] = np.maximum(off - max(width, HALF_WIDTH), beyond - HALF_WIDTH) < 0
    return mask & (present > 0.5), {"place": place, "size": "large" if large else "small"}


def add_particles(
    rng: np.random.Generator, wafer: Wafer, image: Floats, present: Floats
) -> tuple[Mask, Facts]:
    """A few or many specks, scattered over the wafer or in a cluster."""
    size = image.shape[1]
    many, cluster = rng.random() < 0.5, rng.random() < 0.5
    count = int(rng.integers(16, 36)) if many else int(rng.integers(4, 8))
    place = choose(rng, ("centre", *SIDES))
    x, y, _ = _spot(rng, wafer, place, 0.5, 0.62)
    reach = 0.3 * wafer.radius if cluster else 0.88 * wafer.radius
    middle = (x, y) if cluster else wafer.centre
    bright = _is_bright(rng, wafer)
    mask = np.zeros(present.shape, np.bool_)
    px, py = grid(size)
    for out, angle, thick, alpha in rng.random((count, 4)).tolist():
        out = reach * out**0.5
        x, y = middle[0] + out * cos(2 * pi * angle), middle[1] + out * sin(2 * pi * angle)
        radius = 0.006 + 0.008 * thick * thick
        rows, columns = window(x, y, radius + 0.02, size)
        dx, dy = px[:, columns] - np.float32(x), py[rows] - np.float32(y)
        distance = np.sqrt(dx * dx + dy * dy)
        level = 0.96 - 0.08 * alpha if bright else 0.02 + 0.04 * alpha
        under = present[rows, columns]
        if bright:  # the shadow of a raised speck
            shade = np.sqrt((dx - 0.006) ** 2 + (dy - 0.006) ** 2) - radius
            blend(image[:, rows, columns], (0, 0, 0), cover(shade, size) * under * 0.35)
        speck = cover(distance - radius, size) * under
        blend(image[:, rows, columns], (level, level, level * 0.96), speck * (0.82 + 0.15 * alpha))
        mask[rows, columns] |= distance < max(radius, HALF_WIDTH)
    facts: Facts = {"count": count, "amount": "many" if many else "few"}
    facts["spread"] = "clustered" if cluster else "scattered"
    if cluster:
        facts["place"] = place
    return mask & (present > 0.5), facts


def _residue(rng: np.random.Generator, wafer: Wafer) -> Colour:
    """The colour of a stain, which contrasts with the film (RGB distance of at least 0.4)."""
    choices: list[Colour] = [(0.20, 0.13, 0.07), (0.85, 0.84, 0.78), (0.10, 0.11, 0.13)]
    choices += [middle for middle, _ in FILMS.values()]
    film = (wafer.film[0] + wafer.film[1]) / 2
    visible = [c for c in choices if float(np.linalg.norm(np.subtract(c, film))) >= 0.4]
    return visible[int(rng.integers(len(visible)))]


def add_stain(
    rng: np.random.Generator, wafer: Wafer, image: Floats, present: Floats
) -> tuple[Mask, Facts]:
    """A translucent blob with an uneven outline, denser at the edge, where it dried last."""
    size = image.shape[1]
    place, large = choose(rng, ("centre", *SIDES)), rng.random() < 0.5
    x, y, _ = _spot(rng, wafer, place, 0.46, 0.6)
    reach = wafer.radius * (uniform(rng, 0.3, 0.4) if large else uniform(rng, 0.13, 0.19))
    colour, strength = _residue(rng, wafer), uniform(rng, 0.5, 0.7)
    ring, soft = uniform(rng, 0, 0.2), uniform(rng, 0.22, 0.5)
    lobes = rng.uniform(-1, 1, (4, 2)) * np.array([0.26, 0.18, 0.12, 0.08])[:, None]
    rows, columns = window(x, y, reach * 1.8, size)
    px, py = grid(size)
    dx, dy = px[:, columns] - np.float32(x), py[rows] - np.float32(y)
    angle = np.arctan2(dy, dx)
    outline = np.ones(angle.shape, np.float32)
    for turn, (a, b) in enumerate(lobes.tolist(), start=1):
        outline += np.float32(a) * np.cos(turn * angle) + np.float32(b) * np.sin(turn * angle)
    depth = np.maximum(outline, 0.45) - np.sqrt(dx * dx + dy * dy) / np.float32(reach)
    body = np.clip(depth / soft + 0.5, 0, 1)
    body = body * body * (3 - 2 * body)
    edge = np.exp(-(((depth - 0.12) / 0.12) ** 2))
    alpha = np.clip(body * strength + ring * edge * body, 0, 0.92) * present[rows, columns]
    blend(image[:, rows, columns], colour, alpha)
    mask = np.zeros(present.shape, np.bool_)
    mask[rows, columns] = depth > -0.1 * soft
    return mask & (present > 0.5), {"place": place, "size": "large" if large else "small"}


def add_edge_chip(
    rng: np.random.Generator, wafer: Wafer, image: Floats, present: Floats
) -> tuple[Mask, Facts]:
    """A piece broken out of the rim, away from the notch, with a pale fracture along the edge."""
    size = image.shape[1]
    sides = tuple(side for side in SIDES if abs(cos((SIDES[side] - wafer.notch) / 2)) < 0.9)
    place, large = choose(rng, sides), rng.random() < 0.5
    angle = SIDES[place] + uniform(rng, -0.35, 0.35)
    reach = wafer.radius * (uniform(rng, 0.24, 0.33) if large else uniform(rng, 0.11, 0.16))
    x = wafer.centre[0] + wafer.radius * cos(angle)
    y = wafer.centre[1] + wafer.radius * sin(angle)
    turns = (np.arange(9) + rng.uniform(-0.3, 0.3, 9)) * (2 * pi / 9)
    radii = reach * rng.uniform(0.75, 1.1, 9)
    corners = np.stack([x + radii * np.cos(turns), y + radii * np.sin(turns)], 1)
    rows, columns = window(x, y, reach * 1.2, size)
    px, py = grid(size)
    bite = polygon(px[:, columns], py[rows], corners)
    under = present[rows, columns].copy()
    pale = uniform(rng, 0.5, 0.8)
    face = cover(np.abs(bite - 0.003) - 0.004, size) * under
    blend(image[:, rows, columns], (pale, pale, pale * 0.97), face * 0.75)
    blend(image[:, rows, columns], wafer.ground, cover(bite, size) * under)
    mask = np.zeros(present.shape, np.bool_)
    mask[rows, columns] = bite < 0.005
    return mask & (present > 0.5), {"place": place, "size": "large" if large else "small"}


Defect = Callable[[np.random.Generator, Wafer, Floats, Floats], tuple[Mask, Facts]]
DEFECTS: dict[str, Defect] = {
    "scratch": add_scratch,
    "particles": add_particles,
    "stain": add_stain,
    "edge chip": add_edge_chip,
}
