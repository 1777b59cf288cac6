"""Seconds to build and milliseconds to search an index of random vectors, beside numpy and LanceDB.

    python benchmarks/index.py [--rows 200000] [--dim 512]

Reference: numpy's matrix product over all vectors in memory and the k largest (exact, in float32),
and LanceDB's own flat scan of the same table. Ours: `Index.search` without the text tower: the
query's vector is given, and the answers carry paths and dates. All in turn in one run.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lancedb
import numpy as np

from patchword.images.files import File
from patchword.index.nearest import Hit, Nearest
from patchword.index.table import Store

K = 10
ROUNDS = 9
COMMIT = 8192  # rows
CONDITION = "path LIKE '%00.jpg' AND modified >= date '2026-01-01'"


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def build(store: Store, vectors: np.ndarray) -> None:
    """The table as `Index.add` commits it, without the embedding."""
    store.create(vectors.shape[1], {"model": "random", "fingerprint": "0"})
    start = 1_767_225_600 * 10**9  # 2026-01-01 in nanoseconds
    for row in range(0, len(vectors), COMMIT):
        some = vectors[row : row + COMMIT]
        names = range(row, row + len(some))
        store.put([File(f"/photos/{i:07d}.jpg", 1, start + i * 10**9) for i in names], some)
    store.compact(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((given.rows, given.dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[0].astype(np.float64)
    plain = query.astype(np.float32)

    def with_numpy() -> list[int]:
        scores = vectors @ plain
        best = np.argpartition(-scores, K)[:K]
        return list(best[np.argsort(-scores[best])])

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        search = Nearest(store)

        def ours(where: str | None = None) -> list[Hit]:
            return search.find(query[None], K, where)[0]

        print(f"{given.rows} x {given.dim} vectors, the {K} nearest")
        print(f"  build  {seconds(lambda: build(store, vectors)):8.1f} s")
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        print(f"  on disk{size / 1e6:8.0f} MB, vectors alone {vectors.nbytes / 1e6:.0f} MB")
        print(f"  first search, reads them {seconds(ours) * 1e3:8.1f} ms")
        table = lancedb.connect(folder).open_table("images")

        def with_lancedb() -> list[str]:
            scan = (
                table.search(plain).distance_type("cosine").limit(K).select(["path", "_distance"])
            )
            return list(scan.to_arrow()["path"].to_pylist())

        ways: dict[str, Callable[[], object]] = {
            "LanceDB flat scan": with_lancedb,
            "numpy, exact": with_numpy,
            "patchword": ours,
            "patchword, where": lambda: ours(CONDITION),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, work in ways.items():
                times[name].append(seconds(work) * 1e3)
        middle = {name: statistics.median(each) for name, each in times.items()}
        for name, each in middle.items():
            print(f"  {name:<20}{each:8.1f} ms   {each / middle['numpy, exact']:5.2f} of numpy")
        ours = [hit.path for hit in ours()]
        same = ours == [f"/photos/{i:07d}.jpg" for i in with_numpy()] == with_lancedb()
        print(f"  the same {K} from all three: {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()
