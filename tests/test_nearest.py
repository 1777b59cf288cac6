"""Exact search: the bound of its first pass, near ties, and the file that processes share."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from patchword.errors import IndexStoreError
from patchword.images.files import File
from patchword.index import matrix as matrix_room
from patchword.index.exact import bound, candidates, product
from patchword.index.matrix import Matrix
from patchword.index.nearest import Nearest
from patchword.index.table import Store

ROWS, DIM = 600, 64


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def near_ties(draw: np.random.Generator, query: np.ndarray, rows: int = ROWS) -> np.ndarray:
    """Unit vectors whose products with a query differ by less than float16 can tell, most by 1e-6,
    half of them in a few large numbers and many small ones."""
    dim = len(query)
    aside = draw.standard_normal((rows, dim))
    aside[::2] *= draw.random((1, dim)) ** 8
    aside = unit(aside - np.outer(aside @ query, query))
    height = 0.35 + 1e-6 * draw.permutation(rows)
    return (height[:, None] * query + np.sqrt(1 - height**2)[:, None] * aside).astype(np.float32)


def stored(folder: Path, vectors: np.ndarray, commits: int = 4) -> Store:
    """A store of vectors, in several fragments, rows of the first deleted."""
    store = Store(str(folder))
    store.create(vectors.shape[1], {})
    for i, rows in enumerate(np.array_split(np.arange(len(vectors)), commits)):
        store.put([File(f"/{row:04d}", i, i) for row in rows], vectors[rows])
    store.delete([f"/{row:04d}" for row in range(3)])
    return store


@pytest.fixture(scope="module")
def query() -> np.ndarray:
    return unit(np.random.default_rng(1).standard_normal(DIM))


@pytest.fixture(scope="module")
def vectors(query: np.ndarray) -> np.ndarray:
    return near_ties(np.random.default_rng(2), query)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("made") / "store"
    stored(folder, vectors)
    return folder


@pytest.fixture
def folder(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the store, of which searches make a file."""
    monkeypatch.setattr(matrix_room, "IN_MEMORY", 0)
    shutil.copytree(made, tmp_path / "store")
    return tmp_path / "store"


def expected(vectors: np.ndarray, query: np.ndarray, k: int) -> list[str]:
    scores = vectors.astype(np.float64) @ query
    order = sorted(range(3, len(vectors)), key=lambda row: (-scores[row], row))
    return [f"/{row:04d}" for row in order[:k]]


def found(store: Store | Path, query: np.ndarray, k: int = 20, **options: object) -> list[str]:
    store = Store(str(store)) if isinstance(store, Path) else store
    (hits,) = Nearest(store).find(query[None], k, **options)  # type: ignore[arg-type]
    return [hit.path for hit in hits]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".f16")


@pytest.mark.parametrize("dim", [1, 7, 64, 512, 1152])
def test_no_product_is_further_off_than_the_bound(dim: int) -> None:
    draw = np.random.default_rng(dim)
    # of all sizes, also below float16's normal numbers, and nearly parallel to the query
    rows = draw.standard_normal((400, dim)) * 10.0 ** draw.uniform(-6, 0, (400, dim))
    rows[:200] += 20 * rows[200]
    stored = unit(rows).astype(np.float32)
    query = unit(rows[200])
    half = stored.astype(np.float16)
    error = float(np.linalg.norm(stored - half.astype(np.float32), axis=1).max())
    off = np.abs(product(half, query).numpy().astype(np.float64) - stored.astype(float) @ query)
    assert off.max() <= bound(error, query)
    # the bound is no wild guess: a sum in float16 would break it
    assert bound(error, query) < 2e-3


def test_candidates_hold_all_the_best_and_little_else(query: np.ndarray) -> None:
    draw = np.random.default_rng(5)
    stored = unit(draw.standard_normal((20000, DIM))).astype(np.float32)
    half = stored.astype(np.float16)
    error = float(np.linalg.norm(stored - half.astype(np.float32), axis=1).max())
    ids = np.arange(len(stored), dtype=np.uint64)
    matrix = Matrix(ids, half, error, None)
    scores = stored.astype(np.float64) @ query
    some = np.flatnonzero(draw.random(len(stored)) < 0.5)
    few = np.flatnonzero(draw.random(len(stored)) < 0.01)
    for kept in (None, some, few):
        allowed = np.arange(len(stored)) if kept is None else kept
        best = allowed[np.argsort(-scores[allowed])[:10]]
        got = candidates(matrix, query, 10, kept)
        assert set(best) <= set(got) <= set(allowed)
        assert len(got) < 20


