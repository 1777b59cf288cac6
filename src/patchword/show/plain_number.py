"""Scores as texts."""

from collections.abc import Iterable
from decimal import Decimal

ROUNDING = 5e-6  # error of float32 in a distance of unit vectors
DIGITS = 3  # significant ones
ALL_DIGITS = 17  # of a float64


def plain(value: float, digits: int = DIGITS) -> str:
    """That many significant digits without an exponent; "0" for rounding errors."""
    return "0" if abs(value) < ROUNDING else f"{Decimal(f'{value:.{digits}g}'):f}"


def digits_beside(values: Iterable[float], limit: float) -> int:
    """How many significant digits values and a limit need, so that each value as it is shown is
    above the limit as it is shown exactly if it is above it."""

    def tells(value: float, digits: int) -> bool:
        return (float(f"{value:.{digits}g}") > float(f"{limit:.{digits}g}")) == (value > limit)

    digits = DIGITS
    for value in values:
        while digits < ALL_DIGITS and not tells(value, digits):
            digits += 1
    return digits
