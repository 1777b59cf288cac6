"""Vectors and columns that were made elsewhere, and queries of numbers, at their ends."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from index_photos import clip_retrieval_folder

from patchword.bundle import Bundle
from patchword.errors import IndexStoreError
from patchword.index import Index, open_index
from patchword.index.schema import id_of


def random_vectors(count: int, dim: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, dim))


def folder_of_missing_photos(folder: Path, *parts: np.ndarray) -> Path:
    """A folder as clip-retrieval writes it, of photos that do not exist."""
    tables = []
    for number, part in enumerate(parts):
        paths = [f"/photos/{number}-{row}.jpg" for row in range(len(part))]
        tables.append(pa.table({"image_path": pa.array(paths, pa.string())}))
    return clip_retrieval_folder(folder, list(parts), tables)


@pytest.fixture
def three_entries(tmp_path: Path, model: Bundle) -> Index:
    index = open_index(tmp_path / "index")
    index.put(
        ["/1.jpg", "/2.jpg", "/3.jpg"], random_vectors(3, model.dim), model, {"lot": [1, 2, 3]}
    )
    return index


def test_columns_of_numpy_days_and_nan(tmp_path: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "index")
    columns = {
        "whole": np.array([1, 2, 3]),
        "narrow": np.array([0.5, 1.5, 2.5], np.float32),
        "yes": np.array([True, False, True]),
        "day": [date(2026, 1, 2), None, date(2026, 1, 4)],
        "hour": np.array(["2026-01-01T08:00", "NaT", "2026-01-03"], "datetime64[ns]"),
        "share": [0.25, float("nan"), np.float32("nan")],
    }
    paths = [f"/{number}.jpg" for number in range(3)]
    index.put(paths, random_vectors(3, model.dim), model, columns)
    kinds = {name: index.columns[name] for name in columns}
    assert list(kinds.values()) == ["number", "number", "boolean", "time", "time", "number"]
    row = index.row(id_of(paths[0]), list(columns))
    assert list(row.values()) == [
        *(1, 0.5, True, datetime(2026, 1, 2, tzinfo=UTC)),
        *(datetime(2026, 1, 1, 8, tzinfo=UTC), 0.25),
    ]
    assert index.count("day >= date '2026-01-04'") == index.count("hour < date '2026-01-02'") == 1
    assert index.count("share > 0") == index.count("share > 1e-3") == 1
    assert index.count("share IS NULL") == 2
    assert index.count("whole > 1.5") == index.count("whole BETWEEN 1.5 AND 3") == 2
    assert index.count("whole >= 3.0 AND size = 0") == 1
    index.put(
        paths, random_vectors(3, model.dim), columns=pa.table({"share": [np.nan, 4.0, np.nan]})
    )
    assert index.count("share > 0.1") == index.count("share = 4") == 1


def test_lists_of_tags(three_entries: Index) -> None:
    tags = ["a, b ,", '["c d", "e"]', [1, 2]]
    three_entries.fill(three_entries.paths(), {"tags": tags})
    ids = [id_of(path) for path in three_entries.paths()]
    stored = [row["tags"] for row in three_entries.rows(ids, ["tags"])]
    assert stored == [["a", "b"], ["c d", "e"], ["1", "2"]]


def test_values_that_do_not_fit_change_nothing(
    three_entries: Index, tmp_path: Path, model: Bundle
) -> None:
    before = three_entries.version
    with pytest.raises(IndexStoreError, match="column lot of the index holds numbers"):
        three_entries.put(
            ["/1.jpg", "/4.jpg"], random_vectors(2, model.dim), columns={"lot": ["a", "b"]}
        )
    folder = folder_of_missing_photos(tmp_path / "vectors", np.zeros((2, model.dim), np.float16))
    with pytest.raises(IndexStoreError, match=r"0-0\.jpg: its vector, row 0, has no direction"):
        three_entries.take_over(folder, model, reindex=True)
    assert (len(three_entries), three_entries.version) == (3, before)


def test_a_folder_of_vectors_with_an_empty_file(tmp_path: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "index")
    folder = folder_of_missing_photos(
        tmp_path, random_vectors(2, model.dim), np.zeros((0, model.dim))
    )
    assert index.take_over(folder, model) == len(index) == 2


def test_addresses_stay_what_they_are(three_entries: Index, model: Bundle) -> None:
    addresses = ["https://example.org/a.jpg", "s3://bucket/b.jpg"]
    three_entries.put(addresses, random_vectors(2, model.dim))
    assert set(addresses) < set(three_entries.paths())
    assert not set(addresses) & set(three_entries.gone())
    assert three_entries.remove(addresses) == 2
    assert len(three_entries) == 3


def test_queries_of_any_length(three_entries: Index, model: Bundle) -> None:
    query = random_vectors(3, model.dim)[1]
    for length in (1e-200, 1e-20, 1e200):
        [hit] = three_entries.search(query * length, 1, model=model)
        [[again]] = three_entries.search_many(query[None] * length, 1, model=model)
        assert hit == again
        assert hit.path == "/2.jpg"
        assert hit.score == pytest.approx(1)
    for search, shape in (
        (three_entries.search, model.dim),
        (three_entries.search_many, (1, model.dim)),
    ):
        with pytest.raises(IndexStoreError, match="query's vector is 0"):
            search(np.zeros(shape), model=model)
    assert three_entries.search(query, 1, without="a dog", model=model)[0].path == "/2.jpg"
