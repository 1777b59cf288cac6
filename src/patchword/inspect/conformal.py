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
ROUNDING = 1e-12  # relative tolerance of a limit


def rank(count: int, rate: float, confidence: float | None = None) -> int:
    """The rank k of the threshold among n = `count` calibration scores, 1 for the smallest; n + 1
    where there are too few.

    rate        of false alarms, between 0 and 1
    confidence  None: the rate holds on average over the draw of the calibration photos (marginal),

                    k = ceil((n + 1) (1 - rate))

                else it holds for these calibration photos with this probability: the smallest k
                with P(Binomial(n, rate) <= n - k) <= 1 - confidence

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
    """The number of calibration scores that a threshold at that rate needs: 99 for 1%, 299 for 1%
    with 95% confidence."""
    between("false_alarms", rate)
    if confidence is None:
        return math.ceil(1 / Fraction(str(rate))) - 1
    between("confidence", confidence)
    return math.ceil(math.log(1 - confidence) / math.log1p(-rate))


def lowest(count: int, confidence: float | None = None) -> float:
    """The lowest rate that `count` calibration scores can guarantee: that of their maximum."""
    return 1 / (count + 1) if confidence is None else 1 - (1 - confidence) ** (1 / count)


def threshold(scores: Sequence[float] | Values, rate: float, confidence: float | None) -> float:
    """The threshold: scores above it are rejected. Infinite where there are too few calibration
    scores for the rate."""
    k = rank(len(scores), rate, confidence)
    return float(np.sort(scores)[k - 1]) if k <= len(scores) else math.inf


def threshold_of_p(calibration: Sequence[float] | Values, p: float) -> float:
    """The score above which `p_values` are at most p < 1; infinite if no score has so small a p."""
    n = len(calibration)
    larger = math.floor(p * (n + 1) + 1e-9) - 1  # calibration scores above the threshold
    return float(np.sort(calibration)[n - 1 - larger]) if larger >= 0 else math.inf


def p_values(calibration: Sequence[float] | Values, scores: Sequence[float] | Values) -> Values:
    """For each new score s, with the n calibration scores s_i,

        p = (1 + number of s_i >= s) / (n + 1)

    For a good photo P(p <= t) <= t (Vovk et al. 2005).
    """
    ascending = np.sort(np.asarray(calibration, np.float64))
    smaller = np.searchsorted(ascending, np.asarray(scores, np.float64), side="left")
    n = len(ascending)
    return np.asarray((1 + n - smaller) / (n + 1), np.float64)


def benjamini_hochberg(p: Sequence[float] | Values, rate: float) -> NDArray[np.bool_]:
    """Which of a list of p-values to reject so that on average at most `rate` of the rejected ones
    are good: those up to the largest p_(k) <= rate * k / m, m = len(p) (Benjamini and Hochberg
    1995). It holds for conformal p-values of one calibration, too (Bates et al. 2023)."""
    between("rate", rate)
    values = np.asarray(p, np.float64)
    ascending = np.sort(values)
    # p-values are multiples of 1 / (n + 1), so that some are exactly at their limit.
    limits = rate * np.arange(1, len(values) + 1) / max(len(values), 1)
    below = ascending <= limits * (1 + ROUNDING)
    limit = ascending[below].max() if below.any() else -1.0
    return np.asarray(values <= limit)


def _log_binomial(n: int, k: int, rate: float) -> float:
    """log P(Binomial(n, rate) = k)."""
    coefficient = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return coefficient + k * math.log(rate) + (n - k) * math.log1p(-rate)


def between(name: str, value: float) -> None:
    """Raise UnsupportedError for a number that is not between 0 and 1."""
    if not 0 < value < 1:
        raise UnsupportedError(f"{name} is {value!r}; it is more than 0 and less than 1")
