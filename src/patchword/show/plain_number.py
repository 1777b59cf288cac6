"""Scores in words."""

from decimal import Decimal

NOTHING = 5e-6  # what float32 leaves of 0 in a distance of unit vectors


def plain(value: float) -> str:
    """Three significant digits without an exponent; "0" for what is no more than rounding."""
    return "0" if abs(value) < NOTHING else f"{Decimal(f'{value:.3g}'):f}"
