"""What is in an index: clusters of its entries, named by words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.index.clusters import centres, nearest_centres
from patchword.index.matrix import Matrix
from patchword.index.nearest import Hit, best
from patchword.index.table import Table
from patchword.index.things import THINGS
from patchword.scope import Scope

FEWEST, MOST = 2, 64  # clusters, where their number is not given
# Words of a small model that name nothing.
NO_NAMES = {"above", "and", "below", "few", "image", "in", "kind", "left", "many", "middle", "near"}
NO_NAMES |= {"over", "photo", "picture", "right", "side", "snapshot", "someone", "the", "three"}
NO_NAMES |= {"top", "two", "under", "view", "with", "without", "bottom", "long", "short", "close"}


@dataclass(frozen=True)
class Cluster:
    """Entries that are alike.

    name      what fits it better than the whole of the index; "cluster 3" of a model that reads no
              texts
    count     entries in it
    examples  those nearest to its centre, with their cosines with it
    """

    name: str
    count: int
    examples: list[Hit]


def how_many(rows: int) -> int:
    """Clusters for so many entries."""
    return min(MOST, max(FEWEST, round(math.sqrt(rows / 2))))


class Named(NamedTuple):
    """Words that clusters may be named by, and their unit vectors (W, D)."""

    words: list[str]
    vectors: NDArray[np.float32]


def named(model: Bundle, words: list[str] | None) -> Named | None:
    """Words to name clusters by: those given, those that a model of few words knows, or what photos
    show; None of a model that reads no texts. Raises UnsupportedError for words that it cannot
    read, and for none."""
    reads = bool(model.config.embed_dim) and model.tokenizer is not None
    if words is not None and not (reads and words):
        why = "give one or more" if reads else f"{model.name} reads no texts"
        raise UnsupportedError(f"words to name clusters by: {why}")
    if not reads:
        return None
    if words is None:
        own = model.scope.words if model.scope is not None else ()
        words = sorted(word for word in own if len(word) > 2 and word not in NO_NAMES) or list(
            THINGS
        )
    rows = model.reader().rows([f"a photo of a {word}" for word in words])
    return Named(words, model.embed_rows(rows))


def clusters(
    table: Table,
    matrix: Matrix,
    rows: NDArray[np.intp] | None,
    count: int | None,
    examples: int,
    names: Named | None,
    scope: Scope | None = None,
) -> list[Cluster]:
    """Clusters of entries, the largest first. rows: those of the matrix; None: all. scope: what the
    model was trained on."""
    half = matrix.half if rows is None else matrix.half[rows]
    if not len(half):
        return []
    middle = centres(half, count or how_many(len(half)))
    cells, cosines = nearest_centres(half, middle)
    own, near = cells[:, 0], cosines.numpy()[:, 0]
    counts = np.bincount(own, minlength=len(middle))
    order = [int(cell) for cell in np.argsort(-counts, kind="stable") if counts[cell]]
    titles = [f"cluster {n + 1}" for n in range(len(order))]
    if names is not None:
        titles = _titles(middle[order], counts[order], names)
    out = []
    for title, cell in zip(titles, order, strict=True):
        inside = np.flatnonzero(own == cell)
        first = inside[np.argsort(-near[inside], kind="stable")[:examples]]
        ids = matrix.ids[first if rows is None else rows[first]]
        centre = middle[cell].numpy().astype(np.float64)
        out.append(Cluster(title, int(counts[cell]), best(table, ids, centre, examples, scope)))
    return out


def _titles(middle: Tensor, counts: NDArray[np.int64], names: Named) -> list[str]:
    """A name for each centre (C, D): the word, or the two, whose vectors point most where the
    centre lies from the mean of all; no two are alike."""
    rows = middle.numpy().astype(np.float64)
    mean = np.average(rows, axis=0, weights=counts) if len(rows) > 1 else 0.0
    vectors = names.vectors.astype(np.float64)
    fit = _unit(rows - mean) @ _unit(vectors - vectors.mean(axis=0)).T  # (C, W)
    out: list[str] = []
    for row in fit:
        words = [names.words[i] for i in np.argsort(-row, kind="stable")[:8]]
        tries = [words[0], *(f"{words[0]}, {other}" for other in words[1:])]
        out.append(next((name for name in tries if name not in out), f"{words[0]} {len(out) + 1}"))
    return out


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)  # type: ignore[no-any-return]
