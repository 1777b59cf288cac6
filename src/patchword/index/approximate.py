"""Approximate search: LanceDB's IVF_RQ index finds candidates, whose scores are then computed as in
exact search. Rows that were added after the index was built are all compared.

The vectors are sorted into partitions by k-means, and stored with one bit a number (RaBitQ: Gao and
Long 2024). A search reads the partitions whose centres are nearest to the query, and misses what is
in the others. It misses more for texts, whose vectors lie apart from those of all images, than for
images.

The distance of a query q to the centre c of a partition is |q - c|^2 = |q|^2 + |c|^2 - 2 c q. For a
text, c q is nearly the same for all partitions. Then |c|^2 would decide, and partitions of
scattered vectors, whose centres are short, would be read first. So the query t q is searched: it
has the same nearest unit vectors, and the larger t is, the less |c|^2 weighs. But it must keep some
weight: scattered vectors are also further from c on the side of q.
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

MIN_BYTES = 2 << 30  # of a float16 matrix; exact search reads 2 GB in about 0.1 s
MIN_ROWS = 4096  # that partitions can be made of
DIM_MULTIPLE = 8  # IVF_RQ takes vectors whose length is a multiple of this
# The t above. Of the 10 nearest of 1,000,000, a search by text and one by image find with t = 1:
# 0.940 and 0.998; 1.5: 0.983 and 0.998; 2: 0.988 and 0.995; 3: 0.989 and 0.992.
QUERY_LENGTH = 2
# A search reads at least so many partitions, and this share of the square root of the rows.
MIN_PARTITIONS_READ, SHARE_READ = 192, 3 / 16
CANDIDATES = 700  # of a search for 10 among a million; among more, more by their square root
MAX_K = 1000  # for more neighbours than this, all vectors are compared
SAMPLES_PER_PARTITION, ITERATIONS = 64, 10  # of k-means
MAX_UNINDEXED = 0.05  # share of the rows; when more were added later, the index should be updated
QUERIES = 100  # of each kind, to measure the recall with
K = 10

_COLUMN, _NAME = "vector", "vector_idx"


class Recall(NamedTuple):
    """The share of the true 10 nearest that an approximate search finds, measured with `queries`
    images and as many texts when the table had `rows`. texts: "the model's", or "made up"."""

    rows: int
    queries: int
    image: float
    text: float
    texts: str


def partition_count(rows: int) -> int:
    """Into how many partitions vectors are sorted: the power of two next to the square root of
    their number."""
    return int(2 ** round(math.log2(math.sqrt(max(rows, 1)))))


def has_index(table: Table) -> bool:
    """Whether the version that the table is at has an approximate index."""
    return any(index.name == _NAME for index in table.list_indices())


def unindexed_rows(table: Table) -> int:
    """How many rows were added after the approximate index was built."""
    return int(table.index_stats(_NAME).num_unindexed_rows)


def build(table: Table) -> None:
    """Build the approximate index, or build it anew. Searches meanwhile read the old one."""
    from lancedb.index import IvfRq

    config = IvfRq(
        num_partitions=partition_count(table.count_rows()),
        sample_rate=SAMPLES_PER_PARTITION,
        max_iterations=ITERATIONS,
    )
    table.create_index(_COLUMN, config=config, name=_NAME)


def candidate_ids(
    table: Table, rows: int, query: NDArray[np.float64], k: int
) -> NDArray[np.uint64]:
    """The row ids of entries that are likely to be among the k nearest to a unit vector (D,), in no
    order. rows: of the table."""
    search = table.search((QUERY_LENGTH * query).astype(np.float32), vector_column_name=_COLUMN)
    count = math.ceil(CANDIDATES * max(1, math.sqrt(rows / 1e6))) * max(1, math.ceil(k / K / 4))
    partitions = max(MIN_PARTITIONS_READ, math.ceil(SHARE_READ * math.sqrt(rows)))
    results = search.nprobes(partitions).limit(count).with_row_id(True).select(["_distance"])
    ids = np.empty(0, np.uint64)
    for batch in results.to_batches():  # `to_arrow` would also read the schema and one more batch
        ids = np.concatenate([ids, batch.column("_rowid").to_numpy()])
        if len(ids) >= count:
            break
    return ids


def measure_recall(
    table: Table, matrix: Matrix, texts: Vectors | None, folder: str, mark: str
) -> Recall:
    """Measure the recall, and write it to a file in the folder. texts (Q, D): unit vectors of text
    queries; None: random ones, as far from all images as the texts of a CLIP are. mark: of the
    table."""
    rng = np.random.default_rng(0)
    sample = np.sort(rng.choice(len(matrix.ids), min(QUERIES, len(matrix.ids)), replace=False))
    image_queries = units(matrix.read(sample).astype(np.float64))
    if texts is None:
        text_queries = text_like(image_queries, rng)
    else:
        text_queries = units(texts[:QUERIES].astype(np.float64))
    recall = Recall(
        len(matrix.ids),
        len(image_queries),
        _recall(table, matrix, image_queries, sample),
        _recall(table, matrix, text_queries, None),
        "made up" if texts is None else "the model's",
    )
    write(os.path.join(folder, RECALL), json.dumps({"mark": mark, **recall._asdict()}))
    return recall


def stored_recall(folder: str, mark: str) -> Recall | None:
    """The recall that was measured last for the table of this mark; None if there is none."""
    try:
        with open(os.path.join(folder, RECALL), encoding="utf-8") as file:
            stored: dict[str, Any] = json.load(file)
        if stored["mark"] != mark:
            return None
        return Recall(*(stored[name] for name in Recall._fields))
    except (OSError, ValueError, KeyError, TypeError):  # searches work without it
        return None


def text_like(images: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Random unit vectors (N, D) that lie to images (N, D) as the texts of a CLIP do: all share a
    direction that no image has, and differ in little of what tells images apart. Cosines with the
    nearest images are about 0.35."""
    mean = images.mean(axis=0)
    text_direction = units(rng.standard_normal((1, images.shape[1])))
    content = units(images[rng.permutation(len(images))] - mean)
    return units(0.9 * text_direction + 0.1 * mean + 0.42 * content)


def _recall(
    table: Table, matrix: Matrix, queries: NDArray[np.float64], own_rows: NDArray[np.intp] | None
) -> float:
    """The share of the true K nearest that the approximate search finds. own_rows: the rows of the
    queries themselves, which do not count."""
    found, wanted = 0, 0
    for number, query in enumerate(queries):
        count = K if own_rows is None else K + 1
        exact = candidates(matrix, query, count)
        approximate = matrix.rows_of(candidate_ids(table, len(matrix.ids), query, count))
        if own_rows is not None:
            exact = exact[exact != own_rows[number]]
            approximate = approximate[approximate != own_rows[number]]
        true_best = _best_rows(matrix, query, exact)
        found += len(np.intersect1d(true_best, _best_rows(matrix, query, approximate)))
        wanted += len(true_best)
    return found / max(wanted, 1)


def _best_rows(
    matrix: Matrix, query: NDArray[np.float64], rows: NDArray[np.intp]
) -> NDArray[np.intp]:
    """The K of these rows that are nearest to a query."""
    return rows[np.argsort(-(matrix.read(rows).astype(np.float64) @ query), kind="stable")[:K]]
