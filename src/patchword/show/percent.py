"""Probabilities as texts."""

import math


def share(probability: float, limit: float | None = None) -> str:
    """A probability in percent; "<0.1%" for a small one that is not 0. A dash for NaN.

    limit: what it is compared with. It gets as many digits as it needs to be below that exactly if
    it is: 64.98%, not 65.0%, is below 65%.
    """
    if math.isnan(probability):
        return "-"
    digits = 1
    while limit is not None and (round(probability, digits + 2) < limit) != (probability < limit):
        digits += 1
    if digits == 1 and probability < 0.0005 and probability != 0:
        return "<0.1%"
    return f"{round(probability, digits + 2):.{digits}%}"


def matched(probability: float) -> str:
    """The probability that an image and a text belong together."""
    return f"match {share(probability)}"
