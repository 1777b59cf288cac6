"""The good patches that a memory keeps: few of many, and never more than a limit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from patchword.errors import SampledWarning, warn
from patchword.inspect.coreset import coreset, far_from_some

BLOCK = 1 << 22  # bytes of patches that a coreset is chosen from together: a core's own cache
SEED = 0


class Bank:
    """Rows (N, D) that come part by part, in memory that does not grow with their number.

    share  of them to keep, chosen by greedy k-centre among about a `BLOCK` at a time
    most   rows in all. Of more a sample is kept, in which each has the same chance (reservoir
           sampling with random keys, Vitter 1985), in the order in which they came
    half   keep them as float16
    """

    def __init__(self, share: float, most: int, half: bool) -> None:
        self.share, self.most, self.half = share, most, half
        self.came = 0
        self.generator = torch.Generator().manual_seed(SEED)
        self.waiting: list[Tensor] = []
        self.kept: list[Tensor] = []
        self.keys: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        size = max(BLOCK // (rows.shape[1] * (2 if self.half else 4)), 1)
        for part in torch.split(rows, size):
            self.waiting.append(part.half() if self.half else part)
            if sum(map(len, self.waiting)) >= size:
                self._keep()
                if sum(map(len, self.kept)) > self.most + size:
                    self._bounded()

    def rows(self) -> Tensor:
        """What is kept. Gives a SampledWarning where there were more than the limit."""
        if self.waiting:
            self._keep()
        self._bounded()
        if self.came > self.most:
            warn(
                f"of {self.came:,} good patches {self.most:,} are kept, drawn at random; a larger "
                "limit (patches), a smaller coreset or a smaller short side keeps a larger share",
                SampledWarning,
            )
        return torch.cat(self.kept)

    def _keep(self) -> None:
        """What has waited, thinned."""
        rows = torch.cat(self.waiting)
        self.waiting.clear()
        count = math.ceil(self.share * len(rows))
        if count < len(rows):
            rows = rows[coreset(rows, count, far_from_some(rows))]
        self.came += len(rows)
        self.kept.append(rows)
        self.keys.append(
            torch.rand(len(rows), generator=self.generator, dtype=torch.float64, device="cpu")
        )

    def _bounded(self) -> None:
        """Keep the rows with the smallest keys."""
        keys = torch.cat(self.keys)
        if len(keys) <= self.most:
            return
        chosen = keys.topk(self.most, largest=False).indices.sort().values
        rows = torch.cat(self.kept)
        self.kept.clear()
        self.kept, self.keys = [rows[chosen]], [keys[chosen]]
