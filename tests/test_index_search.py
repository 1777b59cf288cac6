"""Searches with weights, pages and many queries; near-duplicates, clusters, tags; the commands."""

import csv
import inspect
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Run
from index_photos import rows, twelve_photos, unit
from numpy.testing import assert_allclose
from photos import CAT, COFFEE
from PIL import Image, ImageOps

import patchword
from patchword.bundle import Bundle
from patchword.cli.explore_tag import numbered
from patchword.errors import ConfigError, IndexStoreError, SampledWarning, UnsupportedError
from patchword.images.files import File
from patchword.images.reading import Seen, thumbnail
from patchword.index import Index, duplicates, open_index, thumbnail_copies
from patchword.index.cluster_names import name, phrases
from patchword.index.duplicates import near_pairs
from patchword.index.explore import MIN_SHARE
from patchword.index.query import WITHOUT
from patchword.index.schema import id_of
from patchword.tasks.classify import scorer

QUERIES = ("a heart", "a star", "a wafer")
SAMPLES = Path(patchword.__file__).parent / "assets" / "samples"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, model: Bundle) -> Index:
    folder = tmp_path_factory.mktemp("search")
    index = open_index(folder / "index")
    index.add(twelve_photos(folder / "photos"), model)
    return index


def brute_force(index: Index, query: np.ndarray) -> tuple[list[str], np.ndarray]:
    paths, vectors = rows(Path(index.path))
    scores = vectors @ unit(query)
    order = np.argsort(-scores)
    return [paths[i] for i in order], scores[order]


def test_texts_without_words_are_refused(index: Index, model: Bundle) -> None:
    with pytest.raises(IndexStoreError, match="no words: ' '"):
        index.search(" ", model=model)
    with pytest.raises(IndexStoreError, match="no words: ''"):
        index.search("a cat", without=["a dog", ""], model=model)
    with pytest.raises(IndexStoreError, match="no words"):
        index.search_many(["a cat", "\n"], model=model)


def test_a_query_is_the_weighed_sum_of_its_parts(index: Index, model: Bundle) -> None:
    photo = index.paths()[3]
    words, *others = model.embed_texts(["a cat", "a dog", "a wafer"]).astype(np.float64)
    image = model.embed_images([photo])[0].astype(np.float64)
    negative = unit(np.mean(others, axis=0))
    cases = {
        (1.0, 1.0, 1.0): words + image - negative,
        (0.3, 2.0, 0.0): 0.3 * words + 2 * image,
        (0.0, 0.5, 0.25): 0.5 * image - 0.25 * negative,
    }
    for (text, photo_weight, without), query in cases.items():
        hits = index.search(
            "a cat", 12, image=photo, without=["a dog", "a wafer"], text_weight=text,
            image_weight=photo_weight, without_weight=without,
        )  # fmt: skip
        paths, scores = brute_force(index, query)
        assert [hit.path for hit in hits] == paths
        assert_allclose([hit.score for hit in hits], scores, atol=1e-9)
        assert [hit.id for hit in hits] == [id_of(path) for path in paths]
    only = index.search("a cat", 3, without="a dog")
    assert [hit.path for hit in only] == brute_force(index, words - WITHOUT * others[0])[0][:3]
    for weight in (WITHOUT, 1.0):
        with pytest.raises(IndexStoreError, match="parts of the query cancel each other"):
            index.search("a dog", without="a dog", without_weight=weight)
    with pytest.raises(IndexStoreError, match="nothing to search for"):
        index.search(without="a dog")
    with pytest.raises(UnsupportedError, match="text_weight is nan"):
        index.search("a cat", text_weight=float("nan"))


def test_pages_and_many_queries(index: Index, model: Bundle) -> None:
    every = index.search("a cat", 99)
    assert len(every) == 12
    pages = [index.search("a cat", 5, offset=start) for start in (0, 5, 10, 15)]
    assert [hit for page in pages for hit in page] == every
    texts = ["a cat", "a dog", "a wafer"]
    many = index.search_many(texts, 4, offset=1)
    for found in (many, index.search_many(model.embed_texts(texts), 4, offset=1)):
        for text, hits in zip(texts, found, strict=True):
            alone = index.search(text, 4, offset=1)  # embedded by itself: other rounding
            assert [hit.path for hit in hits] == [hit.path for hit in alone]
            assert_allclose([h.score for h in hits], [h.score for h in alone], atol=1e-6)
    assert index.search_many([]) == []
    with pytest.raises(IndexStoreError, match="vector of 24 finite numbers"):
        index.search_many(np.ones((2, 3)))
    with pytest.raises(UnsupportedError, match="offset is -1"):
        index.search("a cat", offset=-1)
    assert index.explain().way == "exact"
    assert not index.approximate_due()


