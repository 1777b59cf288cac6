"""Queries as unit vectors: weighted sums of texts and images, minus what is not wanted."""

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

# The default weight of texts that are not wanted. All texts share a large part of their vectors.
# With weight 1, this part would be taken out of the query too, and images that are like no text
# would come first. Measured with 56 queries "one kind of clothes without another" among clothes,
# wafers and shapes: of the first 6 hits of `demo` and `demo-blip`, 47% and 77% are right with 1,
# 97% and 99% with 0.5, and none is of the unwanted kind with either.
WITHOUT = 0.5


def combined(
    model: Bundle,
    query: str | NDArray[Any] | None,
    image: ImageLike | None,
    without: Sequence[str],
    weights: tuple[float, float, float],
    long_text: str,
) -> Vector:
    """The unit vector (D,) of a query: the sum of a text or vector, and of an image, minus the mean
    of the texts `without`. Each is a unit vector times its weight, in this order. Raises
    IndexStoreError for an empty query, and where its parts cancel each other."""
    query_texts = [query] if isinstance(query, str) else []
    texts = [*query_texts, *without]
    for text in texts:
        check_words(text)
    vectors = model.embed_texts(texts, long_text=long_text).astype(np.float64) if texts else None
    parts: list[NDArray[Any]] = []
    if query_texts and vectors is not None:
        parts.append(weights[0] * vectors[0])
    elif query is not None:
        parts.append(weights[0] * unit(as_array(query), model.dim))
    if image is not None:
        parts.append(weights[1] * model.embed_images([image])[0].astype(np.float64))
    if not parts:
        raise IndexStoreError("nothing to search for: give a text, a vector, an image, or both")
    if without and vectors is not None:
        unwanted = vectors[len(query_texts) :].mean(axis=0)
        parts.append(-weights[2] * unit(unwanted, model.dim))
    total: Vector = np.sum(parts, axis=0)
    excludes_itself = isinstance(query, str) and query in without and weights[2]
    if np.linalg.norm(total) < 1e-6 or (image is None and excludes_itself):
        raise IndexStoreError(
            "nothing is left to search for: the parts of the query cancel each other, or all "
            "their weights are 0"
        )
    return unit(total, model.dim)


@checked
def texts_of(queries: Sequence[str]) -> list[str]:
    """Texts as a list. Raises UnsupportedError for anything else, also for a single text, and
    IndexStoreError for a text without words."""
    for text in queries:
        check_words(text)
    return list(queries)


def check_words(text: str) -> None:
    """Raise IndexStoreError for a text that is empty or white space."""
    if not text.strip():
        raise IndexStoreError(f"a text to search for has no words: {text[:20]!r}")


def as_array(query: Any) -> NDArray[Any]:
    """A query of numbers as an array; array(None) if it cannot be converted."""
    try:
        return np.asarray(query)
    except (TypeError, ValueError, RuntimeError):  # lists in lists; a tensor elsewhere
        return np.asarray(None)


def unit(vector: NDArray[Any], dim: int) -> Vector:
    """A vector (D,) divided by its length. Raises IndexStoreError for another array, and for a
    vector that is 0 or not finite."""
    is_vector = vector.dtype.kind in "fiu" and vector.shape == (dim,)
    if not is_vector or not np.isfinite(vector).all():
        raise IndexStoreError(
            f"a query is a text, or a vector of {dim} finite numbers; this is an array of shape "
            f"{vector.shape} and type {vector.dtype}"
        )
    exact = vector.astype(np.float64)
    largest = float(np.abs(exact).max())
    if not largest:
        raise IndexStoreError("a query's vector is 0: it has no direction to search in")
    exact /= largest  # else squares of very small or very large numbers become 0 or infinite
    return exact / float(np.linalg.norm(exact))


def units(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows (N, D) divided by their lengths."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)  # type: ignore[no-any-return]
