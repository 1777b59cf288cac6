"""Whether two pictures are copies of one photo: resized, compressed again, made a little brighter,
or cropped a little. No model is used.

The pictures are reduced to 64 x 64 pixels. The second is aligned with the first, by grey values: it
is scaled and shifted until it fits (Lucas and Kanade 1981, with gain and offset, coarse to fine).
Where both then have pixels, every window must have the same structure (the contrast and structure
of SSIM, Wang et al. 2004) and the same colour in both. Most pairs that are no copies are rejected
early, by their mean colours or at a coarse level.
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
ROUGH = 8  # pixels of the sides of the grey pictures that pairs are first compared by
MIN_CORRELATION = 0.75  # of these grey pictures
MIN_SHARED = 0.7  # share of each picture that the other one shows too
MIN_STRUCTURE = 0.2  # of every window
MAX_COLOUR_DIFFERENCE = 0.15  # of mean colours, from 0 to 1
# A window with less contrast than this share of the picture's has no structure. The bounds of that
# contrast, of values from 0 to 1.
FLAT, MIN_FLAT, MAX_FLAT = 0.25, 0.004, 0.03
BATCH = 512  # pairs compared at a time


class Level(NamedTuple):
    """One step from coarse to fine.

    side           of the pictures, in pixels
    iterations     of the alignment
    window         side of the windows, in pixels
    stride         distance of neighbouring windows, in pixels
    min_structure  mean over the windows; None: not checked
    max_colour     difference of a window's mean colours, from 0 to 1
    """

    side: int
    iterations: int
    window: int
    stride: int
    min_structure: float | None
    max_colour: float


# A pair must pass each level to go on to the next. Of 843 pairs that pass the last level, the worst
# colour difference was 0.21 at the first and 0.13 at the second, and the worst structure at the
# second was 0.83.
LEVELS = (
    Level(16, 6, 3, 1, None, 0.25),
    Level(32, 6, 5, 1, 0.7, 0.2),
    Level(SIZE, 2, 9, 2, 0.8, MAX_COLOUR_DIFFERENCE),
)

Small = NDArray[np.uint8]  # (64, 64, 3)


def small_picture(picture: Image.Image) -> Small:
    """A picture reduced to the size that copies are compared in."""
    square = picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(square)


def rough_features(picture: Small) -> NDArray[np.float32]:
    """Features (68,) for a quick comparison, see `are_related`: a unit vector (65,) of grey values,
    and the mean colour (3,). The last number of the unit vector is for pictures of one colour: it
    makes them alike."""
    step = SIZE // ROUGH
    cells = (picture / 255).reshape(ROUGH, step, ROUGH, step, 3).mean(axis=(1, 3))
    grey = cells.mean(axis=2).ravel()
    centred = np.append(grey - grey.mean(), MIN_FLAT)
    unit = centred / np.linalg.norm(centred)
    return np.concatenate([unit, cells.mean(axis=(0, 1))]).astype(np.float32)


def are_related(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which pairs (P,) may be copies, by the `rough_features` (P, 68) of both."""
    left, right = left.astype(np.float32), right.astype(np.float32)
    correlation = np.einsum("nd,nd->n", left[:, :-3], right[:, :-3])
    difference = np.linalg.norm(left[:, -3:] - right[:, -3:], axis=1) / 3**0.5
    related: NDArray[np.bool_]
    related = (correlation >= MIN_CORRELATION) & (difference <= MAX_COLOUR_DIFFERENCE)
    return related


@torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
def are_copies(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pairs (P,) of small pictures (P, 64, 64, 3) are copies of one photo."""
    results = [
        _are_copies(torch.from_numpy(left[i : i + BATCH]), torch.from_numpy(right[i : i + BATCH]))
        for i in range(0, len(left), BATCH)
    ]
    return torch.cat(results).numpy() if results else np.zeros(0, bool)


def _are_copies(left: Tensor, right: Tensor) -> Tensor:
    left, right = (pictures.permute(0, 3, 1, 2).float() / 255 for pictures in (left, right))
    matches = _matching(left, right)
    # Copies match in both directions; shirts of two sizes do not.
    matches = matches[_matching(right[matches], left[matches])]
    copies = left.new_zeros(len(left), dtype=torch.bool)
    copies[matches] = True
    return copies


def _matching(left: Tensor, right: Tensor) -> Tensor:
    """The indices of those pairs of pictures (P, 3, 64, 64), values 0 to 1, of which the second
    matches the first when it is aligned with it."""
    indices = torch.arange(len(left), device=left.device)  # of the pairs that still may match
    transform = left.new_tensor([1.0, 1, 0, 0]).repeat(len(left), 1)
    for level in LEVELS:
        if not len(indices):
            break
        cell = SIZE // level.side
        a, b = left, right
        if cell > 1:
            a, b = _window_means(left, cell, cell), _window_means(right, cell, cell)
        transform = _aligned(a, b, transform, level.iterations)
        fits = _fits(a, b, transform, level)
        indices, transform, left, right = indices[fits], transform[fits], left[fits], right[fits]
    return indices


def _fits(left: Tensor, right: Tensor, transform: Tensor, level: Level) -> Tensor:
    """Which pairs (P,) of pictures (P, 3, S, S) pass a level, the second one transformed."""
    warped, inside = _warped(right, transform)
    means = partial(_window_means, window=level.window, stride=level.stride)
    counted = (means(inside) > 0.99).flatten(1)
    difference = means(left) - means(warped)
    colour_difference = (difference * difference).mean(dim=1).sqrt().flatten(1)
    fits = (colour_difference * counted).amax(dim=1) <= level.max_colour
    if level.min_structure is None:
        return fits
    a, b = left.mean(dim=1, keepdim=True), warped.mean(dim=1, keepdim=True)
    mean_a, mean_b = means(a), means(b)
    variance_a, variance_b = means(a * a) - mean_a**2, means(b * b) - mean_b**2
    covariance = means(a * b) - mean_a * mean_b
    contrast = torch.minimum(a.flatten(1).std(dim=1), b.flatten(1).std(dim=1))
    flat = (FLAT * contrast).clamp(MIN_FLAT, MAX_FLAT)[:, None, None, None] ** 2
    structure = ((2 * covariance + flat) / (variance_a + variance_b + flat)).flatten(1)
    mean = (structure * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    fits &= mean >= level.min_structure
    if level is LEVELS[-1]:
        shown_of_left = inside.mean(dim=(1, 2, 3))
        shown_of_right = (transform[:, 0] * transform[:, 1]).clamp(max=1)
        fits &= torch.minimum(shown_of_left, shown_of_right) >= MIN_SHARED
        fits &= structure.where(counted, structure.new_ones(())).amin(dim=1) >= MIN_STRUCTURE
    return fits


def _aligned(left: Tensor, right: Tensor, transform: Tensor, iterations: int) -> Tensor:
    """The transforms (P, 4) that align the second of pictures (P, 3, S, S) with the first, by grey
    values: the scales of x and y, and the shifts, in coordinates from -1 to 1. transform: the
    start."""
    a, b = (pictures.mean(dim=1, keepdim=True) for pictures in (left, right))
    padded = F.pad(b, (1, 1, 1, 1), mode="replicate")
    side = a.shape[-1]
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * (side / 4)
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * (side / 4)
    stack = torch.cat([b, across, down], dim=1)
    for _ in range(iterations):
        transform = _gauss_newton_step(a, stack, transform)
    return transform


def _gauss_newton_step(a: Tensor, stack: Tensor, transform: Tensor) -> Tensor:
    """One Gauss-Newton step. a: (P, 1, S, S); stack: the other picture and its derivatives in x and
    y, (P, 3, S, S)."""
    warped, inside = _warped(stack, transform)
    y, x = _axes(a.shape[-1])
    value, across, down = (warped * inside).unbind(dim=1)
    brightness = torch.stack([value, inside[:, 0]], dim=1).flatten(2)  # (P, 2, S * S)
    wanted = (a * inside).flatten(2)
    gain_offset = _least_squares(brightness, wanted)
    slope = torch.stack([across * x, down * y, across, down], dim=1).flatten(2)
    slope = slope * gain_offset[:, :1].clamp(min=0.05)
    residual = wanted - gain_offset.transpose(1, 2) @ brightness
    step = _least_squares(torch.cat([slope, brightness], dim=1), residual)
    transform = transform + step[:, :4, 0].clamp(-0.1, 0.1)
    return torch.cat([transform[:, :2].clamp(0.6, 1.6), transform[:, 2:].clamp(-0.5, 0.5)], dim=1)


def _least_squares(columns: Tensor, wanted: Tensor) -> Tensor:
    """Damped least squares: columns (P, K, N), wanted (P, 1, N) -> (P, K, 1)."""
    square = columns @ columns.transpose(1, 2)
    damping = 1e-4 * square.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-3
    eye = torch.eye(columns.shape[1], dtype=columns.dtype, device="cpu")
    solve: Callable[[Tensor, Tensor], Tensor] = torch.linalg.solve
    return solve(square + damping[:, None, None] * eye, columns @ wanted.transpose(1, 2))


def _warped(pictures: Tensor, transform: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures (P, C, S, S) transformed, and 1 where they have pixels (P, 1, S, S)."""
    y, x = _axes(pictures.shape[-1])
    u = x * transform[:, 0, None, None] + transform[:, 2, None, None]
    v = y * transform[:, 1, None, None] + transform[:, 3, None, None]
    warped = F.grid_sample(
        pictures, torch.stack([u, v], dim=-1), padding_mode="border", align_corners=False
    )
    return warped, ((u.abs() <= 1) & (v.abs() <= 1)).float()[:, None]


def _axes(side: int) -> tuple[Tensor, Tensor]:
    """The y and x coordinates (S, S) of pixel centres, from -1 to 1."""
    centres = (torch.arange(side, dtype=torch.float32, device="cpu") + 0.5) / side * 2 - 1
    return centres[:, None].expand(side, side), centres[None, :].expand(side, side)


def _window_means(pictures: Tensor, window: int, stride: int) -> Tensor:
    """Means of the windows of pictures (P, C, S, S), as two products: faster than pooling."""
    windows = _windows(pictures.shape[-1], window, stride)
    return windows @ (pictures @ windows.T)


@lru_cache
def _windows(side: int, window: int, stride: int) -> Tensor:
    """(W, side): the weights of pixels in each of the W windows along a side."""
    weights = torch.zeros((side - window) // stride + 1, side, dtype=torch.float32, device="cpu")
    for number, row in enumerate(weights):
        row[number * stride : number * stride + window] = 1 / window
    return weights
