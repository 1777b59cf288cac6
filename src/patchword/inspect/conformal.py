"""Thresholds with a guaranteed rate of false alarms, from scores of good photos that nothing was
learned from (split conformal prediction, Vovk et al. 2005; Angelopoulos and Bates 2021).

The guarantee holds for any method and any distribution, as long as good photos to come are like
those of the calibration. It says nothing about defects that are missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from patchword.errors import UnsupportedError

Values = NDArray[np.float64]
ROUNDING = 1e-12  # of a limit


def rank(count: int, rate: float, confidence: float | None = None) -> int:
    """Which of `count` calibration scores, counted from the smallest, is the threshold; more than
    `count` where there are too few.

    rate        of false alarms, between 0 and 1
    confidence  None: the rate holds in the mean over all calibrations that might have been drawn
                (marginal): k = ceil((n + 1) (1 - rate)). Else it holds for this one calibration
                with this probability: the smallest k with P(Binomial(n, rate) <= n - k) <= 1 -
                confidence

    Raises UnsupportedError for a rate or a confidence that is not between 0 and 1.
    """
    between("false_alarms", rate)
    if confidence is None:
        return math.ceil((count + 1) * (1 - Fraction(str(rate))))
    between("confidence", confidence)
    allowed, total = -1, 0.0
    for above in range(count + 1):
        total += math.exp(_log_binomial(count, above, rate))
        if total > 1 - confidence:
            break
        allowed = above
    return count - allowed


def needed(rate: float, confidence: float | None = None) -> int:
    """How many calibration scores are needed for a threshold at that rate: 99 for 1%, and 299 for
    1% with 95% confidence."""
    between("false_alarms", rate)
    if confidence is None:
        return math.ceil(1 / Fraction(str(rate))) - 1
    between("confidence", confidence)
    return math.ceil(math.log(1 - confidence) / math.log1p(-rate))


def lowest(count: int, confidence: float | None = None) -> float:
    """The lowest rate that `count` calibration scores can guarantee, by their largest."""
    return 1 / (count + 1) if confidence is None else 1 - (1 - confidence) ** (1 / count)


def threshold(scores: Sequence[float] | Values, rate: float, confidence: float | None) -> float:
    """The largest score that is accepted: what is above it is rejected. Infinite where there are
    too few calibration scores for the rate."""
    k = rank(len(scores), rate, confidence)
    return float(np.sort(scores)[k - 1]) if k <= len(scores) else math.inf


def score_of(calibration: Sequence[float] | Values, p: float) -> float:
    """The score above which `p_values` are at most p, which is less than 1; infinite where none
    are."""
    n = len(calibration)
    larger = math.floor(p * (n + 1) + 1e-9) - 1  # of the calibration's scores, at most
    return float(np.sort(calibration)[n - 1 - larger]) if larger >= 0 else math.inf


def p_values(calibration: Sequence[float] | Values, scores: Sequence[float] | Values) -> Values:
    """For each new score (1 + how many of the n calibration scores are as large or larger) / (n +
    1): of a good photo it is at most p with probability p at most."""
    ascending = np.sort(np.asarray(calibration, np.float64))
    smaller = np.searchsorted(ascending, np.asarray(scores, np.float64), side="left")
    n = len(ascending)
    return np.asarray((1 + n - smaller) / (n + 1), np.float64)


def benjamini_hochberg(p: Sequence[float] | Values, rate: float) -> NDArray[np.bool_]:
    """Which of a list to reject so that at most `rate` of those rejected are good, in the mean
    (Benjamini and Hochberg 1995). Conformal p-values may share one calibration (Bates et al. 2023).
    """
    between("rate", rate)
    values = np.asarray(p, np.float64)
    ascending = np.sort(values)
    # p-values are whole numbers by n + 1: of one just at its limit rounding is not to decide.
    limits = rate * np.arange(1, len(values) + 1) / max(len(values), 1)
    passed = ascending <= limits * (1 + ROUNDING)
    limit = ascending[passed].max() if passed.any() else -1.0
    return np.asarray(values <= limit)


def _log_binomial(n: int, k: int, rate: float) -> float:
    """log P(Binomial(n, rate) = k)."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(rate) + (n - k) * math.log1p(-rate)


def between(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise UnsupportedError(f"{name} is {value!r}; it is more than 0 and less than 1")
