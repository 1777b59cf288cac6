"""Indexes at s3://: the same answers as in a folder, two writers at once, and clear errors."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from index_photos import picture, twelve_photos
from photos import CAT
from pyarrow import fs
from small_models import tiny_bundle, tiny_clip
from typer.testing import CliRunner

import patchword
from patchword.bundle import Bundle
from patchword.cli import app
from patchword.errors import IndexStoreError
from patchword.index import matrix, open_index
from patchword.index.location import location_of
from patchword.index.schema import id_of


@pytest.fixture(scope="module")
def model() -> Bundle:
    return tiny_bundle(tiny_clip())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = twelve_photos(tmp_path / "photos")
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


def test_answers_as_an_index_in_a_folder(
    bucket: str, photos: Path, tmp_path: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "MAX_IN_MEMORY", 0)  # a mapped file of vectors, in the cache
    here, there = open_index(tmp_path / "x.index"), open_index(f"{bucket}/deep/x.index/")
    assert there.path == f"{bucket}/deep/x.index"
    assert len(there) == 0
    for index in (here, there):
        report = index.add(photos, model, batch=5)
        assert (report.added, len(report.failed)) == (12, 1)
        again = open_index(index.path).add(photos, model)
        assert (again.added, again.unchanged, again.not_retried) == (0, 12, 1)
        index.fill(index.paths()[:3], {"price": [1, 2, 3]})
    assert there.paths() == here.paths()
    assert [str(e) for e in there.errors()] == [str(e) for e in here.errors()]
    for query in ({"query": "a cat"}, {"image": CAT}, {"query": "a cat", "where": "price > 1"}):
        assert there.search(k=5, model=model, **query) == here.search(k=5, model=model, **query)
    assert len(list(Path(location_of(there.path).folder()).glob("vectors-*.f16"))) == 1
    (photos / "plain.png").rename(photos / "moved.png")
    assert there.add(photos, model).moved == 1
    assert there.remove(photos / "moved.png") == 1
    (photos / "UP.JPG").unlink()
    assert there.prune() == [str(photos / "UP.JPG")]
    assert len(open_index(there.path)) == 10
    with pytest.raises(IndexStoreError, match="only an index in a folder is repaired"):
        there.repair()
    assert there.add(photos / "100%_\\.tif", model, reindex=True).added == 1
    assert len(there) == 1
    assert there.errors() == []


def test_two_writers_at_once_lose_nothing(bucket: str, tmp_path: Path, model: Bundle) -> None:
    folders = [tmp_path / name for name in "ab"]
    for start, folder in zip((0, 100), folders, strict=True):
        for number in range(10):
            picture(folder / f"{number}.png", start + number)
    with ThreadPoolExecutor(2) as pool:
        reports = pool.map(
            lambda folder: open_index(f"{bucket}/x.index").add(folder, model, batch=1), folders
        )
        assert [report.added for report in reports] == [10, 10]
    index = open_index(f"{bucket}/x.index")
    assert index.paths() == sorted(str(path) for each in folders for path in each.iterdir())
    index._store.compact(1)
    vectors = index.rows([hit.id for hit in index.search("a", 20, model=model)], ["path", "vector"])
    wanted = model.embed_images([row["path"] for row in vectors])
    np.testing.assert_allclose([row["vector"] for row in vectors], wanted, atol=1e-6)


def test_photos_in_object_storage(
    bucket: str, server: str, photos: Path, tmp_path: Path, model: Bundle
) -> None:
    store = fs.S3FileSystem(endpoint_override=server)
    fs.copy_files(str(photos), f"{bucket[5:]}/in", destination_filesystem=store)
    store.copy_file(f"{bucket[5:]}/in/UP.JPG", f"{bucket[5:]}/in/.hidden.jpg")
    alone, index = (open_index(tmp_path / name) for name in ("alone", "x"))
    report = index.add(f"{bucket}/in/", model)
    assert (report.added, len(report.failed)) == (12, 1)
    assert str(report.failed[0]).startswith(f"{bucket}/in/broken.jpg: ")
    alone.add(photos, model)
    assert index.paths() == sorted(p.replace(str(photos), f"{bucket}/in") for p in alone.paths())
    kept = ["hash", "size", "width", "thumbnail"]
    for path in index.paths():
        other = alone.row(id_of(path.replace(f"{bucket}/in", str(photos))), [*kept, "vector"])
        row = index.row(id_of(path), [*kept, "vector"])
        np.testing.assert_allclose(row.pop("vector"), other.pop("vector"), atol=1e-6)
        assert row == other
    again = index.add([f"{bucket}/in", f"{bucket}/in/UP.JPG"], model)
    assert (again.added, again.unchanged, again.not_retried) == (0, 12, 1)
    assert index.prune() == []
    assert index.content(id_of(f"{bucket}/in/UP.JPG")) == (photos / "UP.JPG").read_bytes()
    assert index.remove(f"{bucket}/in/wafer's/") == 6
    failed = index.add([f"{bucket}/none", f"{bucket}/a.tar"], model).failed
    assert "no such photo or folder there" in str(failed[0])
    assert "copy it to a disk first" in str(failed[1])


def test_commands_take_addresses(bucket: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    run = CliRunner()
    into = f"{bucket}/x.index"
    made = run.invoke(app, ["index", str(tmp_path), "--into", into])
    assert made.output == f"{into}: 1 image (1 added, 0 unchanged)\n", made.output
    assert made.exit_code == 0
    for command in (["search", into, "a ring"], ["dedupe", into], ["explore", into]):
        found = run.invoke(app, command)
        assert found.exit_code == 0, found.output
    assert "a.png" in run.invoke(app, ["search", into, "a ring"]).output
    assert len(patchword.open_index(into)) == 1
    assert patchword.open_index(Path(into)).path == into


def test_says_what_is_wrong(bucket: str, monkeypatch: pytest.MonkeyPatch, model: Bundle) -> None:
    with pytest.raises(IndexStoreError, match="no index there; make one: patchword index"):
        open_index(f"{bucket}/none.index").search("a cat", model=model)
    for address, said in (
        ("s3://nowhere-at-all/x.index", "s3://nowhere-at-all/x.index: there is no such bucket"),
        ("s3://photos", "name a bucket and an index in it"),
        ("gs://photos/x", "an index is a folder, or an address s3://"),
    ):
        with pytest.raises(IndexStoreError, match=said):
            len(open_index(address))
    with pytest.raises(IndexStoreError, match="no such bucket"):
        open_index("s3://nowhere-at-all/x.index").add(CAT, model)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(IndexStoreError, match=r"x\.index: the store cannot be reached"):
        len(open_index(f"{bucket}/x.index"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(IndexStoreError, match="there are no credentials: set AWS_ACCESS_KEY_ID"):
        len(open_index(f"{bucket}/x.index"))