@pytest.mark.parametrize("k", [1, 10, 300, ROWS])
def test_near_ties_come_in_the_order_of_float64(
    folder: Path, vectors: np.ndarray, query: np.ndarray, k: int
) -> None:
    right = expected(vectors, query, k)
    first = product(vectors.astype(np.float16), query)
    assert (
        torch.argsort(first, descending=True)[:300].tolist()
        != sorted(range(ROWS), key=lambda row: -float(vectors[row].astype(np.float64) @ query))[
            :300
        ]
    )
    assert found(folder, query, k) == right
    assert found(folder, query, k, offset=7) == expected(vectors, query, k + 7)[7:]
    odd = [path for path in expected(vectors, query, ROWS) if path.endswith("1")]
    assert found(folder, query, k, where="path LIKE '%1'") == odd[:k]


def test_processes_share_one_file_that_follows_the_table(
    folder: Path, vectors: np.ndarray, query: np.ndarray
) -> None:
    right = expected(vectors, query, 20)
    store = Store(str(folder))
    search = Nearest(store)
    assert [hit.path for hit in search.find(query[None], 20)[0]] == right
    (name,) = files(folder)
    before = (folder / name).stat().st_mtime_ns
    assert found(folder, query) == right  # another reader maps it as it is
    assert (folder / name).stat().st_mtime_ns == before
    store.put([File("/new", 0, 0)], query[None].astype(np.float32))
    store.delete([right[0]])
    assert [hit.path for hit in search.find(query[None], 20)[0]] == ["/new", *right[1:]]
    (newer,) = files(folder)
    assert newer != name


def test_a_damaged_file_is_made_anew(folder: Path, vectors: np.ndarray, query: np.ndarray) -> None:
    right = expected(vectors, query, 20)
    assert found(folder, query) == right
    (name,) = files(folder)
    whole = (folder / name).read_bytes()
    draw = np.random.default_rng(0)
    places = [*draw.integers(0, 150, 8), *draw.integers(4096, len(whole), 12)]
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= 1 << int(draw.integers(8))
        (folder / name).write_bytes(broken)
        assert found(folder, query) == right
        assert (folder / name).read_bytes() == whole
    for part in (b"", whole[:5000], whole + b"more"):
        (folder / name).write_bytes(part)
        assert found(folder, query) == right


def test_a_file_of_an_earlier_index_in_the_folder_is_not_taken(
    folder: Path, vectors: np.ndarray, query: np.ndarray
) -> None:
    found(folder, query)
    (name,) = files(folder)
    shutil.rmtree(folder / "images.lance")
    (folder / "version.json").unlink()
    store = stored(folder, -vectors)  # the same number of versions and rows
    assert found(store, -query) == expected(vectors, query, 20)
    assert files(folder) == [name]


def test_what_killed_processes_left_goes(folder: Path, query: np.ndarray) -> None:
    for name, age in {".part-1.f16": 3600, ".part-2.f16": 0, "vectors-1.f16": 0}.items():
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age,) * 2)
    (folder / "vectors-99999.f16").write_bytes(b"x")  # of a process that is ahead
    found(folder, query)
    assert len(files(folder)) == 3
    assert {".part-2.f16", "vectors-99999.f16"} < set(files(folder))


def test_where_no_file_can_be_written_vectors_are_held_in_memory(
    folder: Path, vectors: np.ndarray, query: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matrix_room, "replacing", full)
    with pytest.warns(UserWarning, match=r"cannot be written.*No space left on device"):
        assert found(folder, query) == expected(vectors, query, 20)
    assert files(folder) == []


def test_rows_that_are_not_what_was_written_are_refused(folder: Path, query: np.ndarray) -> None:
    store = Store(str(folder))
    store.do(lambda table: table.update(where="path = '/0300'", values={"vector_sum": 7}))
    with pytest.raises(IndexStoreError, match="the entry of '/0300' is not what was written"):
        found(store, query)
