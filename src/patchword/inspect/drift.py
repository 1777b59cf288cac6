"""The drift alarm: photos are no longer like those of the calibration.

Each score gets a p-value by its rank among the calibration's scores and all scores before it. While
they are exchangeable, these p-values are independent and uniform. A capital that bets against that
is then a martingale, which ever exceeds 1 / p with probability p at most (Ville's inequality). The
bets are those of the Simple Jumper (Vovk et al. 2021, "Retrain or not retrain", algorithm 1): with
capitals C_e for e in {-1, 0, 1}, J = 0.01 and C = sum of C_e, before and after each p-value

    C_e <- (1 - J) C_e + J C / 3
    C_e <- C_e (1 + e (p - 1/2))
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence

STAKES = (-1.0, 0.0, 1.0)  # e: bets that p-values are too small, uniform, too large
JUMP = 0.01  # J
LONGEST = 100_000  # scores of a stream that is saved; a longer one begins again
ALARM = 100.0  # a capital that at most 1% of streams of exchangeable photos reach


class Drift:
    """The capital of a stream of scores, 1 at its start.

    at      the number of the photo, from 1, at which the capital first reached `ALARM`; 0: not yet
    stream  the scores so far; adding them to a new `Drift` of the same calibration restores it
    """

    def __init__(self, calibration: Sequence[float]) -> None:
        self.capital, self.at, self.seen = 1.0, 0, 0
        self.stream: list[float] = []
        self._known = sorted(calibration)
        self._parts = [1 / len(STAKES)] * len(STAKES)
        self._random = random.Random(0)  # breaks ties, always in the same way

    def add(self, scores: Iterable[float]) -> None:
        """Add the scores of more photos, in the order in which they were taken."""
        for score in scores:
            self.seen += 1
            self.stream.append(score)
            self._bet(self._p_value(score))
            if not self.at and self.capital >= ALARM:
                self.at = self.seen

    def _p_value(self, score: float) -> float:
        """Its rank among all scores before it, ties broken at random: 0 to 1."""
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
