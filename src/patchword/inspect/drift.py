"""An alarm for when photos are no longer like those of the calibration.

Each score is ranked among the calibration's and those before it. While all are exchangeable these
p-values are independent and uniform, and a capital that bets against that grows beyond 1 / p with
probability p at most, however long one looks (Ville's inequality). The bets are those of the Simple
Jumper (Vovk et al. 2021, "Retrain or not retrain", algorithm 1).
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence

STAKES = (-1.0, 0.0, 1.0)  # that p-values are too small, uniform, too large
JUMP = 0.01  # the share of the capital that is spread over the stakes anew before each bet
LONGEST = 100_000  # scores of a stream that is kept; then it begins anew
ALARM = 100.0  # a capital that exchangeable photos reach once in a hundred streams


class Drift:
    """The capital of a stream of scores, 1 at its start. `at` is the number of the photo, from 1,
    at which it first reached `ALARM`; 0: not yet. `stream` are the scores: another one with the
    same calibration to which they are added goes on from here."""

    def __init__(self, calibration: Sequence[float]) -> None:
        self.capital, self.at, self.seen = 1.0, 0, 0
        self.stream: list[float] = []
        self._known = sorted(calibration)
        self._parts = [1 / len(STAKES)] * len(STAKES)
        self._random = random.Random(0)  # breaks ties, always in the same way

    def add(self, scores: Iterable[float]) -> None:
        """The scores of more photos, in the order in which they were taken."""
        for score in scores:
            self.seen += 1
            self.stream.append(score)
            self._bet(self._p_value(score))
            if not self.at and self.capital >= ALARM:
                self.at = self.seen

    def _p_value(self, score: float) -> float:
        """Of a score among all before it, ties broken at random: uniform from 0 to 1."""
        below, above = bisect_left(self._known, score), bisect_right(self._known, score)
        insort(self._known, score)
        larger, equal = len(self._known) - 1 - above, above - below + 1
        return (larger + self._random.random() * equal) / len(self._known)

    def _bet(self, p: float) -> None:
        spread = JUMP * self.capital / len(STAKES)
        self._parts = [
            ((1 - JUMP) * part + spread) * (1 + stake * (p - 0.5))
            for part, stake in zip(self._parts, STAKES, strict=True)
        ]
        self.capital = sum(self._parts)
