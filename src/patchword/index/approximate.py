"""Approximate search: LanceDB's IVF_RQ finds candidates, whose scores are then computed as in exact
search. Rows that came after it was built are all compared.

The vectors are sorted into parts by k-means, and held as one bit a number (RaBitQ: Gao and Long
2024); a search reads the parts nearest to the query. What it misses lies in parts that it does not
read, and is far more with texts, which lie apart from all images, than with images.

The distance of a query q to the centre c of a part is |q - c|^2 = |q|^2 + |c|^2 - 2 c q. For a
text, c q is nearly the same for all parts, so that |c|^2 would decide, and scattered parts, whose
centres are short, would be read first. The query t q has the same nearest unit vectors, and |c|^2
weighs less the larger t is. It keeps some weight: scattered vectors are also further from c on the
side of q.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchword.atomic_write import write
from patchword.index.exact import candidates
from patchword.index.matrix import Matrix
from patchword.index.query import units
from patchword.index.schema import Vectors
from patchword.index.table import RECALL, Table

FROM = 2 << 30  # bytes of a float16 matrix; exact search reads as many in about 0.1 s
FEWEST = 4096  # rows that parts can be made of
STEP = 8  # IVF_RQ takes vectors of a multiple of so many numbers
# t. Of the 10 nearest of 1,000,000 to texts and images, so many are found with 1: 0.940 and 0.998;
# 1.5: 0.983 and 0.998; 2: 0.988 and 0.995; 3: 0.989 and 0.992.
STRETCH = 2
# The parts that a search reads: so many, and of more than 1,024 a share.
FEWEST_READ, SHARE_READ = 192, 3 / 16
CANDIDATES = 700  # of a search for 10
MOST = 1000  # neighbours that are searched so; for more, all vectors are compared
SAMPLES, ROUNDS = 64, 10  # of k-means: vectors for each part, iterations
UNREAD = 0.05  # of the rows: with more that came later, the parts are made up to date
QUERIES = 100  # of each kind, by which the recall is measured
K = 10

_COLUMN, _NAME = "vector", "vector_idx"


class Recall(NamedTuple):
    """The share of the true 10 nearest that were found, measured with `queries` of each kind when
    the table had `rows`: with images, and with texts; `texts` says which."""

    rows: int
    queries: int
    image: float
    text: float
    texts: str


def parts(rows: int) -> int:
    """Into how many parts so many vectors are sorted: the power of two next to the square root."""
    return int(2 ** round(math.log2(math.sqrt(max(rows, 1)))))


def built(table: Table) -> bool:
    """Whether the version that the table is at has an approximate index."""
    return any(index.name == _NAME for index in table.list_indices())


def later(table: Table) -> int:
    """The rows that came after it was built."""
    return int(table.index_stats(_NAME).num_unindexed_rows)


def build(table: Table) -> None:
    """Sort the vectors into parts; what searches read meanwhile stays as it is."""
    from lancedb.index import IvfRq

    config = IvfRq(
        num_partitions=parts(table.count_rows()), sample_rate=SAMPLES, max_iterations=ROUNDS
    )
    table.create_index(_COLUMN, config=config, name=_NAME)


def near(table: Table, rows: int, query: NDArray[np.float64], k: int) -> NDArray[np.uint64]:
    """The row ids of entries, of so many `rows`, that are likely to be among the k nearest to a
    unit vector (D,), in no order."""
    search = table.search((STRETCH * query).astype(np.float32), vector_column_name=_COLUMN)
    count = CANDIDATES * max(1, math.ceil(k / K / 4))
    reads = max(FEWEST_READ, math.ceil(SHARE_READ * parts(rows)))
    found = search.nprobes(reads).limit(count).with_row_id(True).select(["_distance"])
    ids = np.empty(0, np.uint64)
    for batch in found.to_batches():  # `to_arrow` asks for the schema and for one batch more
        ids = np.concatenate([ids, batch.column("_rowid").to_numpy()])
        if len(ids) >= count:
            break
    return ids


def measured(table: Table, matrix: Matrix, texts: Vectors | None, folder: str, mark: str) -> Recall:
    """Measure the recall and note it in the folder. texts (Q, D): unit vectors of queries; None:
    made up, as far from all images as those of a CLIP are."""
    draw = np.random.default_rng(0)
    chosen = np.sort(draw.choice(len(matrix.ids), min(QUERIES, len(matrix.ids)), replace=False))
    images = units(matrix.read(chosen).astype(np.float64))
    words = text_like(images, draw) if texts is None else units(texts[:QUERIES].astype(np.float64))
    found = Recall(
        len(matrix.ids),
        len(images),
        _recall(table, matrix, images, chosen),
        _recall(table, matrix, words, None),
        "made up" if texts is None else "the model's",
    )
    write(os.path.join(folder, RECALL), json.dumps({"mark": mark, **found._asdict()}))
    return found


def noted(folder: str, mark: str) -> Recall | None:
    """The recall that was measured last; None where none was."""
    try:
        with open(os.path.join(folder, RECALL), encoding="utf-8") as file:
            note: dict[str, Any] = json.load(file)
        return Recall(*(note[name] for name in Recall._fields)) if note["mark"] == mark else None
    except (OSError, ValueError, KeyError, TypeError):  # a note that is lost costs no answer
        return None


def text_like(images: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Unit vectors (N, D) that lie to images (N, D) as a CLIP's texts do: all in a direction of
    their own, with little of what tells images apart; cosines with the nearest are about 0.35."""
    mean = images.mean(axis=0)
    own = units(draw.standard_normal((1, images.shape[1])))
    content = units(images[draw.permutation(len(images))] - mean)
    return units(0.9 * own + 0.1 * mean + 0.42 * content)


def _recall(
    table: Table, matrix: Matrix, queries: NDArray[np.float64], own: NDArray[np.intp] | None
) -> float:
    """own: the rows of the queries themselves, which are no answers."""
    hits, wanted = 0, 0
    for number, query in enumerate(queries):
        asked = K if own is None else K + 1
        every = candidates(matrix, query, asked)
        got = matrix.places(near(table, len(matrix.ids), query, asked))
        if own is not None:
            every, got = every[every != own[number]], got[got != own[number]]
        best = _top(matrix, query, every)
        hits += len(np.intersect1d(best, _top(matrix, query, got)))
        wanted += len(best)
    return hits / max(wanted, 1)


def _top(matrix: Matrix, query: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.intp]:
    return rows[np.argsort(-(matrix.read(rows).astype(np.float64) @ query), kind="stable")[:K]]
