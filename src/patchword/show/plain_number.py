"""Scores as texts."""

from decimal import Decimal

ROUNDING = 5e-6  # error of float32 in a distance of unit vectors


def plain(value: float) -> str:
    """Three significant digits without an exponent; "0" for rounding errors."""
    return "0" if abs(value) < ROUNDING else f"{Decimal(f'{value:.3g}'):f}"
