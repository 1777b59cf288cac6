"""Reference: each place of a photo is compared with the same place of a golden photo.

The golden photo is first registered to the photo. Then, with unit patch tokens p of the photo and
g of the golden photo, a patch at (y, x) has the value

    v(y, x) = min over |dy|, |dx| <= radius of 1 - cos(p(y, x), g(y + dy, x + dx))

and a photo's score is the mean of its top 1%. Of several golden photos the least value counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.images.preprocess import resize
from patchword.inspect.features import Patches, patches_each, quarters
from patchword.inspect.protocol import DEFAULT_VIEW, RGB, Finding, Needs, State, View
from patchword.inspect.registration import Motion, correlation, register
from patchword.inspect.scores import top_share

PROPORTIONS = 0.02  # by which proportions may differ without a warning


@dataclass(frozen=True)
class Reference:
    """One to four golden photos of the same object in the same place. Each is registered to the
    photo; a patch's value is 1 - cosine with the most similar golden patch around its place, the
    photo's score the mean of its top 1%. Margins that no golden photo covers count as good. Without
    layers in the view: the last block of the first quarter of a ViT, before blocks mix a defect
    into the patches around it; of another tower the last.

    radius  patches around a place that are compared: 1 compares 3 x 3 places
    align   whether the golden photo is shifted and rotated to match the photo
    turn    degrees by which it is rotated at most
    """

    name: ClassVar[str] = "reference"
    needs: ClassVar[Needs] = Needs(most=4)

    view: View = DEFAULT_VIEW
    radius: int = 1
    align: bool = True
    turn: float = 3.0

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise UnsupportedError(f"radius is {self.radius!r}; it is 0 or more patches")
        if not 0 <= self.turn <= 45:
            raise UnsupportedError(f"turn is {self.turn!r}; it is 0 to 45 degrees")

    def fit(self, model: Bundle, good: Iterable[RGB]) -> State:
        """The photos themselves (H, W, 3)."""
        return {f"photo.{n}": torch.from_numpy(np.array(photo)) for n, photo in enumerate(good)}

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        """The findings also tell a photo with other proportions than the golden one, one that is
        shifted out of it in part, and one that does not look like it."""
        golden = [state[name].numpy() for name in sorted(state)]
        view = self.view if self.view.layers else replace(self.view, layers=quarters(model)[:1])
        for photo in photos:
            registered = [self._registered(model, each, photo) for each in golden]
            moved = [each for each, _ in registered]
            motions = [motion for _, motion in registered]
            patches, *golden_patches = patches_each(model, [photo, *moved], view)
            grid = self._values(patches, golden_patches, motions)
            stretched = (each.shape[:2] for each in golden if _is_stretched(each, photo))
            covered = max(float(motion.covered(*photo.shape[:2]).mean()) for motion in motions)
            yield Finding(
                top_share(grid),
                grid.numpy(),
                patches.geometry,
                golden_size=next(stretched, None),
                uncovered=1 - covered,
                correlation=max(correlation(each, photo, motion) for each, motion in registered),
            )

    def _registered(self, model: Bundle, golden: RGB, photo: RGB) -> tuple[RGB, Motion]:
        """A golden photo at the photo's size, moved to match it, and its motion."""
        if golden.shape != photo.shape:
            golden = resize(golden, photo.shape[:2], model.preprocess.config)
        motion = register(golden, photo, self.turn) if self.align else Motion()
        return motion.apply(golden), motion

    def _values(
        self, patches: Patches, golden_patches: list[Patches], motions: list[Motion]
    ) -> Tensor:
        """(h, w): the least value of each place over the golden photos that cover it; 0 where none
        does."""
        rows = _unit_grid(patches)
        least = rows.new_full(patches.grid, torch.inf)
        for golden, motion in zip(golden_patches, motions, strict=True):
            values = distance_around(rows, _unit_grid(golden), self.radius)
            covered = torch.from_numpy(motion.covered(*patches.geometry.source)).float()
            is_covered = F.adaptive_avg_pool2d(covered[None, None], patches.grid)[0, 0] > 0.999
            least = torch.where(is_covered, torch.minimum(least, values), least)
        return least.masked_fill(least.isinf(), 0)


def _unit_grid(patches: Patches) -> Tensor:
    """(h, w, L * D): the tokens of all layers at each place, of length 1."""
    return F.normalize(patches.rows.unflatten(0, patches.grid), dim=-1)  # type: ignore[no-untyped-call]


def _is_stretched(golden: RGB, photo: RGB) -> bool:
    height, width = photo.shape[:2]
    factor: float = (height * golden.shape[1]) / (width * golden.shape[0])
    return abs(factor - 1) > PROPORTIONS


def distance_around(rows: Tensor, golden: Tensor, radius: int) -> Tensor:
    """1 - cosine of unit rows (h, w, D) with the nearest of the golden unit rows (h, w, D) that are
    at most `radius` rows and columns away: (h, w)."""
    height, width = rows.shape[:2]
    best = rows.new_full((height, width), -torch.inf)
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            top, left = max(-down, 0), max(-right, 0)
            bottom, end = height - max(down, 0), width - max(right, 0)
            if bottom <= top or end <= left:
                continue
            shifted = golden[top + down : bottom + down, left + right : end + right]
            cosines = (rows[top:bottom, left:end] * shifted).sum(dim=-1)
            part = best[top:bottom, left:end]
            torch.maximum(part, cosines, out=part)
    return (1 - best).clamp_min(0)
