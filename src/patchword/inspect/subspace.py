"""The subspace of good patches: what it cannot express is a defect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.finite import check_finite
from patchword.inspect.features import patches_each, usual
from patchword.inspect.protocol import RGB, WHOLE, Finding, Needs, State, View
from patchword.inspect.rotations import rotated
from patchword.inspect.scores import smooth_map, top_share

NARROW = 0.25  # a Gaussian cut off at one pixel


@dataclass(frozen=True)
class Subspace:
    """Principal components of good patches; a patch's value is the squared length of what they
    leave over, the photo's score the mean of the top 1% of the pixels of its map (SubspaceAD,
    2026). Of several layers the mean of their tokens.

    variance    the share of the variance that the components keep
    components  how many there are instead
    rotations   each good photo counts in 8 rotations: for parts that lie in any direction
    """

    name: ClassVar[str] = "subspace"
    needs: ClassVar[Needs] = Needs()

    view: View = WHOLE
    variance: float = 0.99
    components: int | None = None
    rotations: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.variance <= 1:
            raise UnsupportedError(f"variance is {self.variance!r}; it is a share, above 0 to 1")
        if self.components is not None and self.components < 1:
            raise UnsupportedError(f"components is {self.components!r}; it is 1 or more")

    def fit(self, model: Bundle, good: Iterable[RGB]) -> State:
        """The mean (D,) and the components (D, k). Raises UnsupportedError where those are all."""
        views = (view for photo in good for view in (rotated(photo) if self.rotations else [photo]))
        count = 0
        total = squares = torch.zeros((), dtype=torch.float64, device="cpu")
        for each in patches_each(model, views, usual(model, self.view)):
            rows = _rows(each.values)
            check_finite(rows, lambda: model.no_vector("a good photo"))
            if not count:  # differences from one row: squares of small numbers lose no digits
                origin = rows[0]
            rows = rows - origin
            count += len(rows)
            total = total + rows.sum(dim=0)
            squares = squares + rows.mT @ rows
        mean = total / count
        covariance = (squares - count * torch.outer(mean, mean)) / max(count - 1, 1)
        components = principal(covariance, self.variance, self.components)
        if components.shape[1] == len(components):
            what = "variance" if self.components is None else "components"
            raise UnsupportedError(
                f"{what} is {getattr(self, what)}: that is all {len(components)} components of a "
                "patch, so that nothing is left over of any; take less"
            )
        return {"mean": (origin + mean).float(), "components": components.float()}

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        mean, components = state["mean"].double(), state["components"].double()
        for each in patches_each(model, photos, usual(model, self.view)):
            rows = _rows(each.values) - mean
            left = rows - rows @ components @ components.mT
            grid = left.square().sum(dim=1).reshape(each.values.shape[1:3]).float().numpy()
            pixels = smooth_map(grid, *each.geometry.size, truncate=NARROW, mode="mirror")
            yield Finding(top_share(torch.from_numpy(pixels)), grid, each.geometry)


def principal(covariance: Tensor, variance: float, count: int | None = None) -> Tensor:
    """The first eigenvectors (D, k) of a covariance (D, D): `count`, or as many as keep the share
    `variance` of the whole."""
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    if count is None:
        shares = values.cumsum(0) / values.sum().clamp_min(1e-300)
        count = int((shares < variance).sum()) + 1 if values.any() else 0  # of patches all alike
    kept: Tensor = vectors[:, :count]
    return kept


def _rows(values: Tensor) -> Tensor:
    """(L, h, w, D) -> (h * w, D), the mean of the layers, float64."""
    return values.double().mean(dim=0).flatten(0, 1)
