"""An index of 10,000,000 generated vectors: disk, memory, and milliseconds of searches.

    python benchmarks/index_large.py --folder F [--rows 10000000] [--dim 512]

Vectors and queries are like those of `index.py`, but drawn in parts, and stored only in the table:
37 GB of disk for 10,000,000 x 512. An interrupted run continues: each part is committed, and its
true nearest neighbours, by float32 products, are stored beside it.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from index import BLOCK, CONDITIONS, QUERIES, K, Rows, World, measure, memory, ours, truth_of

from patchword.images.files import File
from patchword.index.nearest import Nearest
from patchword.index.schema import arrow_table, row_columns
from patchword.index.table import Store

PART = 500_000  # rows in a commit
START = 1_767_225_600  # 2026-01-01 in seconds


def fill(store: Store, world: World, rows: int, dim: int, queries: dict[str, Rows]) -> None:
    """Add the missing rows, a part at a time, and store the true neighbours in each part."""
    if not store.exists():
        store.create(dim, {"model": "made up", "fingerprint": "0"})
    for begin in range(store.count(), rows, PART):
        best: list[dict[str, Rows]] = []
        batches = draw_rows(world, begin, min(begin + PART, rows), dim, queries, best)
        first = next(batches)
        reader = pa.RecordBatchReader.from_batches(first.schema, chain([first], batches))
        store.do(lambda table, reader=reader: table.add(reader))
        neighbours = {name: np.concatenate([block[name] for block in best], 1) for name in best[0]}
        np.savez(Path(store.path).parent / f"truth-{begin}.npz", **neighbours)
        print(f"  {store.count()} rows; {memory()}", flush=True)


def draw_rows(
    world: World, begin: int, end: int, dim: int, queries: dict[str, Rows], best: list[Any]
) -> Iterator[Any]:
    """Batches of rows of the table. Adds the queries' neighbours in each block to `best`."""
    world.draw = np.random.default_rng([1, begin])
    for start in range(begin, end, BLOCK):
        rows = world.images(min(BLOCK, end - start))
        neighbours = {kind: truth_of(rows, vectors) for kind, vectors in queries.items()}
        scores = {
            f"{kind} scores": np.einsum("qd,qkd->qk", queries[kind], rows[ids])
            for kind, ids in neighbours.items()
        }
        best.append({kind: ids + start for kind, ids in neighbours.items()} | scores)
        names = range(start, start + len(rows))
        files = [File(f"/photos/{i:08d}.jpg", 1, (START + i) * 10**9) for i in names]
        yield from arrow_table(row_columns(files, rows, {}), dim).to_batches()


def truth(folder: Path, kind: str, rows: int) -> Rows:
    """The nearest neighbours (queries, K) among all parts."""
    parts = [np.load(folder / f"truth-{begin}.npz") for begin in range(0, rows, PART)]
    ids = np.concatenate([part[kind] for part in parts], 1)
    scores = np.concatenate([part[f"{kind} scores"] for part in parts], 1)
    return np.take_along_axis(ids, np.argsort(-scores, axis=1)[:, :K], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    world = World(options.dim)
    queries = {"images": world.images(QUERIES), "texts": world.texts(QUERIES)}
    queries = {kind: rows.astype(np.float32) for kind, rows in queries.items()}
    store = Store(str(options.folder / "index"))
    start = time.perf_counter()
    fill(store, world, options.rows, options.dim, queries)
    seconds = time.perf_counter() - start
    print(f"{options.rows} x {options.dim} vectors are stored after {seconds:.0f} s")
    best = {kind: truth(options.folder, kind, options.rows) for kind in queries}
    search = Nearest(store)
    start = time.perf_counter()
    ours(search)(queries["images"][0])
    print(f"  first search: {time.perf_counter() - start:.1f} s; {memory()}", flush=True)
    measure("patchword, exact", ours(search), queries, best)
    for share, where in CONDITIONS.items():
        middle = np.datetime64(START + options.rows // 2, "s")
        filtered = ours(search, where.format(middle=middle))
        few = {kind: rows[:5] for kind, rows in queries.items()}
        measure(f"patchword, exact, {share} meet a condition", filtered, few, None)
    if search.explain().way == "exact":
        start = time.perf_counter()
        recall = search.build()
        print(f"  approximate: built in {time.perf_counter() - start:.0f} s; {recall}; {memory()}")
    measure("patchword, approximate", ours(search, exact=False), queries, best)
    size = sum(file.stat().st_size for file in Path(store.path).rglob("*") if file.is_file())
    print(f"  {memory()}; on disk {size / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