def vectors_with_duplicates(draw: np.random.Generator, count: int, dim: int = 32) -> np.ndarray:
    """Unit vectors (N, D), a fifth of them near-duplicates of another, cosines 0.9 to 1."""
    centres = draw.standard_normal((20, dim))
    vectors = unit(centres[draw.integers(0, 20, count)] + draw.standard_normal((count, dim)))
    copies = draw.choice(count, count // 5, replace=False)
    noise = unit(draw.standard_normal((len(copies), dim))) * draw.uniform(0, 0.45, (len(copies), 1))
    vectors[copies] = unit(vectors[draw.integers(0, count, len(copies))] + noise)
    return vectors.astype(np.float32)


def test_pairs_are_all_that_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    half = vectors_with_duplicates(np.random.default_rng(1), 3000).astype(np.float16)
    products = np.triu(half.astype(np.float32) @ half.astype(np.float32).T, 1)
    expected = set(map(tuple, np.argwhere(products >= 0.96).tolist()))
    assert len(expected) > 300
    steps: list[int] = []
    monkeypatch.setattr(duplicates, "BLOCK", 64)
    pairs = set(map(tuple, near_pairs(half, 0.96, lambda pairs: pairs, steps.append).tolist()))
    assert steps[-1] == 3000
    assert pairs <= expected
    assert len(pairs) >= 0.995 * len(expected)
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 100)
    with pytest.raises(IndexStoreError, match="give a higher threshold"):
        near_pairs(half, 0.96, lambda pairs: pairs, steps.append)


