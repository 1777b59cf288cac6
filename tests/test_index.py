"""The index: what it holds, what it finds, and what it refuses."""

import os
import shutil
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import numpy as np
import pytest
from index_photos import NAMES, picture, rows, set_modified, twelve_photos
from numpy.testing import assert_allclose
from photos import CAT
from small_models import tiny_bundle, tiny_hybrid

from patchword.bundle import Bundle
from patchword.errors import ImageError, IndexStoreError, UnsupportedError
from patchword.images.files import File
from patchword.index import AddReport, open_index
from patchword.index import matrix as matrix_room
from patchword.index import nearest as nearest_room
from patchword.index.nearest import Nearest
from patchword.index.table import Store


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return twelve_photos(tmp_path / "my photos")


@pytest.fixture(params=["in memory", "mapped"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers are wanted where the vectors are held in memory and where a file of them is
    mapped."""
    if request.param == "mapped":
        monkeypatch.setattr(matrix_room, "MAX_IN_MEMORY", 0)
        monkeypatch.setattr(matrix_room, "BLOCK", 7)
        monkeypatch.setattr(nearest_room, "BATCH", 7)


def brute_force(path: Path, query: np.ndarray, k: int) -> tuple[list[str], np.ndarray]:
    """The k best of the stored vectors: float64 products, ties by path."""
    paths, vectors = rows(path)
    scores = vectors @ query.astype(np.float64)
    order = sorted(range(len(paths)), key=lambda i: (-round(scores[i], 12), paths[i]))[:k]
    return [paths[i] for i in order], scores[order]


def test_adds_what_is_there_once(tmp_path: Path, photos: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "an index")
    steps: list[tuple[int, int]] = []
    report = index.add(photos, model, lambda done, total: steps.append((done, total)), batch=5)
    assert report == AddReport(12, 0, [])
    assert steps == [(i, 12) for i in range(1, 13)]
    assert len(index) == 12
    expected = sorted(str(path) for path in photos.rglob("*") if path.suffix not in ("", ".txt"))
    paths, vectors = rows(tmp_path / "an index")
    assert sorted(paths) == expected
    assert_allclose(vectors, model.embed_images(paths), rtol=1e-5, atol=1e-6)
    assert index.add([photos, photos / "plain.png"], model) == AddReport(0, 12, [])
    again = open_index(str(tmp_path / "an index"))
    assert (again.model_name, again.fingerprint, again.dim) == ("tiny", model.fingerprint, 24)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("kind", ["text", "image", "both"])
def test_search_is_brute_force(tmp_path: Path, photos: Path, model: Bundle, kind: str) -> None:
    index = open_index(tmp_path / "index")
    index.add(photos, model, batch=5)
    text = None if kind == "image" else "a photo of a cat"
    image = None if kind == "text" else CAT
    parts = [] if text is None else [model.embed_texts([text])[0]]
    parts += [] if image is None else [model.embed_images([image])[0]]
    query = np.sum(parts, axis=0, dtype=np.float64)
    for k in (1, 5, 12, 1000):
        paths, scores = brute_force(tmp_path / "index", query / np.linalg.norm(query), k)
        hits = index.search(text, k, image=image)
        assert [hit.path for hit in hits] == paths
        assert_allclose([hit.score for hit in hits], scores, atol=1e-12)


@pytest.mark.usefixtures("anywhere")
def test_nearest_of_random_vectors_with_ties(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((100, 33)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors[rng.integers(0, 100, 300)]  # most of them several times
    store = Store(str(tmp_path / "store"))
    store.create(33, {})
    names = [f"/{i:03d}" for i in rng.permutation(300)]
    for start in range(0, 300, 60):
        files = [File(name, 0, 0) for name in names[start : start + 60]]
        store.put(files, vectors[start : start + 60])
    query = vectors[0].astype(np.float64)
    for k in (1, 10, 99, 100, 101, 300):
        (hits,) = Nearest(store).find(query[None], k)
        paths, scores = brute_force(tmp_path / "store", query, k)
        assert [hit.path for hit in hits] == paths
        assert_allclose([hit.score for hit in hits], scores, atol=1e-12)


def test_copies_of_a_picture_come_by_path(tmp_path: Path, model: Bundle) -> None:
    folder = tmp_path / "photos"
    first = picture(folder / "m.png", 1)
    for name in "zcyaxb":
        shutil.copy(first, folder / f"{name}.png")
    index = open_index(tmp_path / "index")
    for name in "ymcxbza":
        index.add(folder / f"{name}.png", model)
    hits = index.search(image=first, k=5)
    assert [Path(hit.path).stem for hit in hits] == list("abcmx")
    assert hits[0].score == hits[4].score == pytest.approx(1, abs=1e-6)


WHERE = {
    "path LIKE '%wafer''s%'": lambda path, day: "wafer's" in path,
    "path like '%WITH space%'": lambda path, day: False,
    "path ILIKE '%WITH space%'": lambda path, day: "with space" in path,
    "NOT path LIKE '%.png'": lambda path, day: not path.endswith(".png"),
    "path LIKE '%晶圆 é%'": lambda path, day: "晶圆 é" in path,
    "modified >= date '2026-01-04'": lambda path, day: day >= 4,
    "modified > date '2026-01-04' AND modified < timestamp '2026-01-06T12:00:00'": (
        lambda path, day: 4 <= day < 6
    ),
    "modified BETWEEN date '2026-01-02' AND date '2026-01-04' OR path LIKE '%UP.JPG'": (
        lambda path, day: 2 <= day < 4 or path.endswith("UP.JPG")
    ),
    "(PATH LIKE '%deep%') AND (Modified != date '2030-01-01')": lambda path, day: "deep" in path,
    "path IN ('nowhere', 'neither')": lambda path, day: False,
    "modified IS NOT NULL": lambda path, day: True,
}


@pytest.mark.usefixtures("anywhere")
def test_where_filters_before_the_k_are_chosen(tmp_path: Path, photos: Path, model: Bundle) -> None:
    times = {}
    for i, path in enumerate(sorted(p for p in photos.rglob("*") if p.suffix not in ("", ".txt"))):
        times[str(path)] = set_modified(path, f"2026-01-{i % 6 + 1:02d}")
    index = open_index(tmp_path / "index")
    index.add(photos, model, batch=5)
    everything = index.search("a dog", 12)
    assert {hit.path: hit.modified for hit in everything} == times
    assert {hit.modified.tzinfo for hit in everything} == {UTC}
    for where, expected in WHERE.items():
        wanted = [hit for hit in everything if expected(hit.path, hit.modified.day)]
        assert index.search("a dog", 12, where=where) == wanted, where
        assert index.search("a dog", 2, where=where) == wanted[:2], where


BAD_CONDITIONS = (
    "", "path", "path LIKE", "path = 'a", 'path = "a"', "siz > 3", "vector IS NULL", "path = 3",
    "modified >= '2026-01-01'", "modified >= date 'tuesday'", "path = modified", "date NULL",
    "path LIKE '%a%'; DELETE", "path LIKE '%a%' -- more", "path = ?", "path = $1", "(path = 'a'",
    "path = 'a')", "repeat(path, 9) = 'a'", "path IN (SELECT path FROM images)", "1 = 1",
    "path = 'a'" + " OR path = 'a'" * 5000, "(" * 200 + "path" + ")" * 50,
)  # fmt: skip


def test_a_bad_condition_says_what_is_allowed(tmp_path: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "index")
    index.add(CAT, model)
    for where in BAD_CONDITIONS:
        with pytest.raises(IndexStoreError, match=r"where .*columns path .*modified"):
            index.search("a dog", where=where)
    assert len(index.search("a dog")) == 1


def test_what_has_changed_is_replaced(tmp_path: Path, photos: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "index")
    index.add(photos, model)
    path = photos / "plain.png"
    old = index.search(image=path, k=1)[0]
    assert (old.path, old.score) == (str(path), pytest.approx(1, abs=1e-6))
    picture(path, 77, (60, 50))
    assert index.add(photos, model) == AddReport(1, 11, [])
    assert len(index) == 12
    new = index.search(image=path, k=1)[0]
    assert (new.path, new.score) == (str(path), pytest.approx(1, abs=1e-6))

    bitmap = photos / "晶圆 é.bmp"  # the same size whatever it shows
    size = bitmap.stat().st_size
    picture(bitmap, 78)
    os.utime(bitmap, ns=(0, 10**18))
    assert bitmap.stat().st_size == size
    assert index.add(photos, model) == AddReport(1, 11, [])
    assert index.search(image=bitmap, k=1)[0].path == str(bitmap)
    assert len(index) == 12


def test_a_new_time_alone_is_stored_and_not_embedded(
    tmp_path: Path, photos: Path, model: Bundle
) -> None:
    index = open_index(tmp_path / "index")
    index.add(photos, model)
    before = dict(zip(*rows(tmp_path / "index"), strict=True))
    time = set_modified(photos / "plain.png", "2020-02-02")
    assert index.add(photos, model) == AddReport(0, 12, [])
    after = dict(zip(*rows(tmp_path / "index"), strict=True))
    assert before.keys() == after.keys()
    assert all((before[path] == after[path]).all() for path in before)
    (hit,) = index.search("a dog", where="modified < date '2021-01-01'")
    assert (hit.path, hit.modified) == (str(photos / "plain.png"), time)


def test_links_are_followed_and_nothing_comes_twice(
    tmp_path: Path, photos: Path, model: Bundle
) -> None:
    (photos / "again.png").symlink_to(photos / "plain.png")
    (photos / "wafer's" / "up").symlink_to(photos)  # a circle
    outside = picture(tmp_path / "elsewhere" / "far.png", 9)
    (photos / "linked").symlink_to(outside.parent)
    (tmp_path / "door").symlink_to(photos)
    index = open_index(tmp_path / "index")
    assert index.add(tmp_path / "door", model) == AddReport(13, 0, [])
    paths = {hit.path for hit in index.search("a dog", 99)}
    assert str(outside) in paths
    assert str(photos / "plain.png") in paths
    assert index.remove(tmp_path / "door" / "again.png") == 1
    assert len(index) == 12


def test_relative_paths_are_stored_absolute(
    tmp_path: Path, photos: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    index = open_index("../index")
    index.add(["plain.png", "wafer's/../plain.png"], model)
    monkeypatch.chdir("/")
    assert [hit.path for hit in index.search("a dog")] == [str(photos / "plain.png")]


def test_remove_and_prune(tmp_path: Path, photos: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "index")
    index.add(photos, model)
    assert index.remove([photos / NAMES[2], photos / "never there.png"]) == 1
    assert index.remove(photos / "wafer") == 0  # no folder: only how the names of others begin
    assert index.prune() == []
    (photos / NAMES[0]).unlink()
    shutil.rmtree(photos / "wafer's" / "deep")
    gone = [photos / NAMES[0], *(photos / "wafer's" / "deep" / name for name in NAMES)]
    assert len(index) == 11
    assert index.prune() == sorted(map(str, gone))
    assert len(index) == 4
    assert index.remove(photos) == 4
    assert len(index) == 0
    assert index.search("a dog") == []
    assert index.search("a dog", where="path LIKE '%'") == []
    assert index.add(photos, model).added == 5


def test_an_index_of_nothing(tmp_path: Path, model: Bundle) -> None:
    (tmp_path / "photos").mkdir()
    index = open_index(tmp_path / "index")
    assert len(index) == 0
    assert index
    assert index.add(tmp_path / "photos", model) == AddReport(0, 0, [])
    missing = index.add(tmp_path / "lost.jpg", model)
    assert [error.reason for error in missing.failed] == ["no such file"]
    assert not (tmp_path / "index").exists()  # nothing is made of nothing
    photo = picture(tmp_path / "photos" / "a.png", 0)
    index.add(photo, model)
    index.remove(photo)
    assert index.search("a dog") == []
    assert index.prune() == []
    with pytest.raises(IndexStoreError, match=r"where .*columns"):
        index.search("a dog", where="nonsense")


@pytest.mark.parametrize("action", [
    lambda index: index.search("a dog"), lambda index: index.prune(),
    lambda index: index.remove("x"), lambda index: index.model_name,
])  # fmt: skip
def test_no_index_there(tmp_path: Path, action) -> None:
    with pytest.raises(IndexStoreError, match=r"nowhere: no index there; make one: patchword"):
        action(open_index(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_vectors_of_another_model_are_refused(tmp_path: Path, photos: Path, model: Bundle) -> None:
    other = replace(tiny_bundle(tiny_hybrid()), name="another")
    open_index(tmp_path / "index").add(photos, model)
    index = open_index(tmp_path / "index")
    both = rf"tiny \({model.fingerprint}\).* another \({other.fingerprint}\)"
    with pytest.raises(IndexStoreError, match=both):
        index.add(photos, other)
    with pytest.raises(IndexStoreError, match=both):
        index.search("a dog", model=other)
    with pytest.raises(IndexStoreError, match=both):
        open_index(tmp_path / "index", load=lambda name: other).search("a dog")
    with pytest.raises(IndexStoreError, match=r"made by tiny; pass model=load\('tiny'\)"):
        index.search("a dog")
    assert len(index.search("a dog", model=model)) == 10


def test_the_model_is_opened_by_its_name_once(tmp_path: Path, photos: Path, model: Bundle) -> None:
    open_index(tmp_path / "index").add(photos, model)
    opened: list[str] = []

    def load(name: str) -> Bundle:
        opened.append(f"whole {name}")
        return model

    def load_for_texts(name: str) -> Bundle:
        opened.append(f"texts of {name}")
        return model

    index = open_index(tmp_path / "index", load)
    assert index.search("a dog") == index.search("a dog", model=model) == index.search("a dog")
    assert opened == ["whole tiny"]
    index = open_index(tmp_path / "index", load, load_for_texts)
    assert index.search("a dog") == index.search_many(["a dog"])[0]
    photo = index.paths()[0]
    assert index.search("a dog", image=photo) == index.search("a dog", image=photo)
    assert opened[1:] == ["texts of tiny", "whole tiny"]


def test_queries_that_are_refused(tmp_path: Path, photos: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "index")
    index.add(photos, model)
    with pytest.raises(IndexStoreError, match="give a text, a vector, an image, or both"):
        index.search()
    with pytest.raises(UnsupportedError, match="k is 0"):
        index.search("a dog", 0)
    with pytest.raises(ImageError, match=r"missing\.png: no such file"):
        index.search("a dog", image="missing.png")
