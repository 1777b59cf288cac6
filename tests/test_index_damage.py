"""The index is whole after whatever happens to it: bad files, kills, neighbours."""

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier, Timer

import lancedb
import numpy as np
import pytest
import torch
from forked_processes import start
from index_photos import NAMES, picture, rows, twelve_photos
from photos import CAT
from small_models import tiny_bundle, tiny_clip

import patchword
from patchword.bundle import Bundle
from patchword.errors import IndexStoreError, UnsupportedError
from patchword.images.files import File
from patchword.index import AddReport, Index, open_index
from patchword.index import lance as lance_room
from patchword.index.table import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return twelve_photos(tmp_path / "my photos")


def test_a_file_that_changes_while_it_is_embedded_is_embedded_again(
    tmp_path: Path, photos: Path, model: Bundle
) -> None:
    path = photos / "晶圆 é.bmp"

    def overwrite(done: int, total: int) -> None:
        picture(path, 79)

    index = open_index(tmp_path / "index")
    index.add(path, model, overwrite)
    os.utime(path, ns=(0, 10**18))
    assert index.add(path, model) == AddReport(1, 0, [])
    assert index.search(image=path)[0].score == pytest.approx(1, abs=1e-6)


def test_unreadable_files_are_named_and_the_rest_is_indexed(
    tmp_path: Path, photos: Path, model: Bundle
) -> None:
    photo_bytes = CAT.read_bytes()
    (photos / "cut.jpg").write_bytes(photo_bytes[: len(photo_bytes) // 2])
    (photos / "empty.png").touch()
    (photos / "text.jpg").write_text("hello")
    (photos / "broken link.jpg").symlink_to(photos / "nothing.jpg")
    (photos / "circle.jpg").symlink_to(photos / "circle.jpg")
    os.mkfifo(photos / "pipe.png")
    (photos / "video.mpg").write_bytes(b"\x00\x00\x01\xb3" + bytes(99))
    with open(os.fsencode(photos) + b"/bad\xff.png", "wb") as file:
        file.write(photo_bytes)
    shutil.copy(CAT, photos / "photo.dat")
    named = [photos / "photo.dat", photos / "notes.txt", photos / "missing.png"]
    index = open_index(tmp_path / "index")
    for unchanged in (0, 13):
        report = index.add([photos, *named], model, batch=4)
        assert (report.added, report.unchanged) == (13 - unchanged, unchanged)
        reasons = {Path(error.image).name: error.reason for error in report.failed}
        assert len(reasons) == len(report.failed)
        assert reasons.pop("cut.jpg").startswith("truncated")
        assert reasons.pop("empty.png") == "empty: 0 bytes"
        assert reasons.pop("text.jpg").startswith("not an image")
        assert reasons.pop("notes.txt").startswith("not an image")
        missing = f"a link to {photos / 'nothing.jpg'}, which is missing"
        assert reasons.pop("broken link.jpg") == missing
        assert reasons.pop("circle.jpg").startswith("cannot be opened: ")
        assert reasons.pop("missing.png") == "no such file"
        assert reasons.pop("pipe.png") == "not a regular file"
        assert reasons.pop("bad\\udcff.png") == "its name is not valid Unicode; rename it"
        assert reasons == {}
        assert len(index) == 13


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, photos: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refusing(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = open_index(tmp_path / "index").add(photos, model)
    assert report.added == 6
    assert str(report.failed[0]) == f"{photos}/wafer's/deep: cannot be listed: Permission denied"


def test_a_file_that_went_bad_is_dropped(tmp_path: Path, photos: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "index")
    index.add(photos, model)
    bad = photos / NAMES[2]
    bad.write_text("no picture any more")
    report = index.add(photos, model)
    assert (report.added, report.unchanged, len(report.failed)) == (0, 11, 1)
    assert str(bad) not in [hit.path for hit in index.search("a dog", 99)]
    picture(bad, 5)
    assert index.add(photos, model) == AddReport(1, 11, [])


def test_images_whose_vectors_are_nan_are_reported(tmp_path: Path, photos: Path) -> None:
    broken = tiny_bundle(tiny_clip())
    with torch.no_grad():
        for parameter in broken.network.parameters():
            parameter.fill_(float("nan"))
    report = open_index(tmp_path / "index").add(photos, broken)
    assert report.added == 0
    assert len(report.failed) == 12
    (reason,) = {error.reason for error in report.failed}
    assert reason.startswith("tiny makes no finite vector of it: its weights are NaN or infinite")


def test_a_folder_with_other_files_is_refused(tmp_path: Path, photos: Path, model: Bundle) -> None:
    before = sorted(photos.rglob("*"))
    with pytest.raises(IndexStoreError, match="holds other files"):
        open_index(photos).add(photos, model)
    with pytest.raises(IndexStoreError, match="no index there"):
        open_index(photos).search("a dog")
    assert sorted(photos.rglob("*")) == before
    with pytest.raises(IndexStoreError, match="cannot be made"):
        open_index(photos / "plain.png").add(photos, model)
    lancedb.connect(tmp_path / "other").create_table("images", [{"path": "a", "vector": [0.0]}])
    for action in (Index.prune, len, lambda index: index.add(photos, model)):
        with pytest.raises(IndexStoreError, match="made by something else than patchword"):
            action(open_index(tmp_path / "other"))


@pytest.mark.parametrize("part", ["data", "_versions"])
def test_a_damaged_index_says_so(tmp_path: Path, photos: Path, model: Bundle, part: str) -> None:
    open_index(tmp_path / "index").add(photos, model)
    for file in (tmp_path / "index" / "images.lance" / part).iterdir():
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(IndexStoreError, match=r"index: the index cannot be read .* index again"):
        open_index(tmp_path / "index").search("a dog", model=model)


def test_an_unfinished_table_is_created_again(tmp_path: Path, photos: Path, model: Bundle) -> None:
    (tmp_path / "index" / "images.lance" / "data").mkdir(parents=True)
    index = open_index(tmp_path / "index")
    assert len(index) == 0
    assert index.add(photos, model).added == 12


def test_an_index_deleted_under_its_user(tmp_path: Path, photos: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "index")
    index.add(photos, model)
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(IndexStoreError, match="no index there"):
        index.search("a dog")
    assert index.add(photos, model).added == 12
    assert len(index.search("a dog")) == 10


def test_a_table_closed_by_another_thread_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "index"))
    store.create(4, {})
    version_note = store.version_note

    def forget() -> object:
        store.close()  # as a thread does that finds another table in its place
        return version_note()

    monkeypatch.setattr(store, "version_note", forget)
    assert store.count() == 0


def test_searches_see_what_others_commit(
    tmp_path: Path, photos: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches in four threads while another user of the folder adds, and merges its files."""
    monkeypatch.setattr(lance_room, "MAX_FRAGMENTS", 1)
    index = open_index(tmp_path / "index", lambda name: model)
    open_index(tmp_path / "index").add(photos / "plain.png", model)
    assert len(index.search("a dog", 99)) == 1
    with ThreadPoolExecutor(5) as pool:
        adding = pool.submit(open_index(tmp_path / "index").add, photos, model, batch=1)
        searches = []
        while not adding.done():
            where = (None, "path LIKE '%wafer''s%'")
            searches += pool.map(lambda w: index.search("a dog", 99, where=w), where * 2)
    assert adding.result() == AddReport(11, 1, [])
    for hits in searches:
        assert len({hit.path for hit in hits}) == len(hits) <= 12
    for hits in searches[1::2]:
        assert all("wafer's" in hit.path for hit in hits)
    assert len(index.search("a dog", 99)) == 12
    # Files of the last version may still lie beside, if it was not a millisecond old.
    table = lancedb.connect(tmp_path / "index").open_table("images")
    assert table.stats()["fragment_stats"]["num_fragments"] == 1


def test_two_processes_that_create_an_index_share_one_table(tmp_path: Path) -> None:
    """Also where the other has added columns by then."""
    first, second = (Store(str(tmp_path / "store")) for _ in range(2))
    assert not second.exists()
    first.create(8, {"model": "a"})
    first.do(lambda table: table.add_columns({"price": "1.5"}))
    second.create(8, {"model": "b"})
    assert second.required_metadata()["model"] == "a"


def test_two_writers_of_one_file_store_one_row(tmp_path: Path) -> None:
    stores = [Store(str(tmp_path / "store")) for _ in range(2)]
    stores[0].create(8, {})
    together = Barrier(2, timeout=60)  # where one of them fails, the other ends too

    def put(store: Store) -> None:
        for i in range(8):
            together.wait()
            files = [File(f"/{i}/{j}", 0, 0) for j in range(16)]
            store.put(files, np.zeros((16, 8), np.float32))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(put, stores))
    paths, _ = rows(tmp_path / "store")
    assert len(paths) == len(set(paths)) == 128


def add_and_die(folder: Path, photos: Path, kill_at: int, delay: float) -> None:
    """Add photos to an index, and die some seconds after so many of them."""

    def progress(done: int, total: int) -> None:
        if done == kill_at:
            Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    open_index(folder).add(photos, tiny_bundle(tiny_clip()), progress, batch=8)


def test_killed_and_continued(tmp_path: Path, model: Bundle) -> None:
    """Killed within a batch, and about the commit of one: whole batches are there, a rerun adds
    the rest."""
    photos = tmp_path / "photos"
    for i in range(60):
        picture(photos / f"{i:02d}.png", i)
    undisturbed = open_index(tmp_path / "whole")
    undisturbed.add(photos, model)
    expected = undisturbed.search("a wafer", 60)

    deaths = {"within": (21, 0.0), "commit": (24, 0.004), "later": (16, 0.02)}
    children = [
        start(tmp_path / f"said {name}", partial(add_and_die, tmp_path / name, photos, *death))
        for name, death in deaths.items()
    ]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [-signal.SIGKILL] * 3
    for name, (count, _) in deaths.items():
        index = open_index(tmp_path / name)
        stored = len(index)
        assert stored % 8 == 0
        assert count - 8 <= stored < 60
        assert index.add(photos, model) == AddReport(60 - stored, stored, [])
        hits = index.search("a wafer", 99)
        assert len(hits) == 60
        scores = {hit.path: hit.score for hit in hits}
        assert scores == pytest.approx({hit.path: hit.score for hit in expected}, abs=1e-5)


def search_results(folder: Path, model: Bundle) -> tuple[object, ...]:
    """All that a search of an index depends on."""
    index = open_index(folder)
    query = model.embed_texts("a dog")[0]
    hits = index.search(query, 50, model=model)
    return len(index), hits, index.search(query, 50, model=model, where="path LIKE '%p%'")


def test_a_flipped_bit_anywhere_never_gives_another_answer(
    tmp_path: Path, photos: Path, model: Bundle
) -> None:
    index = open_index(tmp_path / "index")
    index.add(photos, model, batch=4)
    index.remove(sorted(photos.glob("*.png"))[0])
    expected = search_results(tmp_path / "index", model)
    draw = np.random.default_rng(0)
    caught = 0
    for file in sorted(path for path in (tmp_path / "index").rglob("*") if path.is_file()):
        content = file.read_bytes()
        for _ in range(4):
            broken = bytearray(content)
            broken[draw.integers(len(content))] ^= 1 << int(draw.integers(8))
            file.write_bytes(broken)
            try:
                assert search_results(tmp_path / "index", model) == expected
            except IndexStoreError:
                caught += 1
            file.write_bytes(content)
    assert caught > 10
    assert search_results(tmp_path / "index", model) == expected


def test_a_deleted_version_file_is_an_error(tmp_path: Path, photos: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "index")
    index.add(photos, model, batch=4)
    index.remove(sorted(photos.glob("*.png"))[0])
    newest = min((tmp_path / "index").rglob("*.manifest"), key=lambda path: path.name)
    newest.unlink()  # Lance numbers them downwards
    with pytest.raises(IndexStoreError, match=r"its newest version, .* is gone"):
        open_index(tmp_path / "index").search("a dog", model=model)


def test_an_index_remembers_how_its_model_was_loaded(tmp_path: Path, photos: Path) -> None:
    for options in ({"dtype": torch.bfloat16}, {"image_size": 64}, {"image_size": (64, 96)}):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        model = patchword.load("demo", **options)
        patchword.open_index(folder).add(photos, model)
        again = patchword.open_index(folder)
        assert again.search("a dog", 3) == again.search("a dog", 3, model=model)
        with pytest.raises(IndexStoreError, match="cannot be compared"):
            again.search("a dog", model=patchword.load("demo"))


def test_vectors_are_queries_and_other_values_are_refused(
    tmp_path: Path, photos: Path, model: Bundle
) -> None:
    index = open_index(tmp_path / "index")
    index.add(photos, model)
    vector = model.embed_texts("a dog")[0]
    expected = index.search("a dog", 3)
    for query in (vector, 5 * vector, vector.astype(np.float64)):
        assert [hit.path for hit in index.search(query, 3)] == [hit.path for hit in expected]
    for wrong in (vector[:-1], np.full_like(vector, np.nan), np.array(["a"]), ["a"], None):
        with pytest.raises(IndexStoreError, match=r"a query is a text, or|nothing to search"):
            index.search(wrong)
    for k in (0, "3", 2.0):
        with pytest.raises(UnsupportedError, match="k is"):
            index.search("a dog", k)
    with pytest.raises(UnsupportedError, match="search has no option wher"):
        index.search("a dog", wher="x")
