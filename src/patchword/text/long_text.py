"""Texts that are longer than a model's context, which is 77 tokens in CLIP: truncated, or embedded
in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.errors import LongTextWarning, UnsupportedError, warn
from patchword.text.tokenizer import Tokenizer

REMEDY = ': pass long_text="mean" '  # what the advice for Python begins with
POLICIES = ("truncate", "mean")


@dataclass(frozen=True)
class Parts:
    """Texts as chunks that each fit the context.

    rows    ids of each piece
    owners  (P,) the number of the text that each piece is of
    weights (P,) the tokens of each piece, special ones not counted
    count   N, of the texts
    """

    rows: list[list[int]]
    owners: NDArray[np.int64]
    weights: NDArray[np.float32]
    count: int

    def joined(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors (P, D) of the pieces -> unit vectors (N, D) of the texts: for a text in
        several pieces the unit mean of theirs, each weighted by its tokens."""
        if len(vectors) == self.count:
            return vectors
        out = np.zeros((self.count, vectors.shape[1]), np.float32)
        np.add.at(out, self.owners, vectors * self.weights[:, None])
        several = np.bincount(self.owners, minlength=self.count) > 1
        single = ~several[self.owners]
        out[self.owners[single]] = vectors[single]
        out[several] /= np.maximum(np.linalg.norm(out[several], axis=1, keepdims=True), 1e-12)
        return out


def split(tokenizer: Tokenizer, texts: Sequence[str], policy: str) -> Parts:
    """The pieces of texts.

    policy "truncate": a text is one piece, whose end is cut off, with one LongTextWarning for all.
    "mean": it is cut into chunks that fit, between sentences where it can (`Tokenizer.chunks`).
    Raises UnsupportedError for another policy.
    """
    if policy not in POLICIES:
        known = " and ".join(map(repr, POLICIES))
        raise UnsupportedError(f"long_text is {policy!r}; there are {known}")
    rows = tokenizer.rows(texts)
    if policy == "truncate":
        warn_of_long(tokenizer, rows, f"{REMEDY}to embed_texts, similarity or search to keep all")
        owners = np.arange(len(rows))
        return Parts(rows, owners, np.ones(len(rows), np.float32), len(rows))
    pieces: list[list[int]] = []
    numbers: list[int] = []
    for number, row in enumerate(rows):
        whole = len(row) <= tokenizer.context
        found = [row] if whole else tokenizer.rows(tokenizer.chunks(texts[number]))
        pieces += found
        numbers += [number] * len(found)
    weights = np.array([len(piece) - tokenizer.specials for piece in pieces], np.float32)
    return Parts(pieces, np.array(numbers, np.int64), weights, len(rows))


def warn_of_long(tokenizer: Tokenizer, rows: Sequence[Sequence[Any]], remedy: str = "") -> None:
    """One LongTextWarning if any of these rows of ids is longer than the context; it ends in
    `remedy`."""
    lengths = [len(row) for row in rows if len(row) > tokenizer.context]
    if lengths:
        most, context = max(lengths), tokenizer.context
        some = f"{len(lengths)} of {len(rows)} texts exceed{'s' * (len(lengths) == 1)}"
        who, lost = ("the text exceeds", "it") if len(rows) == 1 else (some, "the longest")
        warn(
            f"{who} {context} tokens; {lost} loses {most - context} of {most}{remedy}",
            LongTextWarning,
        )
