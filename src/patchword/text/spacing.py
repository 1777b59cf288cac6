"""Remove the spaces that a tokenizer puts around punctuation when it decodes a text."""

from __future__ import annotations

import re

_BEFORE = re.compile(r" ([,.;:!?%)\]])(?!\w)")  # a hat , red -> a hat, red
_AFTER = re.compile(r"([(\[]) ")
_APOSTROPHE = re.compile(r"(?<=\w) ?['’] (s|t|m|d|re|ve|ll)\b")  # someone ' s -> someone's
_BETWEEN_WORDS = re.compile(r"(?<=\w) ([-/]) (?=\w)")  # button - up -> button-up
_BETWEEN_DIGITS = re.compile(r"(?<=\d) ([.:]) (?=\d)")  # 3 . 5 -> 3.5


def spaced(text: str) -> str:
    """A decoded text without the spaces that English does not have. BERT's tokenizer separates
    punctuation from words, and decodes it with spaces around."""
    text = _APOSTROPHE.sub(r"'\1", text)
    for pattern in (_BETWEEN_WORDS, _BETWEEN_DIGITS, _BEFORE, _AFTER):
        text = pattern.sub(r"\1", text)
    return text
