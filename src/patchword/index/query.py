"""Queries as unit vectors: texts and images, weighed, without others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle
from patchword.errors import IndexStoreError
from patchword.images import ImageLike
from patchword.options import checked

Vector = NDArray[np.float64]  # (D,)

# Texts share most of their vector, that they are texts: subtracted whole, it takes that part out of
# the query too, and images that are like no text come first. Of the first 6 hits of 56 queries "one
# kind of clothes without another" among clothes, wafers and shapes, `demo` and `demo-blip` had 41%
# and 78% right with 1, 97% and 99% with 0.5, none of the unwanted kind with either.
WITHOUT = 0.5


def combined(
    model: Bundle,
    query: str | NDArray[Any] | None,
    image: ImageLike | None,
    without: Sequence[str],
    weights: tuple[float, float, float],
    long_text: str,
) -> Vector:
    """The unit vector (D,) of a text or vector, and an image, minus the mean of texts; each, of
    length 1, times its weight. Raises IndexStoreError where nothing is left."""
    texts = [query] if isinstance(query, str) else []
    for text in (*texts, *without):
        check_words(text)
    rows = [*texts, *without]
    vectors = model.embed_texts(rows, long_text=long_text) if rows else None
    parts: list[NDArray[Any]] = []
    if texts and vectors is not None:
        parts.append(weights[0] * vectors[0].astype(np.float64))
    elif query is not None:
        parts.append(weights[0] * unit(as_array(query), model.dim))
    if image is not None:
        parts.append(weights[1] * model.embed_images([image])[0].astype(np.float64))
    if not parts:
        raise IndexStoreError("nothing to search for: give a text, a vector, an image, or both")
    if without and vectors is not None:
        others = vectors[len(texts) :].astype(np.float64).mean(axis=0)
        parts.append(-weights[2] * unit(others, model.dim))
    total: Vector = np.sum(parts, axis=0)
    same = image is None and texts and texts[0] in without and weights[2]
    if np.linalg.norm(total) < 1e-6 or same:
        raise IndexStoreError(
            "nothing is left to search for: the parts of the query cancel each other, or all "
            "their weights are 0"
        )
    return unit(total, model.dim)


@checked
def texts_of(queries: Sequence[str]) -> list[str]:
    """Texts as a list. Raises UnsupportedError for anything else, also for a single one, and
    IndexStoreError for one without words."""
    for text in queries:
        check_words(text)
    return list(queries)


def check_words(text: str) -> None:
    """Raise IndexStoreError for a text of a query that is empty, or white space alone."""
    if not text.strip():
        raise IndexStoreError(f"a text to search for has no words: {text[:20]!r}")


def as_array(query: Any) -> NDArray[Any]:
    """A query of numbers as an array; an empty one where it cannot be converted."""
    try:
        return np.asarray(query)
    except (TypeError, ValueError, RuntimeError):  # lists in lists; a tensor elsewhere
        return np.asarray(None)


def unit(vector: NDArray[Any], dim: int) -> Vector:
    """A vector (D,) divided by its length. Raises IndexStoreError for anything else, and for one
    that is 0."""
    numbers = vector.dtype.kind in "fiu" and vector.shape == (dim,)
    if not numbers or not np.isfinite(vector).all():
        raise IndexStoreError(
            f"a query is a text, or a vector of {dim} finite numbers; this is an array of shape "
            f"{vector.shape} and type {vector.dtype}"
        )
    exact = vector.astype(np.float64)
    largest = float(np.abs(exact).max())
    if not largest:
        raise IndexStoreError("a query's vector is 0: it has no direction to search in")
    exact /= largest  # the squares of very small and very large numbers are none
    return exact / float(np.linalg.norm(exact))


def units(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows (N, D) divided by their lengths."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)  # type: ignore[no-any-return]
