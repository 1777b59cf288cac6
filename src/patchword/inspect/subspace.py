"""Subspace: what the principal components of the good patches do not express (SubspaceAD, 2026).

With the mean m of the good patches and the first k principal components C (D, k), those that
keep the share `variance` of their variance, the residual of a patch x is

    r(x) = |(x - m) - C C^T (x - m)|^2

and the score of a photo is the mean of the top 1% of the pixels of its smoothed map of residuals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.finite import check_finite
from patchword.inspect.features import patches_each, with_layers
from patchword.inspect.protocol import DEFAULT_VIEW, RGB, Finding, Needs, State, View
from patchword.inspect.rotations import with_rotations
from patchword.inspect.scores import smooth_map, top_share

TRUNCATE = 0.25  # sigmas: the Gaussian of the map ends at one pixel


@dataclass(frozen=True)
class Subspace:
    """Principal components of good patches; a patch's value is the squared length of its residual,
    a photo's score the mean of the top 1% of the pixels of its map (SubspaceAD, 2026). Tokens of
    several layers are averaged.

    variance    the share of the variance that the components keep
    components  how many components to keep instead
    rotations   learn each good photo in 8 rotations, for parts that lie in any direction
    """

    name: ClassVar[str] = "subspace"
    needs: ClassVar[Needs] = Needs()

    view: View = DEFAULT_VIEW
    variance: float = 0.99
    components: int | None = None
    rotations: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.variance <= 1:
            raise UnsupportedError(f"variance is {self.variance!r}; it is a share, above 0 to 1")
        if self.components is not None and self.components < 1:
            raise UnsupportedError(f"components is {self.components!r}; it is 1 or more")

    def fit(self, model: Bundle, good: Iterable[RGB]) -> State:
        """The mean (D,) and the components (D, k). Raises UnsupportedError where k is D."""
        photos = with_rotations(good) if self.rotations else good
        count = 0
        total = squares = torch.zeros((), dtype=torch.float64, device="cpu")
        for photo in patches_each(model, photos, with_layers(model, self.view)):
            rows = _mean_of_layers(photo.values)
            check_finite(rows, lambda: model.no_vector("a good photo"))
            if not count:
                origin = rows[0]  # sums of differences from it lose fewer digits
            rows = rows - origin
            count += len(rows)
            total = total + rows.sum(dim=0)
            squares = squares + rows.mT @ rows
        mean = total / count
        covariance = (squares - count * torch.outer(mean, mean)) / max(count - 1, 1)
        components = principal(covariance, self.variance, self.components)
        if components.shape[1] == len(components):
            option = "variance" if self.components is None else "components"
            raise UnsupportedError(
                f"{option} is {getattr(self, option)}: that is all {len(components)} components of "
                "a patch, so that nothing is left over of any; take less"
            )
        return {"mean": (origin + mean).float(), "components": components.float()}

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        mean, components = state["mean"].double(), state["components"].double()
        for photo in patches_each(model, photos, with_layers(model, self.view)):
            centred = _mean_of_layers(photo.values) - mean
            residual = centred - centred @ components @ components.mT
            grid = residual.square().sum(dim=1).reshape(photo.grid).float().numpy()
            pixels = smooth_map(grid, *photo.geometry.size, truncate=TRUNCATE, mode="mirror")
            yield Finding(top_share(torch.from_numpy(pixels)), grid, photo.geometry)


def principal(covariance: Tensor, variance: float, count: int | None = None) -> Tensor:
    """The first eigenvectors (D, k) of a covariance (D, D): `count` of them, or the fewest that
    keep the share `variance` of the total variance."""
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)  # largest first
    if count is None and not values.any():  # all patches are equal
        count = 0
    elif count is None:
        shares = values.cumsum(0) / values.sum()
        count = int((shares < variance).sum()) + 1
    components: Tensor = vectors[:, :count]
    return components


def _mean_of_layers(values: Tensor) -> Tensor:
    """(L, h, w, D) -> (h * w, D), float64."""
    return values.double().mean(dim=0).flatten(0, 1)
