"""Exact search: the bound of its first pass, near ties, and the file that processes share."""

import importlib
import os
import shutil
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from index_photos import unit

from patchword.errors import IndexStoreError
from patchword.images.files import File
from patchword.index import approximate, lance, quantized
from patchword.index import matrix as matrix_room
from patchword.index.exact import candidates, error_bound, half_products
from patchword.index.matrix import Matrix
from patchword.index.nearest import Nearest
from patchword.index.table import Store

ROWS, DIM = 600, 64


def nearly_equal_scores(
    draw: np.random.Generator, query: np.ndarray, rows: int = ROWS
) -> np.ndarray:
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
    return nearly_equal_scores(np.random.default_rng(2), query)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("made") / "store"
    stored(folder, vectors)
    return folder


@pytest.fixture
def folder(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the store, of which searches make a file."""
    monkeypatch.setattr(matrix_room, "MAX_IN_MEMORY", 0)
    shutil.copytree(made, tmp_path / "store")
    return tmp_path / "store"


def expected(vectors: np.ndarray, query: np.ndarray, k: int) -> list[str]:
    scores = vectors.astype(np.float64) @ query
    order = sorted(range(3, len(vectors)), key=lambda row: (-scores[row], row))
    return [f"/{row:04d}" for row in order[:k]]


def find_paths(store: Store | Path, query: np.ndarray, k: int = 20, **options: object) -> list[str]:
    store = Store(str(store)) if isinstance(store, Path) else store
    (hits,) = Nearest(store).find(query[None], k, **options)  # type: ignore[arg-type]
    return [hit.path for hit in hits]


def matrix_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".f16")


@pytest.mark.parametrize("dim", [1, 7, 64, 512, 1152])
def test_products_are_within_the_error_bound(dim: int) -> None:
    draw = np.random.default_rng(dim)
    # of all sizes, also below float16's normal numbers, and nearly parallel to the query
    rows = draw.standard_normal((400, dim)) * 10.0 ** draw.uniform(-6, 0, (400, dim))
    rows[:200] += 20 * rows[200]
    stored = unit(rows).astype(np.float32)
    query = unit(rows[200])
    half = stored.astype(np.float16)
    error = float(np.linalg.norm(stored - half.astype(np.float32), axis=1).max())
    products = half_products(half, query).numpy().astype(np.float64)
    off = np.abs(products - stored.astype(np.float64) @ query)
    assert off.max() <= error_bound(error, query)
    # the bound is no wild guess: a sum in float16 would break it
    assert error_bound(error, query) < 2e-3


def test_candidates_include_the_nearest_and_few_others(query: np.ndarray) -> None:
    draw = np.random.default_rng(5)
    stored = unit(draw.standard_normal((20000, DIM))).astype(np.float32)
    half = stored.astype(np.float16)
    error = float(np.linalg.norm(stored - half.astype(np.float32), axis=1).max())
    ids = np.arange(len(stored), dtype=np.uint64)
    matrix = Matrix(ids, lambda rows: half if rows is None else half[rows], error, None)
    scores = stored.astype(np.float64) @ query
    some = np.flatnonzero(draw.random(len(stored)) < 0.5)
    few = np.flatnonzero(draw.random(len(stored)) < 0.01)
    for allowed_rows in (None, some, few):
        allowed = np.arange(len(stored)) if allowed_rows is None else allowed_rows
        best = allowed[np.argsort(-scores[allowed])[:10]]
        found_rows = candidates(matrix, query, 10, allowed_rows)
        assert set(best) <= set(found_rows) <= set(allowed)
        assert len(found_rows) < 20


@pytest.mark.parametrize("k", [10, ROWS])
def test_near_ties_come_in_the_order_of_float64(
    folder: Path, vectors: np.ndarray, query: np.ndarray, k: int
) -> None:
    right = expected(vectors, query, k)
    first = half_products(vectors.astype(np.float16), query)
    exact = vectors.astype(np.float64) @ query
    by_half, by_exact = torch.argsort(first, descending=True), np.argsort(-exact)
    assert by_half[:300].tolist() != by_exact[:300].tolist()
    assert find_paths(folder, query, k) == right
    assert find_paths(folder, query, k, offset=7) == expected(vectors, query, k + 7)[7:]
    odd = [path for path in expected(vectors, query, ROWS) if path.endswith("1")]
    assert find_paths(folder, query, k, where="path LIKE '%1'") == odd[:k]


def test_processes_share_one_file_that_follows_the_table(
    folder: Path, vectors: np.ndarray, query: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_paths = expected(vectors, query, 20)
    store = Store(str(folder))
    search = Nearest(store)
    assert [hit.path for hit in search.find(query[None], 20)[0]] == expected_paths
    (name,) = matrix_files(folder)
    before = (folder / name).stat().st_mtime_ns
    assert find_paths(folder, query) == expected_paths  # another reader maps it as it is
    assert (folder / name).stat().st_mtime_ns == before
    store.put([File("/new", 0, 0)], query[None].astype(np.float32))
    store.delete([expected_paths[0]])
    assert [hit.path for hit in search.find(query[None], 20)[0]] == ["/new", *expected_paths[1:]]
    (newer,) = matrix_files(folder)
    assert newer != name
    from lancedb.index import BTree

    # of the next versions only what is new is read; where nothing is, the file stays as it is
    reads: list[int] = []
    read = matrix_room._read_block

    def counted(table: object, start: int, dim: int) -> object:
        reads.append(start)
        return read(table, start, dim)

    monkeypatch.setattr(matrix_room, "BLOCK", 100)
    monkeypatch.setattr(matrix_room, "_read_block", counted)
    opposite = -query[None].astype(np.float32)
    store.put([File("/newer", 0, 0), File("/0150", 1, 1)], np.repeat(opposite, 2, 0))
    assert find_paths(folder, -query, 2) == ["/0150", "/newer"]
    assert (
        find_paths(folder, query, 19)
        == ["/new", *(row for row in expected_paths[1:] if row != "/0150")][:19]
    )
    assert reads == [500]  # both are at the end
    inode, (old,) = (folder / matrix_files(folder)[0]).stat().st_ino, matrix_files(folder)
    store.do(lambda table: table.create_index("path", config=BTree()))
    assert find_paths(folder, -query, 2) == ["/0150", "/newer"]
    assert matrix_files(folder) != [old]
    assert (folder / matrix_files(folder)[0]).stat().st_ino == inode
    monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(1, "no links")))
    store.do(lambda table: table.create_index("size", config=BTree()))
    assert find_paths(folder, -query, 2) == ["/0150", "/newer"]
    assert reads == [500]


@pytest.mark.parametrize("bytes_alone", [True, False])
def test_a_damaged_file_is_made_anew(
    folder: Path,
    vectors: np.ndarray,
    query: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    bytes_alone: bool,
) -> None:
    """bytes_alone: what most searches read; the others read the vectors in float16 as well."""
    if not bytes_alone:
        monkeypatch.setattr(quantized, "_library", lambda: None)
    expected_paths = expected(vectors, query, 20)
    assert find_paths(folder, query) == expected_paths
    (name,) = matrix_files(folder)
    content = (folder / name).read_bytes()
    half = 4096, 4096 + (ROWS - 3) * DIM * 2
    draw = np.random.default_rng(0)
    behind = draw.integers(half[1], len(content), 3)
    for position in [*draw.integers(0, 150, 3), *draw.integers(*half, 3), *behind]:
        broken = bytearray(content)
        broken[position] ^= 1 << int(draw.integers(8))
        (folder / name).write_bytes(broken)
        assert find_paths(folder, query) == expected_paths
        if not (bytes_alone and half[0] <= position < half[1]):
            assert (folder / name).read_bytes() == content
        Nearest(Store(str(folder))).on_rows(lambda table, matrix, rows: matrix.read(None))
        assert (folder / name).read_bytes() == content
    for part in (b"", content[:5000], content + b"more"):
        (folder / name).write_bytes(part)
        assert find_paths(folder, query) == expected_paths
    header, _, rest = content.partition(b"\n")
    text = header.partition(b" ")[2].replace(b'"form": 3', b'"form": 2')  # of an earlier format
    assert not header.endswith(text)
    (folder / name).write_bytes(b"%08x %s\n" % (zlib.crc32(text), text) + rest)
    assert find_paths(folder, query) == expected_paths
    assert (folder / name).read_bytes() == content


@pytest.mark.parametrize("deleted", [True, False])
def test_a_file_that_is_lost_while_it_is_mapped_changes_no_answer(
    folder: Path, vectors: np.ndarray, query: np.ndarray, deleted: bool
) -> None:
    search = Nearest(Store(str(folder)))
    search.on_rows(lambda table, matrix, rows: None)
    (name,) = matrix_files(folder)
    content = (folder / name).read_bytes()
    if deleted:  # it stays with who has mapped it
        (folder / name).unlink()
    else:
        with open(folder / name, "r+b") as file:
            file.seek(4096)
            file.write(bytes((ROWS - 3) * DIM * 2))
    (hits,) = search.find(query[None], 20)
    assert [hit.path for hit in hits] == expected(vectors, query, 20)
    assert deleted or (folder / name).read_bytes() == content


def test_a_file_of_an_earlier_index_is_not_used(
    folder: Path, vectors: np.ndarray, query: np.ndarray
) -> None:
    find_paths(folder, query)
    (name,) = matrix_files(folder)
    shutil.rmtree(folder / "images.lance")
    (folder / "version.json").unlink()
    store = stored(folder, -vectors)  # the same number of versions and rows
    assert find_paths(store, -query) == expected(vectors, query, 20)
    assert matrix_files(folder) == [name]


def test_files_of_killed_processes_are_deleted(folder: Path, query: np.ndarray) -> None:
    for name, age in {".part-1.f16": 3600, ".part-2.f16": 0, "vectors-1.f16": 0}.items():
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age,) * 2)
    (folder / "vectors-99999.f16").write_bytes(b"x")  # of a process that is ahead
    find_paths(folder, query)
    assert len(matrix_files(folder)) == 3
    assert {".part-2.f16", "vectors-99999.f16"} < set(matrix_files(folder))


def test_where_no_file_can_be_written_vectors_are_held_in_memory(
    folder: Path, vectors: np.ndarray, query: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matrix_room, "replacing", full)
    with pytest.warns(UserWarning, match=r"cannot be written.*No space left on device"):
        assert find_paths(folder, query) == expected(vectors, query, 20)
    assert matrix_files(folder) == []


def test_damaged_rows_are_errors(folder: Path, query: np.ndarray) -> None:
    store = Store(str(folder))
    store.do(lambda table: table.update(where="path = '/0300'", values={"vector_sum": 7}))
    with pytest.raises(IndexStoreError, match="the entry of '/0300' is not what was written"):
        find_paths(store, query)


def test_a_deferred_package_runs_at_its_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_client").mkdir()
    (tmp_path / "slow_client/__init__.py").write_text("from slow_client.api import CALL\nRAN = 1\n")
    (tmp_path / "slow_client/api.py").write_text("CALL = 2\n")
    (tmp_path / "slow_client/types.py").write_text("KIND = 3\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    lance._defer("slow_client")
    types = importlib.import_module("slow_client.types")
    package = importlib.import_module("slow_client")
    assert types.KIND == 3
    assert "slow_client.api" not in sys.modules
    assert (package.CALL, package.RAN, package.types) == (2, 1, types)
    with pytest.raises(AttributeError, match="nothing"):
        package.nothing  # noqa: B018
    lance._defer("no_such_client")
    assert "no_such_client" not in sys.modules


def test_conditions_on_every_column(tmp_path: Path, vectors: np.ndarray) -> None:
    import pyarrow as pa

    store = stored(tmp_path / "store", vectors[:20], 2)
    rows = range(3, 20)
    columns = {
        "path": [f"/{row:04d}" for row in rows],
        "width": pa.array([row * 10 for row in rows], pa.int32()),
        "caption": [f"it's {row}" if row % 2 else None for row in rows],
        "tags": [["dog", str(row)] if row % 3 else [] for row in rows],
        "Price": [row / 4 - 3 for row in rows],
        "shop no": ["a" if row < 9 else "b" for row in rows],
        "sold": [row % 5 == 0 for row in rows],
        "date": ["2026" if row == 5 else "2025" for row in rows],
        "like": list(rows),
    }
    store.update(pa.table(columns))
    conditions = {
        "width >= 150 AND width != 170": lambda row: row in (15, 16, 18, 19),
        "caption = 'it''s 7' OR caption LIKE '%19'": lambda row: row in (7, 19),
        "caption IS NULL": lambda row: row % 2 == 0,
        "array_has(tags, 'dog')": lambda row: row % 3,
        "NOT array_has(tags, 'dog') AND width < 100": lambda row: row % 3 == 0 and row < 10,
        "price < -1.5": lambda row: row < 6,
        "Price BETWEEN 0 AND 0.5": lambda row: 12 <= row <= 14,
        "`shop no` = 'b' AND sold = true": lambda row: row in (10, 15),
        "sold AND NOT width IN (50, 100)": lambda row: row == 15,
        "id > 0 AND size = 0": lambda row: row < 10,
        "date = '2026' AND modified < date '2100-01-01'": lambda row: row == 5,
        "like > 17 AND path like '/%'": lambda row: row > 17,
    }
    query = np.eye(1, DIM)[0]
    for where, matches in conditions.items():
        assert sorted(find_paths(store, query, 99, where=where)) == [
            f"/{row:04d}" for row in rows if matches(row)
        ], where
    refused = {
        "width = '3'": "`width` is a number, and '3' is none",
        "caption > 3": "`caption` is a text, and 3 is none",
        "modified > '2026-01-01'": "`modified` is a time, and '2026-01-01' is none",
        "tags = 'dog'": "`tags` is a list, and 'dog' is none",
        "sold = 'true'": "`sold` is a boolean, and 'true' is none",
        "widt > 3": "no column widt .do you mean width?",
        "vector IS NULL": "vector holds vector",
        "mtime > 3": "no column mtime",
        "array_has(tags, 'a') OR length(path) > 3": "no column length",
        "1 = 1": "names no column",
        "path LIKE '%hat%": r": a quote ' is not closed\. Allowed",
        "caption = 'a OR caption = 'b'": "a quote ' is not closed",
        "`width > 3": "a quote ` is not closed",
        "caption = NULL": "NULL equals nothing: write IS NULL or IS NOT NULL",
        "NOT null != caption": "NULL equals nothing",
        "width IN (3, NULL)": "NULL equals nothing",
    }
    for where, message in refused.items():
        with pytest.raises(IndexStoreError, match=message):
            find_paths(store, query, where=where)


def test_approximate_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    centres = draw.standard_normal((40, DIM))
    data = unit(centres[draw.integers(0, 40, 4096)] + draw.standard_normal((4096, DIM)))
    data = data.astype(np.float32)
    store = stored(tmp_path / "store", data, 1)
    search = Nearest(store)
    query = unit(data[70] + 0.1 * draw.standard_normal(DIM).astype(np.float32)).astype(np.float64)
    before = search.find(query[None], 5)
    assert search.explain().way == "exact"
    assert not search.due()
    monkeypatch.setattr(approximate, "MIN_BYTES", 1)
    with pytest.raises(IndexStoreError, match=r"has 4093 vectors; .* needs 4096 or more"):
        search.build()
    extra = unit(draw.standard_normal((3, DIM))).astype(np.float32)
    store.put([File(f"/extra{i}", 0, 0) for i in range(3)], extra)
    assert search.due()
    monkeypatch.setattr(approximate, "QUERIES", 10)
    recall = search.build()
    assert (recall.rows, recall.queries, recall.texts) == (4096, 10, "made up")
    assert recall.image > 0.9
    assert recall.text > 0.9
    # scores are those of the stored vectors, and a search for what comes later finds it
    assert search.find(query[None], 5, exact=False) == before
    assert not search.due()
    store.put([File("/later", 0, 0)], query[None].astype(np.float32))
    (hits,) = search.find(query[None], 3, exact=False)
    assert [hit.path for hit in hits] == ["/later", *(hit.path for hit in before[0][:2])]
    assert search.find(query[None], 3, exact=False, offset=1)[0][0] == before[0][0]
    store.delete(["/later", before[0][0].path])
    assert search.find(query[None], 4, exact=False)[0] == before[0][1:]
    explained = search.explain()
    assert (explained.way, explained.rows, explained.recall) == ("approximate", 4095, recall)
    for options in ({"where": "size = 0"}, {"exact": True}, {"k": 1001}):
        assert search.explain(**options).way == "exact"  # type: ignore[arg-type]
    # parts that are not read are missed: the candidates come from the approximate index
    monkeypatch.setattr(approximate, "SHARE_READ", 0)
    monkeypatch.setattr(approximate, "MIN_PARTITIONS_READ", 1)
    find_paths = [search.find(q[None], 10, exact=False)[0] for q in data[:30].astype(np.float64)]
    right = [search.find(q[None], 10)[0] for q in data[:30].astype(np.float64)]
    assert find_paths != right
    # of an index that was emptied nothing is found
    store.do(lambda table: table.delete("size >= 0"))
    assert search.find(query[None], 4, exact=False) == [[]]


def test_vectors_of_unsupported_length_are_searched_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximate, "MIN_BYTES", 1)
    monkeypatch.setattr(approximate, "MIN_ROWS", 1)
    data = unit(np.random.default_rng(0).standard_normal((20, 12))).astype(np.float32)
    search = Nearest(stored(tmp_path / "store", data))
    assert not search.due()
    with pytest.raises(IndexStoreError, match=r"have 12 numbers; .* a multiple of 8: .* exact"):
        search.build()
