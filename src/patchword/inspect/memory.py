"""The memory of good patches: what is far from all of them is a defect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.finite import check_finite
from patchword.inspect.bank import Bank
from patchword.inspect.features import Patches, patches_each, usual
from patchword.inspect.foreground import foreground
from patchword.inspect.protocol import RGB, WHOLE, Finding, Needs, State, View
from patchword.inspect.rotations import rotated
from patchword.inspect.scores import top_share

AT_ONCE = 1 << 24  # cosines at once: 64 MiB
PATCHES = 100_000  # of good photos that are kept at most


@dataclass(frozen=True)
class Memory:
    """Patch tokens of unit length; a patch's value is 1 - cosine with the nearest good one, the
    photo's score the mean of its top 1% (AnomalyDINO, Damm et al. 2024).

    neighbours  the mean of the distances to so many nearest
    rotations   each good photo counts in 8 rotations: for parts that lie in any direction
    coreset     keep this share of the patches, spread out by greedy k-centre (PatchCore, Roth et
                al. 2022, algorithm 1)
    reweight    the score is the Euclidean distance of the worst patch, weighted by the 9 nearest
                neighbours of its own nearest neighbour (PatchCore, equation 7)
    half        keep the patches as float16
    patches     keep at most so many: of more a random sample, see `Bank`
    foreground  patches count where they are the object, by their first principal component, and 0
                elsewhere (AnomalyDINO, section 3.2): the threshold. 10, as there, is for DINOv2
    mask_good   of good photos, too, only patches of the object are learned from
    """

    name: ClassVar[str] = "memory"
    needs: ClassVar[Needs] = Needs()

    view: View = WHOLE
    neighbours: int = 1
    rotations: bool = False
    coreset: float = 1.0
    reweight: bool = False
    half: bool = False
    patches: int = PATCHES
    foreground: float | None = None
    mask_good: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.coreset <= 1:
            raise UnsupportedError(f"coreset is {self.coreset!r}; it is a share, above 0 to 1")
        if self.neighbours < 1:
            raise UnsupportedError(f"neighbours is {self.neighbours!r}; it is 1 or more")
        if self.patches < 1:
            raise UnsupportedError(f"patches is {self.patches!r}; it is 1 or more")
        if self.foreground is not None and not self.foreground >= 0:
            raise UnsupportedError(f"foreground is {self.foreground!r}; it is 0 or more")
        if self.mask_good and self.foreground is None:
            raise UnsupportedError("mask_good needs foreground, the threshold of the mask")

    def fit(self, model: Bundle, good: Iterable[RGB]) -> State:
        """The bank (N, L * D). Gives a SampledWarning where there are more than `patches`. Raises
        UnsupportedError where no patch of the good photos is the object."""
        views = (view for photo in good for view in (rotated(photo) if self.rotations else [photo]))
        bank = Bank(self.coreset, self.patches, self.half)
        for each in patches_each(model, views, usual(model, self.view)):
            rows = each.rows
            check_finite(rows, lambda: model.no_vector("a good photo"))
            bank.add(unit(rows[self._object(each)] if self.mask_good else rows))
        kept = bank.rows()
        if not len(kept):
            raise UnsupportedError(
                f"no patch of the good photos is the object: foreground is {self.foreground:g}; a "
                "smaller one finds more"
            )
        return {"bank": kept}

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        bank = state["bank"]
        for each in patches_each(model, photos, usual(model, self.view)):
            rows = unit(each.rows)
            found, which = nearest(rows, bank, self.neighbours)
            values = found.mean(dim=1)
            shape = each.values.shape[1], each.values.shape[2]
            if self.foreground is not None:
                values = values * self._object(each)
            worst = int(values.argmax())
            if not self.reweight:
                score = top_share(values)
            elif values[worst] <= 0:  # nothing is the object, or all of it as in good photos
                score = 0.0
            else:
                score = reweighted(rows[worst], bank, int(which[worst, 0]))
            yield Finding(score, values.reshape(shape).numpy(), each.geometry)

    def _object(self, photo: Patches) -> Tensor:
        """(h * w,) bool: which patches of a photo are the object."""
        assert self.foreground is not None
        shape = photo.values.shape[1], photo.values.shape[2]
        return foreground(photo.rows, shape, self.foreground)


def unit(rows: Tensor) -> Tensor:
    """Rows (N, D) of length 1, float32."""
    return F.normalize(rows.float(), dim=-1)


def nearest(rows: Tensor, bank: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """1 - cosine of unit rows (N, D) to the `count` nearest of a bank (M, D), ascending, and which
    those are; both (N, count), or all of a smaller bank. In parts, so that memory is bounded."""
    step = max(AT_ONCE // max(len(rows), rows.shape[1]), 1)
    best = rows.new_empty(len(rows), 0)
    which = rows.new_empty(len(rows), 0, dtype=torch.long)
    for start in range(0, len(bank), step):
        cosines = rows @ bank[start : start + step].float().mT
        found = cosines.topk(min(count, cosines.shape[1]), dim=1)
        best = torch.cat([best, found.values], dim=1)
        which = torch.cat([which, found.indices + start], dim=1)
        best, order = best.topk(min(count, best.shape[1]), dim=1)
        which = which.gather(1, order)
    return (1 - best).clamp_min(0), which


def reweighted(row: Tensor, bank: Tensor, closest: int, neighbours: int = 9) -> float:
    """The distance of a row (D,) to the nearest of a bank (M, D), times 1 - its softmax among the
    distances to that one's neighbours, itself the first (PatchCore, equation 7)."""
    apart = torch.cdist(bank[closest][None].double(), bank.double())[0]
    around = apart.topk(min(neighbours, len(bank)), largest=False).indices
    distances = torch.cdist(row[None].double(), bank[around].double())[0]
    own = float(torch.linalg.vector_norm(row.double() - bank[closest].double()))
    weight = 1 - float(distances.softmax(dim=0)[0]) if len(around) > 1 else 1.0
    return weight * own
