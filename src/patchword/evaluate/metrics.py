"""Scores -> accuracy and recall, as CLIP_benchmark defines them (LAION-AI/CLIP_benchmark,
clip_benchmark/metrics/zeroshot_classification.py and zeroshot_retrieval.py).

Of two equal scores the one with the lower index comes first; in CLIP_benchmark that is undefined.
scikit-learn's `confusion_matrix` and `balanced_accuracy_score` give the same numbers, and the tests
compare with them; for a line of numpy each, patchword does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Indices = NDArray[np.int64]

TILE = 2048  # texts, and images, whose scores exist at a time
TOP_CLASSES = 5  # with fewer classes there is no top-5 accuracy


def ranks(scores: Scores, targets: Indices) -> Indices:
    """How many classes come before the right one, (N,), from scores (N, C) and targets (N,).

    A right class that is scored -inf was not found at all: its rank is C.
    """
    own = np.take_along_axis(scores, targets[:, None], axis=1)  # (N, 1)
    earlier = np.arange(scores.shape[1]) < targets[:, None]
    before: Indices = _before(scores, own, earlier).sum(axis=1)
    before[np.isneginf(own[:, 0])] = scores.shape[1]
    return before


def within(rank: Indices, k: int) -> float:
    """The share of ranks below k, (1 / N) sum_i [rank_i < k]: the top-k accuracy of classes
    (zeroshot_classification.py, `accuracy`), the recall@k of retrieval (zeroshot_retrieval.py,
    `evaluate`: 1 where at least one right item is among the first k, else 0, and its mean)."""
    return float(np.mean(rank < k))


def confusion(targets: Indices, predicted: Indices, classes: int) -> Indices:
    """Counts (C, C): row = right class, column = predicted, as scikit-learn's
    `confusion_matrix`."""
    flat = np.bincount(targets * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def recalls(counts: Indices) -> NDArray[np.float64]:
    """Of each class the share that was predicted right, (C,), from a confusion matrix; NaN for a
    class without samples."""
    totals = counts.sum(axis=1).astype(np.float64)
    return np.diag(counts) / np.where(totals > 0, totals, np.nan)


def mean_per_class_recall(counts: Indices) -> float:
    """The mean of `recalls` over the classes that have samples: scikit-learn's
    `balanced_accuracy_score`, which CLIP_benchmark calls."""
    return float(np.nanmean(recalls(counts)))


def retrieval_ranks(
    images: Scores, texts: Scores, owner: Indices, tile: int = TILE
) -> tuple[Indices, Indices]:
    """How many wrong items come before the first right one: (of each text, of each image).

    images  unit vectors (I, D)
    texts   unit vectors (T, D)
    owner   (T,): the image that each text belongs to; an image may have several texts

    The right item of a text is its image; any of its texts is right for an image, and one with no
    text has the rank T. At most tile x tile scores exist at a time, for both directions.
    """
    own = _own_scores(images, texts, owner, tile)
    best = np.full(len(images), -np.inf, own.dtype)
    with np.errstate(invalid="ignore"):  # NaN
        np.maximum.at(best, owner, own)
    first = np.full(len(images), len(texts))  # the earliest of an image's best texts
    equal = np.flatnonzero(own == best[owner])
    np.minimum.at(first, owner[equal], equal)
    text_rank, image_rank = np.zeros(len(texts), np.int64), np.zeros(len(images), np.int64)
    for rows, columns in _tiles(len(texts), len(images), tile):
        scores = texts[rows] @ images[columns].T
        text, image = np.arange(len(texts))[rows, None], np.arange(len(images))[columns]
        wrong = owner[rows, None] != image
        before = _before(scores, own[rows, None], image < owner[rows, None])
        text_rank[rows] += (wrong & before).sum(axis=1)
        before = _before(scores, best[columns], text < first[columns])
        image_rank[columns] += (wrong & before).sum(axis=0)
    return text_rank, image_rank


def _before(scores: Scores, own: Scores, earlier: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which items come before one of score `own`, given which of them have a lower index. NaN, a
    broken model's, always does: it never counts as right."""
    before: NDArray[np.bool_] = ~(scores < own) & ((scores != own) | earlier)
    return before


def _own_scores(images: Scores, texts: Scores, owner: Indices, tile: int) -> Scores:
    """The score of each text with its own image, (T,). From the same products as all others: a
    product of another shape may round its last bit another way."""
    out = np.empty(len(texts), np.result_type(images, texts))
    for rows, columns in _tiles(len(texts), len(images), tile):
        theirs = owner[rows]
        mine = np.flatnonzero((theirs >= columns.start) & (theirs < columns.stop))
        if len(mine):
            scores = texts[rows] @ images[columns].T
            out[rows.start + mine] = scores[mine, theirs[mine] - columns.start]
    return out


def _tiles(rows: int, columns: int, tile: int) -> Iterator[tuple[slice, slice]]:
    """Slices that cover a matrix, at most tile x tile each."""
    for top in range(0, rows, tile):
        for left in range(0, columns, tile):
            yield slice(top, min(top + tile, rows)), slice(left, min(left + tile, columns))
