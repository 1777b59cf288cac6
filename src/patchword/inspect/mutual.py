"""Photos of one batch, judged by each other: what a patch has in common with few of the other
photos is a defect. No good photo is needed."""

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
from patchword.inspect.protocol import RGB, WHOLE, Finding, Needs, State, View
from patchword.nn.inference_mode import inference

LARGEST = 4 << 30  # bytes of the patches of a batch
EPS = 1e-5


@dataclass(frozen=True)
class Seen:
    """What the method keeps of a photo."""

    values: Tensor  # (L, h, w, D) patch tokens
    vector: Tensor  # (D',) of the photo, unit length
    geometry: Geometry


@dataclass(frozen=True)
class Mutual:
    """MuSc (Li et al. 2024): patch tokens averaged over neighbourhoods; a patch's value is its
    distance to the nearest patch of another photo, the mean over the photos that are nearest; the
    mean over layers and neighbourhoods. A photo's score is the largest value, and then the mean
    over the photos that are most like it. It is of its batch: scores of two batches cannot be
    compared, and a defect that most photos of a batch have is not found.

    Without layers in the view: four of a ViT, a quarter of its depth apart; of another tower the
    last.

    neighbourhoods  sides r of the r x r patches that are averaged, odd
    share           of the other photos, those nearest to a patch, at least one
    alike           each k: a score is averaged over k photos, the photo itself the first; the mean
                    over all k. Empty: scores stay as they are
    """

    name: ClassVar[str] = "mutual"
    needs: ClassVar[Needs] = Needs(good=0, batch=True)

    view: View = WHOLE
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
        """Nothing: good photos are not looked at."""
        return {}

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        """Raises UnsupportedError for a single photo, and for more patches than `LARGEST`."""
        seen = self._seen(model, photos)
        if len(seen) == 1:
            raise UnsupportedError("mutual compares photos with each other: give at least two")
        if not seen:
            return
        grids = mutual_maps([each.values for each in seen], self.neighbourhoods, self.share)
        scores = torch.stack(
            [largest(grid, each.geometry.size) for grid, each in zip(grids, seen, strict=True)]
        )
        if self.alike:
            scores = alike(scores, torch.stack([each.vector for each in seen]), self.alike)
        for score, grid, each in zip(scores.tolist(), grids, seen, strict=True):
            yield Finding(score, grid.numpy(), each.geometry)

    def _seen(self, model: Bundle, photos: Iterable[RGB]) -> list[Seen]:
        view = self.view
        if not view.layers:
            view = replace(view, layers=quarters(model))
        found: list[Seen] = []
        size = 0
        for photo in photos:
            each = tiles(model, photo, view)
            values = joined(tokens(model, each.pixels, view.layers), each.rows, each.columns)
            with inference(model.own_network):
                vectors = model.image_tower(each.pixels).float().cpu()
            vector = F.normalize(F.normalize(vectors, dim=-1).mean(dim=0), dim=-1)
            found.append(Seen(values, vector, each.geometry))
            size += values.nbytes
            if size > LARGEST:
                raise UnsupportedError(
                    f"the patches of {len(found)} photos take more than {LARGEST >> 30} GiB; give "
                    "fewer photos, fewer layers or a smaller short side"
                )
        return found


def mutual_maps(
    photos: Sequence[Tensor], neighbourhoods: Sequence[int], share: float
) -> list[Tensor]:
    """Patch tokens (L, h, w, D) of each photo -> values (h, w) of its patches: the mean over
    neighbourhoods and layers of `mutual_scores`."""
    totals = [photo.new_zeros(photo.shape[1] * photo.shape[2]) for photo in photos]
    layers = len(photos[0])
    for layer in range(layers):
        for side in neighbourhoods:
            rows = [neighbourhood(photo[layer], side).flatten(0, 1) for photo in photos]
            for total, found in zip(totals, mutual_scores(rows, share), strict=True):
                total += found
    count = layers * len(neighbourhoods)
    return [
        (total / count).reshape(photo.shape[1:3])
        for total, photo in zip(totals, photos, strict=True)
    ]


def neighbourhood(values: Tensor, side: int) -> Tensor:
    """Tokens (h, w, D) of one layer of a photo -> the means of side x side of them, of unit length:
    normalised over all of the photo first, zeros beyond its border (MuSc, section 3.2)."""
    x = F.layer_norm(values, values.shape, eps=EPS).permute(2, 0, 1)  # (D, h, w)
    means = F.avg_pool2d(x, side, stride=1, padding=side // 2)
    return F.normalize(means.permute(1, 2, 0), dim=-1)


def mutual_scores(rows: Sequence[Tensor], share: float) -> list[Tensor]:
    """Unit rows (N, D) of each photo -> a value for each (N,): the Euclidean distance to the
    nearest row of another photo, the mean over the int(share * others) photos where it is least,
    at least one (MuSc, equations 3 and 5)."""
    count = len(rows)
    closest = [each.new_empty(count, len(each)) for each in rows]
    for i in range(count):
        for j in range(i + 1, count):
            cosines = rows[i] @ rows[j].mT
            closest[i][j], closest[j][i] = cosines.amax(dim=1), cosines.amax(dim=0)
    kept = max(int(share * (count - 1)), 1)
    out = []
    for i, cosines in enumerate(closest):
        others = torch.cat([cosines[:i], cosines[i + 1 :]])
        distances = (2 - 2 * others.topk(kept, dim=0).values).clamp_min(0).sqrt()
        out.append(distances.mean(dim=0))
    return out


def largest(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """The largest value () of a grid (h, w) at that many pixels, corners on corners."""
    pixels = F.interpolate(grid[None, None], size, mode="bilinear", align_corners=True)
    return pixels.max()


def alike(scores: Tensor, vectors: Tensor, counts: Sequence[int]) -> Tensor:
    """Scores (n,) averaged over the photos that are most alike, weighted by their cosines: for each
    k the k nearest of the unit vectors (n, D), itself among them; the mean over all k (MuSc,
    section 3.4)."""
    cosines = vectors @ vectors.mT
    found = []
    for count in counts:
        near = cosines.topk(min(count, len(scores)), dim=1)
        weights = torch.zeros_like(cosines).scatter(1, near.indices, near.values)
        found.append(weights / weights.sum(dim=1, keepdim=True) @ scores)
    return torch.stack(found).mean(dim=0)
