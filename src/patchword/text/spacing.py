"""Spaces of texts that a tokenizer decoded, as people write them."""

from __future__ import annotations

import re

_BEFORE = re.compile(r" ([,.;:!?%)\]])(?!\w)")  # a hat , red -> a hat, red
_AFTER = re.compile(r"([(\[]) ")
_APOSTROPHE = re.compile(r"(?<=\w) ?['’] (s|t|m|d|re|ve|ll)\b")  # someone ' s -> someone's
_BETWEEN = re.compile(  # button - up -> button-up, 3 . 5 -> 3.5
    r"(?<=\w) ([-/]) (?=\w)|(?<=\d) ([.:]) (?=\d)"
)


def spaced(text: str) -> str:
    """BERT's tokenizer separates punctuation from words and decodes it with spaces around; this
    removes them where English has none."""
    text = _APOSTROPHE.sub(r"'\1", text)
    text = _BETWEEN.sub(lambda found: found[0].strip(), text)
    return _AFTER.sub(r"\1", _BEFORE.sub(r"\1", text))
