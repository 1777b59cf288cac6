"""Search in an index of generated vectors: milliseconds, recall and memory, beside other libraries.

    python benchmarks/index.py [--rows 1000 1000000 ...] [--dim 512] [--folder F] [--quick]

The vectors are uneven clusters with a power-law spectrum and a common mean, like a CLIP's image
vectors. Queries are of two kinds: from the distribution of the images, and far from all of them,
like a CLIP's texts (cosine 0.34 with the nearest). Recall@10 is relative to float32 products with
all vectors. faiss and usearch hold the vectors, or codes of them, in memory, and return numbers;
patchword and LanceDB return paths and dates from a table on disk. Times are medians over queries,
after one. Approximate search is measured from 100,000 rows on. --quick leaves out usearch, whose
graph takes minutes to build. --folder keeps vectors, table and graph for another run.
"""

import argparse
import importlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import torch
from rows import Rows as ResultRows
from rows import option_parser

from patchword.images.files import File
from patchword.index.nearest import Nearest
from patchword.index.schema import arrow_table, row_columns
from patchword.index.table import Store

K = 10
QUERIES = 200  # of each kind
BLOCK = 16384
CONDITIONS = {"1%": "path LIKE '%00.jpg'", "50%": "modified >= timestamp '{middle}'"}

Rows = np.ndarray
Search = Callable[[Rows], list[int]]
Measured = dict[str, tuple[float, str]]  # ms and recall for each kind of query
LIMITS = {"exact": 50.0, "approximate": 10.0}  # ms, of a million vectors
COLD_LIMIT = 2.0  # s from opening to the first answer, files not in memory
SLOW = "LanceDB flat"  # gets a tenth of the queries
MILLION = 1_000_000
APPROXIMATE_FROM = 100_000  # rows


def unit(rows: Rows) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class World:
    """A random distribution of vectors of images and of texts."""

    def __init__(self, dim: int) -> None:
        self.draw = np.random.default_rng(0)
        spectrum = np.arange(1, dim + 1) ** -0.44
        rotation = np.linalg.qr(self.draw.standard_normal((dim, dim)))[0]
        scaled = spectrum / np.linalg.norm(spectrum)
        self.basis = (scaled[:, None] * rotation).astype(np.float32)
        self.mean, self.own = unit(self.draw.standard_normal((2, dim))).astype(np.float32)
        self.centres = self.draw.standard_normal((2000, dim)).astype(np.float32)
        weights = self.draw.pareto(1.5, 2000) + 0.05
        self.weights = weights / weights.sum()

    def content(self, count: int) -> Rows:
        chosen = self.draw.choice(len(self.centres), count, p=self.weights)
        noise = self.draw.standard_normal((count, len(self.basis)), np.float32)
        return (0.7 * self.centres[chosen] + 0.714 * noise) @ self.basis

    def images(self, count: int) -> Rows:
        return unit(0.34**0.5 * self.mean + 0.66**0.5 * self.content(count))

    def texts(self, count: int) -> Rows:
        return unit(0.9 * self.own + 0.1 * self.mean + 0.42 * self.content(count))


def vectors_of(folder: Path, world: World, rows: int, dim: int) -> Rows:
    """Image vectors (rows, dim), kept in a file."""
    file = folder / f"vectors-{rows}.npy"
    if not file.exists():
        out = np.lib.format.open_memmap(file, "w+", np.float32, (rows, dim))
        for start in range(0, rows, BLOCK):
            out[start : start + BLOCK] = world.images(len(out[start : start + BLOCK]))
        out.flush()
    return np.load(file, mmap_mode="c")


def store_of(folder: Path, vectors: Rows, model: str = "made up", fingerprint: str = "0") -> Store:
    """The table of an index, written in one load, and kept."""
    store = Store(str(folder / f"index-{len(vectors)}"))
    if store.exists():
        return store
    store.create(vectors.shape[1], {"model": model, "fingerprint": fingerprint})
    start = 1_767_225_600 * 10**9  # 2026-01-01 in nanoseconds

    def batches() -> Iterator[Any]:
        for row in range(0, len(vectors), BLOCK):
            some = np.array(vectors[row : row + BLOCK])
            names = range(row, row + len(some))
            files = [File(f"/photos/{i:08d}.jpg", 1, start + i * 10**9) for i in names]
            yield from arrow_table(row_columns(files, some, {}), vectors.shape[1]).to_batches()

    first = next(batches())
    reader = pa.RecordBatchReader.from_batches(first.schema, batches())
    store.do(lambda table: table.add(reader))
    return store


def truth_of(vectors: Rows, queries: Rows) -> Rows:
    """Numbers (queries, K) of the nearest vectors, by float32 products with all of them."""
    best = torch.empty(len(queries), 0)
    ids = torch.empty(len(queries), 0, dtype=torch.long)
    for start in range(0, len(vectors), BLOCK):
        block = torch.from_numpy(vectors[start : start + BLOCK])
        top = (torch.from_numpy(queries) @ block.T).topk(K, dim=1)
        best, ids = torch.cat([best, top.values], 1), torch.cat([ids, top.indices + start], 1)
        best, order = best.topk(K, dim=1)
        ids = ids.gather(1, order)
    return ids.numpy()


