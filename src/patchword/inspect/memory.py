"""Memory: the distance of each patch to the nearest patch of the good photos.

The distance of a patch p to a bank M of good patches, both of length 1, and the score of a photo
with n patches (AnomalyDINO, Damm et al. 2024, section 3.1):

    d(p; M) = min over m in M of 1 - cos(p, m)
    score   = mean of the largest 1% of d

Or PatchCore's (Roth et al. 2022): a bank thinned by greedy k-centre (algorithm 1), and the score
of equation 7, see `reweighted`.
"""

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
from patchword.inspect.features import Patches, patches_each, with_layers
from patchword.inspect.foreground import foreground
from patchword.inspect.protocol import DEFAULT_VIEW, RGB, Finding, Needs, State, View
from patchword.inspect.rotations import with_rotations
from patchword.inspect.scores import top_share

BLOCK = 1 << 24  # cosines computed at a time: 64 MiB
PATCHES = 100_000  # limit of the bank


@dataclass(frozen=True)
class Memory:
    """Patch tokens of length 1 from good photos; a patch's value is 1 - cosine with the nearest
    one, a photo's score the mean of its top 1% (AnomalyDINO, Damm et al. 2024).

    neighbours  a patch's value is the mean distance to this many nearest patches
    rotations   learn each good photo in 8 rotations, for parts that lie in any direction
    coreset     keep this share of the good patches, chosen by greedy k-centre (PatchCore, Roth et
                al. 2022, algorithm 1)
    reweight    the score is PatchCore's equation 7, see `reweighted`
    half        keep the good patches as float16
    patches     keep at most this many good patches; of more a random sample, see `Bank`
    foreground  threshold on the first principal component that separates the object from the
                background, whose patches get the value 0 (AnomalyDINO, section 3.2). The paper's
                10 is for DINOv2
    mask_good   learn only from patches of the object in good photos, too
    """

    name: ClassVar[str] = "memory"
    needs: ClassVar[Needs] = Needs()

    view: View = DEFAULT_VIEW
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
        photos = with_rotations(good) if self.rotations else good
        bank = Bank(self.coreset, self.patches, self.half)
        for photo in patches_each(model, photos, with_layers(model, self.view)):
            rows = photo.rows
            check_finite(rows, lambda: model.no_vector("a good photo"))
            if self.mask_good:
                rows = rows[self._is_object(photo)]
            bank.add(unit(rows))
        good_patches = bank.rows()
        if not len(good_patches):
            raise UnsupportedError(
                f"no patch of the good photos is the object: foreground is {self.foreground:g}; a "
                "smaller one finds more"
            )
        return {"bank": good_patches}

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        bank = state["bank"]
        for photo in patches_each(model, photos, with_layers(model, self.view)):
            rows = unit(photo.rows)
            distances, indices = nearest(rows, bank, self.neighbours)
            values = distances.mean(dim=1)
            if self.foreground is not None:
                values = values * self._is_object(photo)
            worst = int(values.argmax())
            if not self.reweight:
                score = top_share(values)
            elif values[worst] <= 0:  # no patch is the object, or all are equal to good ones
                score = 0.0
            else:
                score = reweighted(rows[worst], bank, int(indices[worst, 0]))
            yield Finding(score, values.reshape(photo.grid).numpy(), photo.geometry)

    def _is_object(self, photo: Patches) -> Tensor:
        """(h * w,) bool: which patches of a photo are the object."""
        assert self.foreground is not None
        return foreground(photo.rows, photo.grid, self.foreground)


def unit(rows: Tensor) -> Tensor:
    """Rows (N, D) of length 1, float32."""
    return F.normalize(rows.float(), dim=-1)


def nearest(rows: Tensor, bank: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The distances 1 - cosine of unit rows (N, D) to their `count` nearest in a bank (M, D),
    ascending, and the indices of those: both (N, min(count, M)). Computed block by block, to bound
    memory."""
    step = max(BLOCK // max(len(rows), rows.shape[1]), 1)
    best = rows.new_empty(len(rows), 0)
    indices = rows.new_empty(len(rows), 0, dtype=torch.long)
    for start in range(0, len(bank), step):
        cosines = rows @ bank[start : start + step].float().mT
        top = cosines.topk(min(count, cosines.shape[1]), dim=1)
        best = torch.cat([best, top.values], dim=1)
        indices = torch.cat([indices, top.indices + start], dim=1)
        best, order = best.topk(min(count, best.shape[1]), dim=1)
        indices = indices.gather(1, order)
    return (1 - best).clamp_min(0), indices


def reweighted(row: Tensor, bank: Tensor, closest: int, neighbours: int = 9) -> float:
    """The score of a photo whose worst patch is `row` (D,) (PatchCore, equation 7):

        s = (1 - exp(|p - m*|) / sum over m in N(m*) of exp(|p - m|)) * |p - m*|

    p is the row, m* = bank[closest] its nearest patch in the bank (M, D), and N(m*) the
    `neighbours` patches of the bank that are nearest to m*, itself included.
    """
    from_closest = torch.cdist(bank[closest][None].double(), bank.double())[0]
    around = from_closest.topk(min(neighbours, len(bank)), largest=False).indices
    distances = torch.cdist(row[None].double(), bank[around].double())[0]
    distance = float(torch.linalg.vector_norm(row.double() - bank[closest].double()))
    weight = 1 - float(distances.softmax(dim=0)[0]) if len(around) > 1 else 1.0
    return weight * distance
