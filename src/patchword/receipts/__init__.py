"""Equivalence receipts: a model's outputs for fixed inputs, with which another copy of it is
compared.

The stages are compared one by one, so that the first that differs is named. Pixels come from two
test cards through the preprocessing, ids from fixed texts through the tokenizer. The towers are fed
exact numbers instead (noise made of integers, and the ids that the receipt holds), so that a fault
in an earlier stage does not change them.
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