def memory() -> str:
    """Resident memory of this process; the same with shared pages divided by the number of their
    processes; and the part that is no page of a file."""
    lines = [*Path("/proc/self/status").read_text().splitlines()]
    lines += Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    fields = dict(line.split(":", 1) for line in lines)
    sizes = [int(fields[name].split()[0]) / 2**20 for name in ("VmRSS", "Pss", "RssAnon")]
    return "resident {:.2f} GiB, shared pages counted in part {:.2f}, its own {:.2f}".format(*sizes)


def cold(index: str) -> tuple[float, float, float]:
    """In a new process, open an index whose files are not in the page cache, and search by a
    vector.

    Returns seconds from opening to the answer, from the start of Python to its end, and of CPU."""
    for file in Path(index).rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    code = f"""
import time
import numpy as np
from patchword.index.nearest import Nearest
from patchword.index.table import Store
start = time.perf_counter()
store = Store({index!r})
query = np.ones(int(store.required_metadata()["dim"]))
assert len(Nearest(store).find(query[None] / np.linalg.norm(query), 10)[0]) == 10
print(time.perf_counter() - start)
"""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(output), time.perf_counter() - start, spent


def measure(
    name: str, search: Search, queries: dict[str, Rows], truth: dict[str, Rows] | None
) -> Measured:
    """Measure milliseconds and recall for each kind of query, and print them."""
    search(next(iter(queries.values()))[0])
    line, measured = f"  {name:<34}", {}
    for kind, rows in queries.items():
        times, right = [], 0
        spent = time.process_time()
        for number, query in enumerate(rows):
            start = time.perf_counter()
            ids = search(query)
            times.append((time.perf_counter() - start) * 1e3)
            if truth:
                right += len(set(ids) & set(truth[kind][number].tolist()))
        spent = (time.process_time() - spent) * 1e3 / len(rows)
        milliseconds = statistics.median(times)
        line += f"  {kind} {milliseconds:.1f} ms ({spent:.1f} of CPU)"
        recall = ""
        if truth:
            recall = f"recall {right / (len(rows) * K):.3f}"
            line += f", {recall}"
        measured[kind] = milliseconds, recall
    print(line, flush=True)
    return measured


def ours(search: Nearest, where: str | None = None, exact: bool = True) -> Search:
    """patchword's search, as a function of a query."""

    def run(query: Rows) -> list[int]:
        unit_query = query.astype(np.float64)
        unit_query /= np.linalg.norm(unit_query)
        (hits,) = search.find(unit_query[None], K, where, exact=exact)
        return [int(hit.path[8:16]) for hit in hits]

    return run


def of_lancedb(table: Any) -> Search:
    """LanceDB's exact search."""

    def run(query: Rows) -> list[int]:
        scan = table.search(query, vector_column_name="vector").bypass_vector_index()
        hits = scan.distance_type("cosine").limit(K).select(["path", "_distance"]).to_arrow()
        return [int(path[8:16]) for path in hits["path"].to_pylist()]

    return run


