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

REMEDY = ': pass long_text="mean" '  # the beginning of the advice for Python
POLICIES = ("truncate", "mean")


@dataclass(frozen=True)
class Parts:
    """Texts as pieces that each fit the context.

    rows    the ids of each piece
    owners  (P,), the number of the text that each piece belongs to
    weights (P,), the number of tokens of each piece, without special ones
    count   N, the number of texts
    """

    rows: list[list[int]]
    owners: NDArray[np.int64]
    weights: NDArray[np.float32]
    count: int

    def joined(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors (P, D) of the pieces -> unit vectors (N, D) of the texts. A text in several
        pieces gets the mean of their vectors, weighted by their tokens, divided by its length."""
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

    policy "truncate": each text is one piece; its end may be cut off later, with one
    LongTextWarning for all. "mean": a long text is cut into pieces that fit, between sentences
    where possible (`Tokenizer.chunks`). Raises UnsupportedError for another policy.
    """
    if policy not in POLICIES:
        known = " and ".join(map(repr, POLICIES))
        raise UnsupportedError(f"long_text is {policy!r}; there are {known}")
    rows = tokenizer.rows(texts)
    if policy == "truncate":
        warn_of_long(tokenizer, rows, f"{REMEDY}to embed_texts, similarity or search to keep all")
        return Parts(rows, np.arange(len(rows)), np.ones(len(rows), np.float32), len(rows))
    pieces: list[list[int]] = []
    owners: list[int] = []
    for number, row in enumerate(rows):
        pieces_of_text = [row]
        if len(row) > tokenizer.context:
            pieces_of_text = tokenizer.rows(tokenizer.chunks(texts[number]))
        pieces += pieces_of_text
        owners += [number] * len(pieces_of_text)
    weights = np.array([len(piece) - tokenizer.specials for piece in pieces], np.float32)
    return Parts(pieces, np.array(owners, np.int64), weights, len(rows))


def warn_of_long(tokenizer: Tokenizer, rows: Sequence[Sequence[Any]], remedy: str = "") -> None:
    """One LongTextWarning if any of these rows of ids is longer than the context. remedy: the end
    of the message."""
    lengths = [len(row) for row in rows if len(row) > tokenizer.context]
    if not lengths:
        return
    longest, context = max(lengths), tokenizer.context
    if len(rows) == 1:
        exceed, which = "the text exceeds", "it"
    else:
        verb = "exceeds" if len(lengths) == 1 else "exceed"
        exceed, which = f"{len(lengths)} of {len(rows)} texts {verb}", "the longest"
    warn(
        f"{exceed} {context} tokens; {which} loses {longest - context} of {longest}{remedy}",
        LongTextWarning,
    )
