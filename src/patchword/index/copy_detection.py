"""Whether two pictures are copies of one photo: resized, compressed anew, made a little brighter,
or cropped a little. Models play no part in it.

Small pictures of both are laid on one another, by their grey values: the second is stretched and
moved until it fits the first (Lucas and Kanade 1981, with gain and offset, coarse to fine). Of what
they share, each window must have the structure that it has in the other (the contrast and
structure of SSIM, Wang et al. 2004), and the colours. Most pairs that are none are told apart by
their mean colours, or where the pictures are coarse, and go no further.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIZE = 64  # pixels of the small pictures' sides
ROUGH = 8  # of the greys that pairs are first compared by
RELATED = 0.75  # least correlation of those
SHARED = 0.7  # least share of each picture that the other shows too
WORST = 0.2  # least structure of any window
COLOUR = 0.15  # most that mean colours may differ, of 1
# Contrast, as a share of the picture's, below which a window has no structure; its bounds, of 1.
FLAT, LEAST_FLAT, MOST_FLAT = 0.25, 0.004, 0.03
BATCH = 512  # pairs compared at a time


class Level(NamedTuple):
    """One step from coarse to fine.

    side       of the pictures, pixels
    rounds     of laying one on the other
    window     pixels of the windows' sides
    apart      pixels between windows
    structure  least mean of the windows' structure; None: any
    colour     most that a window's mean colour may differ, of 1
    """

    side: int
    rounds: int
    window: int
    apart: int
    structure: float | None
    colour: float


# What a pair must be to go on to the next level. Of 843 pairs that the last one takes the worst had
# at the first a colour of 0.21, at the second a structure of 0.83 and a colour of 0.13.
LEVELS = (
    Level(16, 6, 3, 1, None, 0.25),
    Level(32, 6, 5, 1, 0.7, 0.2),
    Level(SIZE, 2, 9, 2, 0.8, COLOUR),
)

Small = NDArray[np.uint8]  # (64, 64, 3)


def small(picture: Image.Image) -> Small:
    """What copies are known by."""
    square = picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(square)


def rough(picture: Small) -> NDArray[np.float32]:
    """What tells most pictures apart that are no copies, see `related`: a unit vector (65,) of
    greys, whose last number is for pictures of one colour, which all look alike here; and the mean
    colour (3,)."""
    step = SIZE // ROUGH
    cells = (picture / 255).reshape(ROUGH, step, ROUGH, step, 3).mean(axis=(1, 3))
    grey = cells.mean(axis=2).ravel()
    apart = np.append(grey - grey.mean(), LEAST_FLAT)
    unit = apart / np.linalg.norm(apart)
    return np.concatenate([unit, cells.mean(axis=(0, 1))]).astype(np.float32)


def related(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which pairs (P,) may be copies, by `rough` of each (P, 68)."""
    one, other = left.astype(np.float32), right.astype(np.float32)
    greys = np.einsum("nd,nd->n", one[:, :-3], other[:, :-3])
    colour = np.linalg.norm(one[:, -3:] - other[:, -3:], axis=1) / 3**0.5
    found: NDArray[np.bool_] = (greys >= RELATED) & (colour <= COLOUR)
    return found


@torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
def copies(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pairs (P,) of small pictures (P, 64, 64, 3) are copies of one photo."""
    parts = [
        _copies(torch.from_numpy(left[i : i + BATCH]), torch.from_numpy(right[i : i + BATCH]))
        for i in range(0, len(left), BATCH)
    ]
    return torch.cat(parts).numpy() if parts else np.zeros(0, bool)


def _copies(left: Tensor, right: Tensor) -> Tensor:
    left, right = (each.permute(0, 3, 1, 2).float() / 255 for each in (left, right))
    found = _alike(left, right)
    # What lies on the other must fit the other way round too: shirts of two sizes do not.
    found = found[_alike(right[found], left[found])]
    same = left.new_zeros(len(left), dtype=torch.bool)
    same[found] = True
    return same


def _alike(left: Tensor, right: Tensor) -> Tensor:
    """Which pairs (P,) of pictures (P, 3, 64, 64), 0 to 1, are alike where the second is laid on
    the first."""
    places = torch.arange(len(left), device=left.device)  # of the pairs that may still be
    place = left.new_tensor([1.0, 1, 0, 0]).repeat(len(left), 1)
    for level in LEVELS:
        if not len(places):
            break
        cell = SIZE // level.side
        a, b = (_means(each, cell, cell) if cell > 1 else each for each in (left, right))
        place = _laid(a, b, place, level.rounds)
        good = _fits(a, b, place, level)
        places, place, left, right = places[good], place[good], left[good], right[good]
    return places


def _fits(left: Tensor, right: Tensor, place: Tensor, level: Level) -> Tensor:
    """Which pairs (P,) of pictures (P, 3, S, S) fit as a level asks, the second laid at a place."""
    moved, inside = _moved(right, place)
    means = partial(_means, window=level.window, apart=level.apart)
    counted = (means(inside) > 0.99).flatten(1)
    apart = means(left) - means(moved)
    colour = (apart * apart).mean(dim=1).sqrt().flatten(1)
    good = (colour * counted).amax(dim=1) <= level.colour
    if level.structure is None:
        return good
    a, b = left.mean(dim=1, keepdim=True), moved.mean(dim=1, keepdim=True)
    mean_a, mean_b = means(a), means(b)
    spread_a, spread_b = means(a * a) - mean_a**2, means(b * b) - mean_b**2
    common = means(a * b) - mean_a * mean_b
    whole = torch.minimum(a.flatten(1).std(dim=1), b.flatten(1).std(dim=1))
    flat = (FLAT * whole).clamp(LEAST_FLAT, MOST_FLAT)[:, None, None, None] ** 2
    structure = ((2 * common + flat) / (spread_a + spread_b + flat)).flatten(1)
    mean = (structure * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    good &= mean >= level.structure
    if level is LEVELS[-1]:
        shared = torch.minimum(inside.mean(dim=(1, 2, 3)), (place[:, 0] * place[:, 1]).clamp(max=1))
        good &= shared >= SHARED
        good &= structure.where(counted, structure.new_ones(())).amin(dim=1) >= WORST
    return good


def _laid(left: Tensor, right: Tensor, place: Tensor, rounds: int) -> Tensor:
    """Where the second of pictures (P, 3, S, S) lies on the first, by their greys: (P, 4), the
    scales of x and y and the moves, of coordinates from -1 to 1. place: to begin with."""
    a, b = (each.mean(dim=1, keepdim=True) for each in (left, right))
    padded = F.pad(b, (1, 1, 1, 1), mode="replicate")
    side = a.shape[-1]
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * (side / 4)
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * (side / 4)
    stack = torch.cat([b, across, down], dim=1)
    for _ in range(rounds):
        place = _stepped(a, stack, place)
    return place


def _stepped(a: Tensor, stack: Tensor, place: Tensor) -> Tensor:
    """One step of Gauss and Newton. a: (P, 1, S, S); stack: the other picture, and how it changes
    along x and along y (P, 3, S, S)."""
    moved, inside = _moved(stack, place)
    y, x = _axes(a.shape[-1])
    value, across, down = (moved * inside).unbind(dim=1)
    light = torch.stack([value, inside[:, 0]], dim=1).flatten(2)  # (P, 2, S * S)
    wanted = (a * inside).flatten(2)
    gain = _solved(light, wanted)
    slope = torch.stack([across * x, down * y, across, down], dim=1).flatten(2)
    slope = slope * gain[:, :1].clamp(min=0.05)
    step = _solved(torch.cat([slope, light], dim=1), wanted - gain.transpose(1, 2) @ light)
    place = place + step[:, :4, 0].clamp(-0.1, 0.1)
    return torch.cat([place[:, :2].clamp(0.6, 1.6), place[:, 2:].clamp(-0.5, 0.5)], dim=1)


def _solved(columns: Tensor, wanted: Tensor) -> Tensor:
    """Damped least squares: columns (P, K, N), wanted (P, 1, N) -> (P, K, 1)."""
    square = columns @ columns.transpose(1, 2)
    damping = 1e-4 * square.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-3
    eye = torch.eye(columns.shape[1], dtype=columns.dtype, device="cpu")
    solve: Callable[[Tensor, Tensor], Tensor] = torch.linalg.solve
    return solve(square + damping[:, None, None] * eye, columns @ wanted.transpose(1, 2))


def _moved(pictures: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures (P, C, S, S) at a place, and 1 where they have pixels (P, 1, S, S)."""
    y, x = _axes(pictures.shape[-1])
    u = x * place[:, 0, None, None] + place[:, 2, None, None]
    v = y * place[:, 1, None, None] + place[:, 3, None, None]
    moved = F.grid_sample(
        pictures, torch.stack([u, v], dim=-1), padding_mode="border", align_corners=False
    )
    return moved, ((u.abs() <= 1) & (v.abs() <= 1)).float()[:, None]


def _axes(side: int) -> tuple[Tensor, Tensor]:
    middle = (torch.arange(side, dtype=torch.float32, device="cpu") + 0.5) / side * 2 - 1
    return middle[:, None].expand(side, side), middle[None, :].expand(side, side)


def _means(pictures: Tensor, window: int, apart: int) -> Tensor:
    """Means of the windows of pictures (P, C, S, S), as two products: faster than pooling."""
    along = _windows(pictures.shape[-1], window, apart)
    return along @ (pictures @ along.T)


@lru_cache
def _windows(side: int, window: int, apart: int) -> Tensor:
    """(W, side): what each of the W windows along a side takes of its pixels."""
    out = torch.zeros((side - window) // apart + 1, side, dtype=torch.float32, device="cpu")
    for number, row in enumerate(out):
        row[number * apart : number * apart + window] = 1 / window
    return out
