"""The bank of good patches: a share of them by greedy k-centre, and never more than a limit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from patchword.errors import SampledWarning, warn
from patchword.inspect.coreset import coreset, start_distances

BLOCK = 1 << 22  # bytes of the patches that one coreset is chosen from: they fit a core's cache
SEED = 0


class Bank:
    """Rows (N, D), added part by part, in memory that does not grow with their number.

    share  of the rows to keep, chosen by greedy k-centre from about a `BLOCK` at a time
    limit  rows to keep in all. Of more rows a uniform random sample is kept, in order (reservoir
           sampling with random keys, Vitter 1985)
    half   keep rows as float16
    """

    def __init__(self, share: float, limit: int, half: bool) -> None:
        self.share, self.limit, self.half = share, limit, half
        self.total = 0  # rows so far, after the coreset and before the limit
        self.generator = torch.Generator().manual_seed(SEED)
        self.pending: list[Tensor] = []
        self.sample: list[Tensor] = []
        self.keys: list[Tensor] = []  # a random key for each row of the sample

    def add(self, rows: Tensor) -> None:
        size = max(BLOCK // (rows.shape[1] * (2 if self.half else 4)), 1)
        for part in torch.split(rows, size):
            self.pending.append(part.half() if self.half else part)
            if sum(map(len, self.pending)) >= size:
                self._take_pending()
                if sum(map(len, self.sample)) > self.limit + size:
                    self._apply_limit()

    def rows(self) -> Tensor:
        """The rows that are kept. Gives a SampledWarning where there were more than the limit."""
        if self.pending:
            self._take_pending()
        self._apply_limit()
        if self.total > self.limit:
            warn(
                f"of {self.total:,} good patches {self.limit:,} are kept, drawn at random; a "
                "larger limit (patches), a smaller coreset or a smaller short side keeps a larger "
                "share",
                SampledWarning,
            )
        return torch.cat(self.sample)

    def _take_pending(self) -> None:
        """Move the coreset of the pending rows to the sample."""
        rows = torch.cat(self.pending)
        self.pending.clear()
        count = math.ceil(self.share * len(rows))
        if count < len(rows):
            rows = rows[coreset(rows, count, start_distances(rows))]
        self.total += len(rows)
        self.sample.append(rows)
        self.keys.append(
            torch.rand(len(rows), generator=self.generator, dtype=torch.float64, device="cpu")
        )

    def _apply_limit(self) -> None:
        """Keep the rows with the smallest keys."""
        keys = torch.cat(self.keys)
        if len(keys) <= self.limit:
            return
        indices = keys.topk(self.limit, largest=False).indices.sort().values
        rows = torch.cat(self.sample)
        self.sample.clear()  # frees its memory before the copy is made
        self.sample, self.keys = [rows[indices]], [keys[indices]]