def test_groups_are_near_the_one_that_is_kept(tmp_path: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "index")
    angles = np.radians([0, 10, 20, 30, 90, 91])  # cosine of 10 degrees 0.985, of 20 0.940
    vectors = np.zeros((6, model.dim), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    index._create(model)
    sizes = {"a": 5, "b": 9, "c": 1, "d": 2, "e": 3, "f": 3}
    files = [File(f"/{name}", size, size * 10**6) for name, size in sizes.items()]
    index._store.put(files, vectors)

    def groups(**options: object) -> list[tuple[str, list[str]]]:
        found = index.duplicates(0.97, **options)  # type: ignore[arg-type]
        return [(g.keep.path, sorted(other.path for other in g.others)) for g in found]

    # b is near to a and c; d only to c, which is gone with b
    assert groups() == [("/b", ["/a", "/c"]), ("/e", ["/f"])]
    assert groups(keep="first") == [("/a", ["/b"]), ("/c", ["/d"]), ("/e", ["/f"])]
    assert groups(keep="oldest") == [("/c", ["/b", "/d"]), ("/e", ["/f"])]
    assert groups(where="path != '/e'") == [("/b", ["/a", "/c"])]
    assert index.duplicates(1.0) == []
    (first, _) = index.duplicates(0.97)
    assert_allclose([other.score for other in first.others], np.cos(np.radians(10)), atol=1e-6)
    with pytest.raises(UnsupportedError, match=r"keep is 'larges' .do you mean largest"):
        index.duplicates(keep="larges")
    with pytest.raises(UnsupportedError, match=r"threshold is 1\.5"):
        index.duplicates(1.5)


def test_groups_are_those_of_all_pairs(
    tmp_path: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are judged at once, and where all are alike; with an end, what is found until
    then and a warning."""
    count = 300
    vectors = vectors_with_duplicates(np.random.default_rng(2), count, model.dim)
    vectors[200:] = vectors[0]
    index = open_index(tmp_path / "index")
    index._create(model)
    paths = [f"/{number:03d}" for number in range(count)]
    index._store.put([File(path, 5, n) for n, path in enumerate(paths)], vectors)
    products = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    expected: dict[str, set[str]] = {}
    free = np.ones(count, bool)
    for first in range(count):  # in the order of paths
        others = np.flatnonzero(free & (products[first] >= 0.9))
        others = others[others > first]
        if free[first] and len(others):
            free[others] = False
            expected[paths[first]] = {paths[other] for other in others}
    assert len(expected) > 20

    def groups() -> dict[str, set[str]]:
        found = index.duplicates(0.9, keep="first")
        return {each.keep.path: {other.path for other in each.others} for each in found}

    assert groups() == expected
    monkeypatch.setattr(duplicates, "PAIR_BATCH", 7)
    assert groups() == expected
    with monkeypatch.context() as patched:
        patched.setattr(duplicates, "MAX_ALL_PAIRS", 0)
        assert groups() == expected
    with pytest.warns(SampledWarning, match="of 300 images were compared with all others in 0 sec"):
        partial = index.duplicates(0.9, keep="first", seconds=1e-9)
    assert {each.keep.path for each in partial} < set(expected)
    with pytest.raises(ConfigError, match="seconds is 0"):
        index.duplicates(seconds=0)


def test_copies_are_of_one_photo_whatever_the_model(
    tmp_path: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals = [CAT, COFFEE, *sorted((SAMPLES / "wafers").glob("perfect*.jpg"))]
    pictures: dict[str, Image.Image] = {}
    for number, path in enumerate(originals):
        photo = Image.open(path).convert("RGB").resize((400, 300))
        saved = io.BytesIO()
        photo.save(saved, "JPEG", quality=15)
        cut = photo.crop((12, 3, 392, 290))
        small = photo.resize((90, 70), Image.Resampling.BICUBIC)
        versions = (photo, small, Image.open(saved), cut, ImageOps.mirror(photo))
        pictures |= {f"/{number:02d}-{n}": each for n, each in enumerate(versions)}
    dim = [pictures[f"/{n:02d}-0"].point(lambda value: value * 0.08 + 20) for n in (0, 1)]
    pictures |= {"/dim-0": dim[0], "/dim-1": dim[1]}
    red, green, blue = pictures["/00-0"].split()
    pictures |= {
        "/blue": Image.merge("RGB", (blue, green, red)),
        "/red": Image.new("RGB", (9, 9), "red"),
    }
    index = open_index(tmp_path / "index")
    index._create(model)
    files = [File(path, 5, n) for n, path in enumerate(pictures)] + [File("/gone", 5, 99)]
    vectors = np.zeros((len(files), model.dim), np.float32)
    vectors[:, 0] = 1  # for the model all are one
    seen = {path: Seen(*each.size[::-1], thumbnail(each)) for path, each in pictures.items()}
    index._store.put(files, vectors, seen)
    with pytest.warns(UserWarning, match=r"no thumbnail .* cannot be opened: /gone;"):
        found = index.duplicates(keep="first")
    assert [(each.keep.path, sorted(other.path for other in each.others)) for each in found] == [
        (f"/{n:02d}-0", [f"/{n:02d}-{version}" for version in (1, 2, 3)])
        for n in range(len(originals))
    ]
    assert len(index.duplicates(0.99)) == 1

    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(thumbnail_copies, "ROUGH_BATCH", 7)  # pairs: several batches
    monkeypatch.setattr(thumbnail_copies, "BATCH", 9)
    with pytest.warns(UserWarning, match="/gone"):
        again = index.duplicates(keep="first", progress=lambda *step: steps.append(step))
    assert again == found
    assert steps == sorted(steps)
    assert steps[-1] == (len(files), len(files))
    assert len(steps) > 10

    def late(done: int, total: int) -> None:
        raise KeyError("late")

    for threshold in (None, 0.99):
        with pytest.raises(KeyError, match="late"):
            index.duplicates(threshold, progress=late)


def test_clusters_and_their_names(tmp_path: Path, model: Bundle) -> None:
    words = ["cat", "dog", "wafer"]
    towards = model.embed_texts([f"a photo of a {word}" for word in words])
    draw = np.random.default_rng(0)
    sizes = (50, 30, 20)
    mean = towards.mean(axis=0)
    vectors = unit(
        np.concatenate(
            [
                unit(mean) + 2 * unit(each - mean) + 0.1 * draw.standard_normal((size, model.dim))
                for each, size in zip(towards, sizes, strict=True)
            ]
        )
    ).astype(np.float32)
    index = open_index(tmp_path / "index")
    index._create(model)
    index._store.put([File(f"/{i:03d}", i, i) for i in range(100)], vectors)
    clusters = index.explore(3, words=words, examples=4, model=model)
    assert [(each.name, each.count) for each in clusters] == list(zip(words, sizes, strict=True))
    for each, start, size in zip(clusters, (0, 50, 80), sizes, strict=True):
        assert len(each.examples) == 4
        assert {int(hit.path[1:]) for hit in each.examples} <= set(range(start, start + size))
    (mixed,) = index.explore(1, words=words, where="size >= 50", model=model)  # dogs and wafers
    assert re.fullmatch(r"unnamed, like \d{3}", mixed.name)
    some = index.explore(words=["cat"], where="size < 50", model=model)
    assert sum(each.count for each in some) == 50
    assert len({each.name for each in some}) == len(some)
    assert index.explore(where="size < 0", model=model) == []
    assert len(index.explore(1000, model=model)) <= 100
    with pytest.raises(UnsupportedError, match="give one or more"):
        index.explore(words=[], model=model)


def test_samples_are_named_by_what_most_of_them_show() -> None:
    """By their captions; of mixed ones only by what they have in common, or by nothing."""
    demo = patchword.load("demo")
    assert demo.scope is not None
    sentences = phrases(demo.scope)
    with open(SAMPLES / "captions.csv", encoding="utf-8") as file:
        captions = {row["file_name"]: row["caption"] for row in csv.DictReader(file)}
    vectors = demo.embed_images([SAMPLES / each for each in captions])
    cosines = vectors @ demo.embed_texts([each.sentence for each in sentences]).T

    def called(*words: str) -> str:
        """The name of the samples whose captions have one of the words."""
        rows = [any(word in each for word in words) for each in captions.values()]
        return name(cosines[np.array(rows)], sentences, MIN_SHARE)

    for word in ("a scratch", "a stain", "particles", "an edge chip"):
        assert called(word.removeprefix("a ").removeprefix("an ")) == f"wafer with {word}"
    assert called("clean") == "clean wafer"
    assert called("wafer") == "wafer"
    assert called("heart", "square", "cross", "purple star") == "shape"
    assert called("yellow triangle") == "yellow triangle"
    assert called("clean", "purple star", "red ring", "green heart") == ""


def test_tags_are_stored_and_searched(tmp_path: Path, model: Bundle) -> None:
    index = open_index(tmp_path / "index")
    index.add(twelve_photos(tmp_path / "photos"), model)
    score = scorer(model, ["a cat", "a dog"], multi_label=True)
    paths, vectors = rows(Path(index.path))
    expected = {
        path: [each.label for each in score(vector) if each.probability >= 0.5]
        for path, vector in zip(paths, vectors.astype(np.float32), strict=True)
    }

    def choose(vector: np.ndarray) -> list[str]:
        return [each.label for each in score(vector) if each.probability >= 0.5]

    steps: list[tuple[int, int]] = []
    chosen = index.tag(choose, store=False, progress=lambda *step: steps.append(step))
    assert chosen == expected
    assert steps == [(12, 12)]
    assert {row["tags"] is None for row in index.rows(map(id_of, paths), ["tags"])} == {True}
    index.tag(lambda vector: ["all", *choose(vector)], where="path LIKE '%plain%'")
    hits = index.search("a cat", 12, where="array_has(tags, 'all')", model=model)
    assert {hit.path for hit in hits} == {path for path in paths if "plain" in path}
    assert len(index) == 12


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of six pictures, and a second, smaller copy of one of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in [
        *sorted((SAMPLES / "wafers").glob("stain*"))[:3],
        *sorted((SAMPLES / "shapes").glob("*.jpg"))[:3],
    ]:
        shutil.copy(path, folder)
    shutil.copy(SAMPLES / "wafers" / "stain-1.jpg", folder / "copy.jpg")
    return folder


def test_a_large_index_is_made_fast_when_it_is_built(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    monkeypatch.setattr(Index, "approximate_due", lambda index: len(index) > 6)
    monkeypatch.setattr(Index, "build_approximate", lambda index, model: built.append(model.name))
    assert "approximate" not in run("index", next(photos.iterdir()), "--into", "i").err
    assert built == []
    assert "making searches of 7 images approximate" in run("index", "photos", "--into", "i").err
    assert built == ["demo"]


def test_many_queries_are_embedded_together(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("queries.txt").write_text("a heart\na star\na wafer\n")
    run("index", "photos", "--into", "i")
    single = [run("search", "i", query, "-k", 3, "--json").records for query in QUERIES]
    embedded: list[int] = []
    embed = Bundle.embed_texts

    def counting(model: Bundle, texts: object, *given: object, **options: object) -> np.ndarray:
        embedded.append(len(texts))
        return embed(model, texts, *given, **options)

    monkeypatch.setattr(Bundle, "embed_texts", counting)
    many = run("search", "i", "@queries.txt", "-k", 3, "--json").records
    assert embedded == [3]
    for alone, together in zip([each for found in single for each in found], many, strict=True):
        assert together["image"] == alone["image"]
        assert together["cosine"] == pytest.approx(alone["cosine"], abs=1e-6)


def test_the_command_and_the_method_have_the_same_default_weight() -> None:
    from patchword.cli.search import search

    defaults = (inspect.signature(each).parameters for each in (search, Index.search))
    assert [each["without_weight"].default for each in defaults] == [WITHOUT, WITHOUT]


def test_commands(run: Run, photos: Path) -> None:
    assert run("index", "photos", "--into", "i").code == 0
    Path("queries.txt").write_text("a wafer with a stain\na heart\n")
    both = run("search", "i", "@queries.txt", "-k", 2, "--json")
    assert [(each["query"], each["rank"]) for each in both.records] == [
        (query, rank) for query in ("a wafer with a stain", "a heart") for rank in (1, 2)
    ]
    single = run("search", "i", "a heart", "-k", 2, "--json").records
    assert [each["image"] for each in single] == [each["image"] for each in both.records[2:]]
    later = run("search", "i", "a heart", "-k", 1, "--offset", 1, "--json", "--explain")
    assert later.records == single[1:]
    assert "exact search of 7 images" in later.err
    without_stain = run("search", "i", "a wafer", "--without", "a stain", "-k", 7, "--json").records
    assert without_stain != run("search", "i", "a wafer", "-k", 7, "--json").records
    saved = run("search", "i", "@queries.txt", "--heatmap", "--save", "hits.html", "-k", 2)
    assert saved.code == 0
    page = Path("hits.html").read_text()
    assert page.count("data:image/jpeg") == 4
    assert "model demo" in page
    assert run("search", "i", "a heart", "--heatmap").code == 2
    none = run("search", "i", "a heart", "--where", "width > 9999", "--heatmap", "--save", "0.html")
    assert (none.code, none.out) == (0, "")
    assert "nothing found" in none.err
    assert "0.html: not written, because nothing was found" in none.err
    for blank in ([" "], ["-t", "", "--image", "photos/copy.jpg"]):
        assert "the words to look for are empty" in run("search", "i", *blank).err

    groups = run("dedupe", "i", "--threshold", 0.999, "--json", "--save", "d.html")
    assert [(each["keep"], Path(each["image"]).name) for each in groups.records] == [
        (True, "copy.jpg"), (False, "stain-1.jpg"),
    ]  # fmt: skip
    assert "nothing is deleted" in groups.err
    assert (photos / "stain-1.jpg").exists()
    (photos / "stain-1.jpg").write_bytes(b"changed")
    refused = run("dedupe", "i", "--threshold", 0.999, "--delete-files", "--json")
    assert refused.code == 1
    assert "changed since it was indexed" in refused.err
    shutil.copy(photos / "copy.jpg", photos / "stain-1.jpg")
    assert run("dedupe", "i", "--threshold", 0.999, "--delete-files").code == 0
    assert not (photos / "stain-1.jpg").exists()
    assert "6 images" in run("index", "photos", "--into", "i").out

    clusters = run("explore", "i", "--clusters", 2, "--json", "--save", "e.html").records
    assert sum(each["images"] for each in clusters) == 6
    assert Path("e.html").read_text().count("data:image/jpeg") == 6
    tags = run("tag", "i", "-l", "a wafer, a heart", "--threshold", 0.5, "--json").records
    assert {Path(each["image"]).name for each in tags} == {path.name for path in photos.iterdir()}
    wafers = {each["image"] for each in tags if "a wafer" in each["tags"]}
    hits = run("search", "i", "a heart", "--where", "array_has(tags, 'a wafer')", "--json").records
    assert {each["image"] for each in hits} == wafers
    assert run("tag", "i").code == 2
    assert run("explore", "i", "--save", "e.png").code == 2
    assert numbered(["a", "b", "a"]) == ["a (1)", "b", "a (2)"]
