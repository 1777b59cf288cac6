"""Equivalence receipts: a model's outputs for fixed inputs, to compare another copy of it with.

A receipt has stages, which are compared one by one, so that the first that differs is named. Two
test cards go through the preprocessing, and fixed texts through the tokenizer. The inputs of the
networks are not these results but exact numbers (noise from integers, and the ids in the receipt),
so that a fault in an earlier stage does not change a later one.
"""

from patchword.receipts.answers import make
from patchword.receipts.compare import STAGES, Difference, compare, not_compared, verify
from patchword.receipts.receipt import VERSION, parse, to_text

__all__ = [
    "STAGES",
    "VERSION",
    "Difference",
    "compare",
    "make",
    "not_compared",
    "parse",
    "to_text",
    "verify",
]
