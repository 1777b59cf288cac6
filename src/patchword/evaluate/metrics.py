"""Accuracy and recall from scores, as CLIP_benchmark defines them (LAION-AI/CLIP_benchmark,
clip_benchmark/metrics/zeroshot_classification.py and zeroshot_retrieval.py).

Of two equal scores the lower index comes first; CLIP_benchmark leaves that undefined.
scikit-learn's `confusion_matrix` and `balanced_accuracy_score` give the same numbers, and the tests
compare with them; each is one line of numpy, so that patchword does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Indices = NDArray[np.int64]

TILE = 2048  # rows and columns of the scores that are computed at a time
TOP_CLASSES = 5  # the fewest classes with a top-5 accuracy


def ranks(scores: Scores, targets: Indices) -> Indices:
    """The number of classes before the right one, (N,), from scores (N, C) and targets (N,).

    A right class with the score -inf was not found: its rank is C.
    """
    right = np.take_along_axis(scores, targets[:, None], axis=1)  # (N, 1)
    earlier = np.arange(scores.shape[1]) < targets[:, None]
    rank: Indices = _before(scores, right, earlier).sum(axis=1)
    rank[np.isneginf(right[:, 0])] = scores.shape[1]
    return rank


def within(rank: Indices, k: int) -> float:
    """The share of ranks below k, (1 / N) sum_i [rank_i < k]: top-k accuracy
    (zeroshot_classification.py, `accuracy`) and recall@k (zeroshot_retrieval.py, `evaluate`: the
    mean of 1 if at least one right item is among the first k, else 0)."""
    return float(np.mean(rank < k))


def confusion(targets: Indices, predicted: Indices, classes: int) -> Indices:
    """Counts (C, C): row = right class, column = predicted, as scikit-learn's
    `confusion_matrix`."""
    flat = np.bincount(targets * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def recalls(counts: Indices) -> NDArray[np.float64]:
    """The recall of each class (C,) from a confusion matrix; NaN for a class without samples."""
    totals = counts.sum(axis=1).astype(np.float64)
    return np.diag(counts) / np.where(totals > 0, totals, np.nan)


def mean_per_class_recall(counts: Indices) -> float:
    """The mean of `recalls` over the classes that have samples: scikit-learn's
    `balanced_accuracy_score`, which CLIP_benchmark calls."""
    return float(np.nanmean(recalls(counts)))


def retrieval_ranks(
    images: Scores, texts: Scores, owner: Indices, tile: int = TILE
) -> tuple[Indices, Indices]:
    """The number of wrong items before the first right one: (of each text, of each image).

    images  unit vectors (I, D)
    texts   unit vectors (T, D)
    owner   (T,): the image that each text belongs to; an image may have several texts

    The right item of a text is its image. Any of its texts is right for an image; an image without
    texts has the rank T. At most tile x tile scores are in memory at a time.
    """
    right = _right_scores(images, texts, owner, tile)
    best = np.full(len(images), -np.inf, right.dtype)
    with np.errstate(invalid="ignore"):  # NaN
        np.maximum.at(best, owner, right)
    first = np.full(len(images), len(texts))  # the first of an image's best texts
    equal = np.flatnonzero(right == best[owner])
    np.minimum.at(first, owner[equal], equal)
    text_rank, image_rank = np.zeros(len(texts), np.int64), np.zeros(len(images), np.int64)
    for rows, columns in _tiles(len(texts), len(images), tile):
        scores = texts[rows] @ images[columns].T
        text, image = np.arange(len(texts))[rows, None], np.arange(len(images))[columns]
        wrong = owner[rows, None] != image
        before = _before(scores, right[rows, None], image < owner[rows, None])
        text_rank[rows] += (wrong & before).sum(axis=1)
        before = _before(scores, best[columns], text < first[columns])
        image_rank[columns] += (wrong & before).sum(axis=0)
    return text_rank, image_rank


def _before(scores: Scores, right: Scores, earlier: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which items come before the right one. right: its score; earlier: which items have a lower
    index. NaN, from a broken model, always comes before, so that it never counts as right."""
    before: NDArray[np.bool_] = ~(scores < right) & ((scores != right) | earlier)
    return before


def _right_scores(images: Scores, texts: Scores, owner: Indices, tile: int) -> Scores:
    """The score of each text with its own image, (T,), taken from the same matrix products as all
    other scores: products of another shape may differ in the last bit."""
    out = np.empty(len(texts), np.result_type(images, texts))
    for rows, columns in _tiles(len(texts), len(images), tile):
        owners = owner[rows]
        inside = np.flatnonzero((owners >= columns.start) & (owners < columns.stop))
        if len(inside):
            scores = texts[rows] @ images[columns].T
            out[rows.start + inside] = scores[inside, owners[inside] - columns.start]
    return out


def _tiles(rows: int, columns: int, tile: int) -> Iterator[tuple[slice, slice]]:
    """Slices (rows, columns) of at most tile x tile that cover a matrix."""
    for top in range(0, rows, tile):
        for left in range(0, columns, tile):
            yield slice(top, min(top + tile, rows)), slice(left, min(left + tile, columns))
