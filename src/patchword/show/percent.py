"""Probabilities as texts."""

import math


def share(probability: float) -> str:
    """A probability in percent; "<0.1%" for a small one that is not 0. A dash for NaN."""
    if math.isnan(probability):
        return "-"
    if probability < 0.0005 and probability != 0:
        return "<0.1%"
    return f"{probability:.1%}"


def matched(probability: float) -> str:
    """The probability that an image and a text belong together."""
    return f"match {share(probability)}"
