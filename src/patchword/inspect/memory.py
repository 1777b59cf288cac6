"""The memory of good patches: what is far from all of them is a defect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.bundle import Bundle
from patchword.inspect.features import patches_each
from patchword.inspect.protocol import RGB, WHOLE, Finding, Needs, Progress, State, View
from patchword.inspect.scores import top_share

ROWS = 1 << 24  # cosines at once: 64 MiB


@dataclass(frozen=True)
class Memory:
    """Patch tokens of unit length; a patch's value is 1 - cosine with the nearest good one, the
    photo's score the mean of its top 1% (AnomalyDINO, Damm et al. 2024).

    neighbours  the mean of the distances to so many nearest
    """

    name: ClassVar[str] = "memory"
    needs: ClassVar[Needs] = Needs()

    view: View = WHOLE
    neighbours: int = 1

    def fit(self, model: Bundle, good: Iterable[RGB], progress: Progress | None = None) -> State:
        """The bank (N, L * D)."""
        rows = [unit(each.rows) for each in patches_each(model, good, self.view)]
        return {"bank": torch.cat(rows)}

    def score(self, model: Bundle, state: State, photos: Iterable[RGB]) -> Iterator[Finding]:
        for each in patches_each(model, photos, self.view):
            found, _ = nearest(unit(each.rows), state["bank"], self.neighbours)
            grid = found.mean(dim=1).unflatten(0, each.values.shape[1:3])  # type: ignore[no-untyped-call]
            yield Finding(top_share(grid), grid.numpy(), each.geometry)


def unit(rows: Tensor) -> Tensor:
    """Rows (N, D) of length 1, float32."""
    return F.normalize(rows, dim=-1)


def nearest(rows: Tensor, bank: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """1 - cosine of unit rows (N, D) to the `count` nearest of a bank (M, D), ascending, and which
    those are; both (N, count)."""
    step = max(ROWS // len(bank), 1)
    parts = [
        (part @ bank.mT).topk(min(count, len(bank)), dim=1)
        for part in torch.split(rows.to(bank.dtype), step)
    ]
    cosines = torch.cat([part.values for part in parts]).float()
    return (1 - cosines).clamp_min(0), torch.cat([part.indices for part in parts])
