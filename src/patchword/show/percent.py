"""Probabilities in words."""

import math


def share(probability: float) -> str:
    """A probability in percent; one that is not 0 is not written as 0. A dash for NaN."""
    if math.isnan(probability):
        return "–"
    return f"{probability:.1%}" if probability >= 0.0005 or not probability else "<0.1%"


def matched(probability: float) -> str:
    """The probability that an image and a text belong together."""
    return f"match {share(probability)}"
