"""Place by place against a golden photo: what is there another thing than here is a defect."""

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
from patchword.inspect.protocol import RGB, WHOLE, Finding, Needs, State, View
from patchword.inspect.registration import Motion, correlation, register
from patchword.inspect.scores import top_share

SIDES = 0.02  # by which proportions may differ before it is said


@dataclass(frozen=True)
class Reference:
    """One golden photo, or a few, of the same thing in the same place. Each is moved to lie on the
    photo; a patch's value is 1 - cosine with the most like of the golden patches around its own
    place, the photo's score the mean of the top 1%. What no golden photo shows, at a margin, counts
    as good. Without layers in the view: the last block of the first quarter of a ViT, before a
    defect shows in the patches around it; of another tower the last.

    radius  how many patches around: 1 looks at 3 x 3 places
    align   whether the golden photo is moved; else it lies on the photo as it is
    turn    degrees up to which it is turned
    """

    name: ClassVar[str] = "reference"
    needs: ClassVar[Needs] = Needs(most=4)

    view: View = WHOLE
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
        photos = enumerate(good)
        return {f"photo.{n}": torch.from_numpy(np.array(each)) for n, each in photos}

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        """Of a photo whose proportions are others, that is moved by much, or that looks otherwise,
        the finding says so."""
        golden = [state[name].numpy() for name in sorted(state)]
        view = self.view if self.view.layers else replace(self.view, layers=quarters(model)[:1])
        for photo in photos:
            beside = [self._laid(model, each, photo) for each in golden]
            seen, *known = patches_each(model, [photo, *(each for each, _ in beside)], view)
            shown = [motion for _, motion in beside]
            grid = self._values(seen, known, shown)
            other = (each.shape[:2] for each in golden if _stretched(each, photo))
            beyond = [1 - float(each.covered(*photo.shape[:2]).mean()) for each in shown]
            fit = max(correlation(each, photo, motion) for each, motion in beside)
            yield Finding(
                top_share(grid), grid.numpy(), seen.geometry, next(other, None), min(beyond), fit
            )

    def _laid(self, model: Bundle, golden: RGB, photo: RGB) -> tuple[RGB, Motion]:
        """A golden photo at the photo's size, moved to lie on it, and how."""
        if golden.shape != photo.shape:
            golden = resize(golden, photo.shape[:2], model.preprocess.config)
        motion = register(golden, photo, self.turn) if self.align else Motion()
        return motion.apply(golden), motion

    def _values(self, seen: Patches, known: list[Patches], shown: list[Motion]) -> Tensor:
        """(h, w): of each place the least over the golden photos that show it."""
        rows = F.normalize(seen.values.permute(1, 2, 0, 3).flatten(2), dim=-1)
        size = (rows.shape[0], rows.shape[1])
        found = rows.new_full(size, torch.inf)
        for each, motion in zip(known, shown, strict=True):
            golden = F.normalize(each.values.permute(1, 2, 0, 3).flatten(2), dim=-1)
            values = unlike_around(rows, golden, self.radius)
            covered = torch.from_numpy(motion.covered(*seen.geometry.source)).float()
            whole = F.adaptive_avg_pool2d(covered[None, None], size)[0, 0] > 0.999
            found = torch.where(whole, torch.minimum(found, values), found)
        return found.masked_fill(found.isinf(), 0)


def _stretched(golden: RGB, photo: RGB) -> bool:
    height, width = photo.shape[:2]
    factor: float = (height * golden.shape[1]) / (width * golden.shape[0])
    return abs(factor - 1) > SIDES


def unlike_around(rows: Tensor, golden: Tensor, radius: int) -> Tensor:
    """1 - cosine of unit vectors (h, w, D) with the most like of golden ones (h, w, D) at most
    `radius` rows and columns away: (h, w)."""
    height, width = rows.shape[:2]
    best = rows.new_full((height, width), -torch.inf)
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            top, left = max(-down, 0), max(-right, 0)
            bottom, end = height - max(down, 0), width - max(right, 0)
            if bottom <= top or end <= left:
                continue
            here = rows[top:bottom, left:end]
            there = golden[top + down : bottom + down, left + right : end + right]
            part = best[top:bottom, left:end]
            torch.maximum(part, (here * there).sum(dim=-1), out=part)
    return (1 - best).clamp_min(0)
