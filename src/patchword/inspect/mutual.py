"""Mutual scoring of the photos of one batch (MuSc, Li et al. 2024): no good photo is needed.

With the tokens of a photo i averaged over r x r neighbourhoods and brought to length 1 (section
3.2), a patch p is compared with every other photo j, and its value is the mean over the share of
those photos that have the nearest patches (equations 3 and 5):

    a_j(p)   = min over patches q of photo j of |p - q|
    value(p) = mean of the smallest 30% of a_j(p) over the photos j != i

averaged over layers and r = 1, 3, 5. The score of a photo is the largest value of its map, then
averaged over the photos most like it (section 3.4), see `rescored`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.images.preprocess import Geometry
from patchword.inspect.features import joined, quarters, tiles, tokens
from patchword.inspect.protocol import DEFAULT_VIEW, RGB, Finding, Needs, State, View
from patchword.nn.inference_mode import inference

MAX_BYTES = 4 << 30  # of the patch tokens of a batch
EPS = 1e-5


@dataclass(frozen=True)
class PhotoFeatures:
    """The features of one photo."""

    values: Tensor  # (L, h, w, D) patch tokens
    vector: Tensor  # (D',) image vector, unit length
    geometry: Geometry


@dataclass(frozen=True)
class Mutual:
    """MuSc (Li et al. 2024): patch tokens averaged over neighbourhoods; a patch's value is its
    distance to the nearest patch of another photo, averaged over the photos that are nearest, and
    over layers and neighbourhoods. A photo's score is its largest value, averaged over the photos
    most like it. Scores of two batches cannot be compared, and a defect that most photos of a batch
    have is not found.

    Without layers in the view: the last block of each quarter of a ViT; of another tower the last.

    neighbourhoods  sides r, odd, of the r x r patches that are averaged
    share           of the other photos, those nearest to a patch, at least one
    alike           a score is averaged over the k photos most like the photo, itself included, for
                    each k given here; then over all k. (): scores stay as they are
    """

    name: ClassVar[str] = "mutual"
    needs: ClassVar[Needs] = Needs(good=0, batch=True)

    view: View = DEFAULT_VIEW
    neighbourhoods: tuple[int, ...] = (1, 3, 5)
    share: float = 0.3
    alike: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        if not self.neighbourhoods or any(r < 1 or r % 2 == 0 for r in self.neighbourhoods):
            raise UnsupportedError(f"neighbourhoods are {self.neighbourhoods}; each is odd")
        if not 0 < self.share <= 1:
            raise UnsupportedError(f"share is {self.share!r}; it is above 0 to 1")
        if any(k < 1 for k in self.alike):
            raise UnsupportedError(f"alike is {self.alike}; each is 1 or more")

    def fit(self, model: Bundle, good: Iterable[RGB]) -> State:
        """Learns nothing."""
        return {}

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        """Raises UnsupportedError for a single photo, and for more patches than `MAX_BYTES`."""
        batch = self._features(model, photos)
        if len(batch) == 1:
            raise UnsupportedError("mutual compares photos with each other: give at least two")
        if not batch:
            return
        grids = mutual_maps([photo.values for photo in batch], self.neighbourhoods, self.share)
        scores = torch.stack(
            [largest(grid, photo.geometry.size) for grid, photo in zip(grids, batch, strict=True)]
        )
        if self.alike:
            scores = rescored(scores, torch.stack([photo.vector for photo in batch]), self.alike)
        for score, grid, photo in zip(scores.tolist(), grids, batch, strict=True):
            yield Finding(score, grid.numpy(), photo.geometry)

    def _features(self, model: Bundle, photos: Iterable[RGB]) -> list[PhotoFeatures]:
        view = self.view
        if not view.layers:
            view = replace(view, layers=quarters(model))
        batch: list[PhotoFeatures] = []
        size = 0
        for photo in photos:
            cut = tiles(model, photo, view)
            values = joined(tokens(model, cut.pixels, view.layers), cut.rows, cut.columns)
            with inference(model.own_network):
                vectors = model.image_tower(cut.pixels).float().cpu()
            vector = F.normalize(F.normalize(vectors, dim=-1).mean(dim=0), dim=-1)
            batch.append(PhotoFeatures(values, vector, cut.geometry))
            size += values.nbytes
            if size > MAX_BYTES:
                raise UnsupportedError(
                    f"the patches of {len(batch)} photos take more than {MAX_BYTES >> 30} GiB; "
                    "give fewer photos, fewer layers or a smaller short side"
                )
        return batch


def mutual_maps(
    photos: Sequence[Tensor], neighbourhoods: Sequence[int], share: float
) -> list[Tensor]:
    """Patch tokens (L, h, w, D) of each photo -> values (h, w) of its patches: `mutual_scores`,
    averaged over neighbourhoods and layers."""
    totals = [photo.new_zeros(photo.shape[1] * photo.shape[2]) for photo in photos]
    layers = len(photos[0])
    for layer in range(layers):
        for side in neighbourhoods:
            rows = [neighbourhood(photo[layer], side).flatten(0, 1) for photo in photos]
            for total, scores in zip(totals, mutual_scores(rows, share), strict=True):
                total += scores
    count = layers * len(neighbourhoods)
    return [
        (total / count).reshape(photo.shape[1:3])
        for total, photo in zip(totals, photos, strict=True)
    ]


def neighbourhood(values: Tensor, side: int) -> Tensor:
    """Tokens (h, w, D) of one layer of a photo -> their means over side x side places, of length 1.
    The tokens are first normalised over the whole photo, and are 0 beyond its border (MuSc, section
    3.2)."""
    x = F.layer_norm(values, values.shape, eps=EPS).permute(2, 0, 1)  # (D, h, w)
    means = F.avg_pool2d(x, side, stride=1, padding=side // 2)
    return F.normalize(means.permute(1, 2, 0), dim=-1)


def mutual_scores(rows: Sequence[Tensor], share: float) -> list[Tensor]:
    """Unit rows (N, D) of each photo -> a value for each row (N,): the Euclidean distance to the
    nearest row of another photo (MuSc, equation 3), averaged over the int(share * others) photos
    where it is smallest, at least one (equation 5)."""
    count = len(rows)
    closest = [photo.new_empty(count, len(photo)) for photo in rows]  # cosines
    for i in range(count):
        for j in range(i + 1, count):
            cosines = rows[i] @ rows[j].mT
            closest[i][j], closest[j][i] = cosines.amax(dim=1), cosines.amax(dim=0)
    used = max(int(share * (count - 1)), 1)
    scores = []
    for i, cosines in enumerate(closest):
        others = torch.cat([cosines[:i], cosines[i + 1 :]])
        distances = (2 - 2 * others.topk(used, dim=0).values).clamp_min(0).sqrt()
        scores.append(distances.mean(dim=0))
    return scores


def largest(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """The largest value () of a grid (h, w) enlarged to `size` pixels, with aligned corners."""
    pixels = F.interpolate(grid[None, None], size, mode="bilinear", align_corners=True)
    return pixels.max()


def rescored(scores: Tensor, vectors: Tensor, counts: Sequence[int]) -> Tensor:
    """Scores (n,) averaged over the photos most like each, whose unit vectors are (n, D) (MuSc,
    section 3.4): for each k in `counts`

        s'_i = sum over the k nearest j of cos(i, j) s_j / sum over them of cos(i, j)

    i itself among them; then the mean over all k.
    """
    cosines = vectors @ vectors.mT
    averages = []
    for count in counts:
        near = cosines.topk(min(count, len(scores)), dim=1)
        weights = torch.zeros_like(cosines).scatter(1, near.indices, near.values)
        averages.append(weights / weights.sum(dim=1, keepdim=True) @ scores)
    return torch.stack(averages).mean(dim=0)