def installed(name: str) -> Any:
    """Import a library. If it is not installed, print that and return None."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        print(f"  {name} is left out: it is not installed")
        return None


def of_faiss(faiss: Any, vectors: Rows) -> Iterator[tuple[str, str, Search]]:
    """faiss' two searches: "exact" or "approximate", name, and function."""
    dim = vectors.shape[1]
    flat = faiss.IndexFlatIP(dim)
    flat.add(np.ascontiguousarray(vectors))
    yield "exact", "faiss flat, float32 in memory", lambda q: flat.search(q[None], K)[1][0].tolist()
    flat.reset()  # frees 2 GB for a million vectors
    if len(vectors) < APPROXIMATE_FROM:
        return
    start = time.perf_counter()
    coded = faiss.index_factory(dim, "IVF1024,RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    coded.train(np.array(vectors[:: max(1, len(vectors) // 65536)]))
    coded.add(np.ascontiguousarray(vectors))
    coded.nprobe = 256
    print(f"  faiss IVF1024,RaBitQfs is built in {time.perf_counter() - start:.0f} s")

    def search(query: Rows) -> list[int]:
        ids = np.sort(coded.search(query[None], 300)[1][0])
        return scored(vectors, query, ids[ids >= 0])

    yield "approximate", "faiss IVF-RaBitQ, 256 parts, 300 ids", search


def of_usearch(library: Any, vectors: Rows, file: Path) -> Search:
    """usearch's graph, kept in a file."""
    graph = library.Index(
        ndim=vectors.shape[1], metric="cos", dtype="i8", connectivity=16, expansion_add=64
    )
    if file.exists():
        graph.load(file)
    else:
        start = time.perf_counter()
        graph.add(np.arange(len(vectors)), np.ascontiguousarray(vectors))
        graph.save(file)
        print(f"  usearch is built in {time.perf_counter() - start:.0f} s")
    graph.expansion_search = 1024
    return lambda q: scored(vectors, q, np.sort(graph.search(q, 100).keys.astype(np.int64)))


def scored(vectors: Rows, query: Rows, ids: Rows) -> list[int]:
    """The K nearest of the candidates `ids`, by the float32 vectors."""
    return ids[np.argsort(-(vectors[ids] @ query), kind="stable")[:K]].tolist()


def others(
    vectors: Rows, store: Store, quick: bool, folder: Path
) -> Iterator[tuple[str, str, Search]]:
    """The peers' searches: "exact" or "approximate", name, and function."""
    table = lancedb.connect(store.path).open_table("images")
    yield "exact", SLOW, of_lancedb(table)
    if faiss := installed("faiss"):
        yield from of_faiss(faiss, vectors)
    if not quick and len(vectors) >= APPROXIMATE_FROM and (library := installed("usearch.index")):
        file = folder / f"usearch-{len(vectors)}.i8"
        name = "usearch int8 graph, ef 1024, 100 ids"
        yield "approximate", name, of_usearch(library, vectors, file)


def opened(store: Store, query: Rows, results: ResultRows) -> Nearest:
    """Open the index and search once. Prints the times of first answers, and adds a row of that in
    a new process."""
    search = Nearest(store)
    start = time.perf_counter()
    ours(search)(query)
    print(f"  first search: {time.perf_counter() - start:.1f} s; {memory()}")
    search = Nearest(Store(store.path))
    start = time.perf_counter()
    ours(search)(query)
    print(f"  opened again, to the first answer: {time.perf_counter() - start:.2f} s")
    runs = [cold(store.path) for _ in range(5)]
    seconds, total, cpu = (statistics.median(run[i] for run in runs) for i in range(3))
    what = "an index opened, to its first answer, files not in memory"
    results.add(
        what, "s", ("limit", COLD_LIMIT), ("patchword", seconds),
        limit=1.0, axis="vectors", at=store.count(),
        agreement=f"from the start of Python {total:.2f} s, {cpu:.2f} s of CPU",
    )  # fmt: skip
    return search


def compare(count: int, options: argparse.Namespace, folder: Path, results: ResultRows) -> None:
    """Measure the rows of an index of `count` vectors."""
    world = World(options.dim)
    queries = {"images": world.images(QUERIES), "texts": world.texts(QUERIES)}
    queries = {kind: rows.astype(np.float32) for kind, rows in queries.items()}
    vectors = vectors_of(folder, world, count, options.dim)
    store = store_of(folder, vectors)
    print(f"{count} x {options.dim} vectors, the {K} nearest")
    search = opened(store, queries["images"][0], results)
    truth = {kind: truth_of(vectors, rows) for kind, rows in queries.items()}
    measured = {"exact": measure("patchword, exact", ours(search), queries, truth)}
    if count >= APPROXIMATE_FROM:
        start = time.perf_counter()
        if search.explain().way == "exact":
            recall = search.build()
            print(f"  approximate: built in {time.perf_counter() - start:.0f} s; {recall}")
        approximate = ours(search, exact=False)
        measured["approximate"] = measure("patchword, approximate", approximate, queries, truth)
    middle = np.datetime64(1_767_225_600 + count // 2, "s")
    few = {kind: rows[:20] for kind, rows in queries.items()}
    for share, where in CONDITIONS.items():
        filtered = ours(search, where.format(middle=middle))
        measure(f"patchword, exact, {share} meet a condition", filtered, few, None)
    for way, name, other in others(vectors, store, options.quick, folder):
        peer_queries = few if name == SLOW else queries
        theirs = measure(name, other, peer_queries, truth)
        add_rows(way, name, theirs, measured[way], count, results)
    if count == MILLION:
        for way, limit in LIMITS.items():
            limits = dict.fromkeys(queries, (limit, ""))
            add_rows(way, "limit", limits, measured[way], count, results)


def add_rows(
    way: str, peer: str, theirs: Measured, mine: Measured, count: int, results: ResultRows
) -> None:
    """Add a row for each kind of query."""
    for kind, (ms, recall) in mine.items():
        their_ms, their_recall = theirs[kind]
        agreement = recall
        if their_recall:
            agreement += f", the peer's {their_recall.removeprefix('recall ')}"
        what = f"nearest {K} vectors, {way}, to {kind}"
        results.add(
            what, "ms", (peer, their_ms), ("patchword", ms),
            limit=1.0, agreement=agreement, axis="vectors", at=count,
        )  # fmt: skip


def main() -> None:
    parser = option_parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[MILLION])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    results = ResultRows(options.results)
    for count in options.rows:
        with tempfile.TemporaryDirectory() as temporary:
            compare(count, options, options.folder or Path(temporary), results)


if __name__ == "__main__":
    main()
