"""Whether two pictures are copies of one photo: resized, compressed anew, made a little brighter,
or cropped a little. Models play no part in it.

Small pictures of both are laid on one another, by their grey values: the second is stretched and
moved until it fits the first (Lucas and Kanade 1981, with gain and offset, coarse to fine). Of what
they share, each window must have the structure that it has in the other (the contrast and
structure of SSIM, Wang et al. 2004), and the colours.
"""

from __future__ import annotations

from collections.abc import Callable
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
LEVELS = ((16, 6), (32, 6), (64, 2))  # sides, and steps with each, of laying one on the other
SHARED = 0.7  # least share of each picture that the other shows too
WINDOW, STEP = 9, 2  # pixels of windows that are compared, and between them
STRUCTURE = 0.8  # least mean of the windows' structure
WORST = 0.2  # least structure of any window
COLOUR = 0.15  # most that a window's mean colour may differ, of 1
# Contrast, as a share of the picture's, below which a window has no structure; its bounds, of 1.
FLAT, LEAST_FLAT, MOST_FLAT = 0.25, 0.004, 0.03
BATCH = 256  # pairs compared at a time

Small = NDArray[np.uint8]  # (64, 64, 3)


def small(picture: Image.Image) -> Small:
    """What copies are known by."""
    square = picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(square)


def rough(picture: Small) -> NDArray[np.float32]:
    """A unit vector (65,): the products of two tell pictures apart that are no copies. The last
    number is for pictures of one colour, which all look alike here."""
    step = SIZE // ROUGH
    grey = (picture.mean(axis=2) / 255).reshape(ROUGH, step, ROUGH, step).mean(axis=(1, 3)).ravel()
    apart = np.append(grey - grey.mean(), LEAST_FLAT)
    unit: NDArray[np.float32] = (apart / np.linalg.norm(apart)).astype(np.float32)
    return unit


def copies(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pairs (P,) of small pictures (P, 64, 64, 3) are copies of one photo."""
    parts = [
        _copies(torch.from_numpy(left[i : i + BATCH]), torch.from_numpy(right[i : i + BATCH]))
        for i in range(0, len(left), BATCH)
    ]
    return torch.cat(parts).numpy() if parts else np.zeros(0, bool)


class Fit(NamedTuple):
    """How alike pairs are where one lies on the other: each (P,)."""

    shared: Tensor
    structure: Tensor
    worst: Tensor
    colour: Tensor


def fit(left: Tensor, right: Tensor) -> Fit:
    """Of pictures (P, 3, 64, 64), 0 to 1, laid on one another."""
    place = _place(left.mean(dim=1, keepdim=True), right.mean(dim=1, keepdim=True))
    moved, inside = _moved(right, place)
    shared = torch.minimum(inside.mean(dim=(1, 2, 3)), (place[:, 0] * place[:, 1]).clamp(max=1))
    a, b = left.mean(dim=1, keepdim=True), moved.mean(dim=1, keepdim=True)
    mean_a, mean_b = _windows(a), _windows(b)
    spread_a, spread_b = _windows(a * a) - mean_a**2, _windows(b * b) - mean_b**2
    common = _windows(a * b) - mean_a * mean_b
    whole = torch.minimum(a.flatten(1).std(dim=1), b.flatten(1).std(dim=1))
    flat = (FLAT * whole).clamp(LEAST_FLAT, MOST_FLAT)[:, None, None, None] ** 2
    structure = ((2 * common + flat) / (spread_a + spread_b + flat)).flatten(1)
    counted = (_windows(inside) > 0.99).flatten(1)
    colour = (_windows(left) - _windows(moved)).norm(dim=1).flatten(1) / 3**0.5
    return Fit(
        shared,
        (structure * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1),
        structure.where(counted, torch.ones(())).amin(dim=1),
        (colour * counted).amax(dim=1),
    )


def _copies(left: Tensor, right: Tensor) -> Tensor:
    left, right = (each.permute(0, 3, 1, 2).float() / 255 for each in (left, right))
    same = _alike(left, right)
    # What lies on the other must fit the other way round too: shirts of two sizes do not.
    if same.any():
        same[same.clone()] = _alike(right[same], left[same])
    return same


def _alike(left: Tensor, right: Tensor) -> Tensor:
    found = fit(left, right)
    return (
        (found.shared >= SHARED)
        & (found.structure >= STRUCTURE)
        & (found.worst >= WORST)
        & (found.colour <= COLOUR)
    )


def _place(left: Tensor, right: Tensor) -> Tensor:
    """Where the second greys (P, 1, 64, 64) lie on the first: (P, 4), the scales of x and y and
    the moves, of coordinates from -1 to 1."""
    place = torch.tensor([1.0, 1, 0, 0]).repeat(len(left), 1)
    for side, steps in LEVELS:
        a, b = (F.interpolate(each, (side, side), mode="area") for each in (left, right))
        padded = F.pad(b, (1, 1, 1, 1), mode="replicate")
        across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * (side / 4)
        down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * (side / 4)
        stack = torch.cat([b, across, down], dim=1)
        for _ in range(steps):
            place = _stepped(a, stack, place)
    return place


def _stepped(a: Tensor, stack: Tensor, place: Tensor) -> Tensor:
    """One step of Gauss and Newton. a: (P, 1, S, S); stack: the other picture, and how it changes
    along x and along y (P, 3, S, S)."""
    moved, inside = _moved(stack, place)
    y, x = _axes(a.shape[-1])
    value, across, down = moved.unbind(dim=1)
    light = torch.stack([value, torch.ones_like(value)], dim=-1)
    light = (light * inside[:, 0, ..., None]).flatten(1, 2)  # (P, S * S, 2)
    wanted = (a * inside).flatten(1)[..., None]
    gain = _solved(light, wanted)
    slope = torch.stack([across * x, down * y, across, down], dim=-1) * inside[:, 0, ..., None]
    slope = slope.flatten(1, 2) * gain[:, :1].clamp(min=0.05)
    step = _solved(torch.cat([slope, light], dim=-1), wanted - light @ gain)
    place = place + step[:, :4, 0].clamp(-0.1, 0.1)
    return torch.cat([place[:, :2].clamp(0.6, 1.6), place[:, 2:].clamp(-0.5, 0.5)], dim=1)


def _solved(rows: Tensor, wanted: Tensor) -> Tensor:
    """Damped least squares: rows (P, N, K), wanted (P, N, 1) -> (P, K, 1)."""
    square = rows.transpose(1, 2) @ rows
    damping = 1e-4 * square.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-3
    eye = torch.eye(rows.shape[2])
    solve: Callable[[Tensor, Tensor], Tensor] = torch.linalg.solve
    return solve(square + damping[:, None, None] * eye, rows.transpose(1, 2) @ wanted)


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
    middle = (torch.arange(side) + 0.5) / side * 2 - 1
    return middle[:, None].expand(side, side), middle[None, :].expand(side, side)


def _windows(pictures: Tensor) -> Tensor:
    return F.avg_pool2d(pictures, WINDOW, STEP)
