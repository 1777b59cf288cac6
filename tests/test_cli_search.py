"""search and index: folders that search indexes first, globs, deleted files, headings."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Run

import patchword
from patchword.cli import hits
from patchword.show import html_page

SHAPES = Path(patchword.__file__).parent / "assets" / "samples" / "shapes"


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures in the current folder, and caches elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(SHAPES.glob("*.jpg"))[:3]:
        shutil.copy(path, folder)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_search_indexes_a_folder_first(run: Run, photos: Path) -> None:
    first, second, third = names(photos)
    words = second.removesuffix(".jpg").replace("-", " ")
    ran = run("search", "photos", words)
    assert ran.code == 0
    assert "photos is indexed in " in ran.err
    assert "3 images (3 added, 0 unchanged, 0 pruned)" in ran.err
    index = Path(ran.err.split(" is indexed in ")[1].split(":")[0])
    assert any(index.glob("*.lance"))
    assert not (photos / "patchword.index").exists()
    assert ran.out.splitlines()[0].split() == ["cosine", "in", "photos"]
    assert ran.out.splitlines()[2].split()[::2] == ["1", second]
    again = run("search", "photos", words)
    assert (again.out, again.err) == (ran.out, "")
    assert run("search", "photos", "-t", words).out == ran.out

    (photos / first).unlink()
    (photos / "cut.jpg").write_bytes(b"nothing")
    changed = run("search", "photos", words, "--json")
    assert changed.code == 1
    assert "2 images (0 added, 2 unchanged, 1 pruned)" in changed.err
    assert changed.records[0]["image"] == str(photos / "cut.jpg")
    assert "error" in changed.records[0]
    assert {Path(r["image"]).name for r in changed.records[1:]} == {second, third}
    assert "1 of 3 images failed" in run("search", "photos", words, "-k", 1).err
    assert run("search", "photos", words, "--where", "width > 9999").code == 1


def test_explore_counts_images_and_not_clusters(run: Run, photos: Path) -> None:
    (photos / "cut.jpg").write_bytes(b"nothing")
    explored = run("explore", "photos", "--clusters", 1)
    assert explored.code == 1
    assert "1 of 4 images failed" in explored.err
    run("index", "photos", "--into", "i")
    (photos / names(photos)[0]).unlink()
    shown = run("explore", "i", "--clusters", 1, "--save", "e.html")
    assert "1 of 3 images failed" in shown.err


def test_tag_says_how_to_get_fewer_where_images_have_many(run: Run, photos: Path) -> None:
    labels = ("-l", "heart, ring, star, circle, dog")
    assert run("index", "photos", "--into", "i").code == 0
    many = run("tag", "i", *labels, "--threshold", 0)
    assert "an image has 5.0 tags on average" in many.err
    assert "--threshold gives fewer" in many.err
    assert "on average" not in run("tag", "i", *labels, "--threshold", 0.999).err


def test_search_writes_over_no_photo_of_the_index(run: Run, photos: Path) -> None:
    photo = photos / names(photos)[0]
    before = photo.read_bytes()
    assert run("index", "photos").code == 0
    refused = run("search", "patchword.index", "a star", "--save", photo.relative_to(Path.cwd()))
    assert refused.code == 2
    assert "a photo of the index" in refused.message
    assert photo.read_bytes() == before


def test_names_with_line_ends_stay_on_one_line(run: Run, photos: Path) -> None:
    shutil.copy(photos / names(photos)[0], photos / "a\nb.jpg")
    (photos / "c\td.jpg").write_bytes(b"nothing")
    for command in (["search", "photos", "a star"], ["classify", "photos", "-l", "star,ring"]):
        ran = run(*command)
        assert "a\\nb.jpg" in ran.out
        assert "photos/c\\td.jpg: not an image" in ran.err
        assert run(*command, "--json").records[0].get("image", "") != ""


def test_a_folder_without_index_and_images_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for command in (["search", "empty", "a hat"], ["index", "empty"]):
        ran = run(*command)
        assert ran.code == 2
        assert "empty" in ran.err
        assert not (tmp_path / "patchword.index").exists()
    unset = run("search", "", "a hat")
    assert unset.code == 2
    assert "the name of the index is empty" in unset.err
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    assert run("index", "bad.jpg").code == 2
    assert not (tmp_path / "patchword.index").exists()


def test_a_cache_that_cannot_be_written_is_refused_before_any_work(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHWORD_CACHE", str(next(photos.iterdir()) / "cache"))
    done = run("search", "photos", "a red ring")
    assert done.code == 2
    assert "let PATCHWORD_CACHE name a folder" in done.err
    assert "making an index" not in done.err


def test_index_takes_globs_and_lists_and_counts_what_is_gone(run: Run, photos: Path) -> None:
    first, _second, third = names(photos)
    Path("list.txt").write_text(f"photos/{third}\n")
    done = run("index", f"photos/{first[:3]}*.jpg", "@list.txt", "--json")
    assert done.records == [
        {
            "index": "patchword.index", "added": done.records[0]["added"], "unchanged": 0,
            "moved": 0, "pruned": 0, "put": 0, "not_retried": 0, "gone": 0, "failed": 0,
            "images": done.records[0]["added"],
        }
    ]  # fmt: skip
    assert done.records[0]["added"] >= 2
    assert "3 images" in run("index", "photos").out
    (photos / first).unlink()
    assert "1 gone: --prune" in run("index", "photos").out
    hits = run("search", "patchword.index", "a shape", "--json").records
    assert [Path(r["image"]).name for r in hits if r.get("gone")] == [first]
    assert f"{first} (gone)" in run("search", "patchword.index", "a shape").out
    saved = run("search", "patchword.index", "a shape", "-k", "3", "--save", "new/hits.html")
    assert saved.code == 1
    assert "1 of 3 images failed" in saved.err
    assert Path("new/hits.html").stat().st_size
    assert "1 pruned" in run("index", "photos", "--prune").out
    tar = run("index", "photos.tar", "-")
    assert tar.code == 2
    assert "-: an index holds files" in tar.message


def test_a_heading_names_a_link_as_it_stands_here(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "away" / "deep").mkdir(parents=True)
    shutil.move(photos, tmp_path / "away" / "deep" / "pictures")
    (tmp_path / "linked").symlink_to(tmp_path / "away" / "deep" / "pictures")
    run("index", "linked")
    ran = run("search", "patchword.index", "a shape")
    assert ran.out.splitlines()[0].split() == ["cosine", "in", "linked"]


def test_rerank_opens_images_inside_a_tar(run: Run, photos: Path) -> None:
    with tarfile.open("photos.tar", "w") as tar:
        tar.add(photos, "photos")
    run("index", "photos.tar", "--into", "tar.index")
    alone = run("search", "photos", "a wafer with a scratch", "--rerank", "3", "--json")
    inside = run("search", "tar.index", "a wafer with a scratch", "--rerank", "3", "--json")
    assert inside.code == alone.code == 0
    inside_matches, alone_matches = (
        {Path(hit["image"]).name: hit["match"] for hit in ran.records} for ran in (inside, alone)
    )
    assert inside_matches == pytest.approx(alone_matches)
    assert None not in inside_matches.values()


def test_a_list_of_things_to_leave_out_is_read(run: Run, photos: Path) -> None:
    """As the text "@others.txt" it would leave out nothing, and no word would say so."""
    Path("others.txt").write_text("a wafer\na green star\n")
    listed = run("search", "photos", "a ring", "--without", "@others.txt", "--json")
    named = run("search", "photos", "a ring", "--without", "a wafer", "--without", "a green star",
                "--json")  # fmt: skip
    assert listed.out == named.out != run("search", "photos", "a ring", "--json").out


def test_a_file_in_place_of_words_is_refused(run: Run, photos: Path) -> None:
    Path("list.txt").write_text("a ring\n")
    Path("empty.txt").write_text("")
    photo = f"photos/{names(photos)[0]}"
    for text, reason in {
        photo: f"{photo} is a file and stands where words are wanted; to search with it: --image",
        "list.txt": "list.txt: did you mean @list.txt, the lines of the file?",
        "@empty.txt": "@empty.txt: empty; write one entry per line",
        "-": "-: words are not read from standard input; a list is: @/dev/stdin",
    }.items():
        refused = run("search", "photos", text)
        assert (refused.code, refused.out) == (2, "")
        assert reason in refused.err
        if text != "-":
            assert reason in run("search", "photos", "a ring", "--without", text).err


def test_an_empty_list_of_images_is_refused(run: Run) -> None:
    Path("empty.txt").write_text("")
    ran = run("index", "@empty.txt", "--into", "new.index")
    assert (ran.code, ran.out) == (2, "")
    assert "empty.txt: empty; write one entry per line" in ran.err


def test_without_beside_many_queries(run: Run, photos: Path) -> None:
    Path("queries.txt").write_text("a star\na heart\n")
    many = run("search", "photos", "@queries.txt", "--without", "a wafer", "-k", "1", "--json")
    assert many.code == 0
    assert [hit["query"] for hit in many.records] == ["a star", "a heart"]


def test_a_page_of_many_queries_is_written_one_by_one(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def logged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return function(*arguments)

        return call

    monkeypatch.setattr(hits, "load_picture", logged("photo", hits.load_picture))
    monkeypatch.setattr(html_page, "cards", logged("section", html_page.cards))
    Path("queries.txt").write_text("a star\na heart\n")
    ran = run("search", "photos", "@queries.txt", "-k", "2", "--save", "page.html")
    assert (ran.code, calls) == (0, ["photo", "photo", "section"] * 2)
    Path("many.txt").write_text("".join(f"a star {n}\n" for n in range(101)))
    refused = run("search", "photos", "@many.txt", "--save", "many.png")
    assert (refused.code, refused.out) == (2, "")
    assert "many.png: 101 searches are no picture; save a page" in refused.err
    page = Path("page.html").read_text()
    assert "<title>2 searches</title>" in page
    assert [page.count(text) for text in ("<h3>a star", "<h3>a heart", "<img")] == [1, 1, 4]


def test_an_index_of_the_same_model_with_other_options(run: Run, photos: Path) -> None:
    run("index", photos, "--into", "own.index")
    ran = run("search", "own.index", "a star", "--dtype", "bfloat16")
    assert ran.code == 2
    assert "of other weights or options; use the weights and options that it was made" in ran.err


def test_a_file_is_no_index(run: Run, photos: Path) -> None:
    Path("shop.csv").write_text("image\n")
    ran = run("search", "shop.csv", "a star")
    assert (ran.code, ran.out) == (2, "")
    assert "shop.csv: no index there, but a file; an index is a folder\n" in ran.err


def test_rerank_prints_what_match_prints(run: Run) -> None:
    ran = run("search", "photos", "a wafer with a scratch", "--rerank", "3")
    assert "<0.1%" in ran.out
    assert " 0.0%" not in ran.out
