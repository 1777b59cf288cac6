"""Indexes of folders that are empty, unreadable or vanish, of odd names, on a full disk; watched
folders; the options of `index`."""

import os
import resource
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Run
from forked_processes import start
from index_photos import picture
from PIL import Image
from small_models import tiny_bundle, tiny_clip

import patchword
from patchword.bundle import Bundle
from patchword.errors import IndexStoreError
from patchword.index import Index, open_index
from patchword.index.schema import id_of
from patchword.index.watching import changes

LABELS = "a black circle, a red ring, a dog"


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return open_index(tmp_path / "index")


def test_odd_file_names_are_indexed_found_and_removed(
    tmp_path: Path, index: Index, model: Bundle
) -> None:
    names = ["two\nlines.png", "x" * 251 + ".png", "晶圆 é 🦊.png", "'; DROP TABLE images; --.png"]
    photos = [picture(tmp_path / "photos" / name, i) for i, name in enumerate(names)]
    (tmp_path / "photos" / "nothing.png").touch()
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    report = index.add(tmp_path / "photos", model)
    assert (report.added, [error.reason for error in report.failed]) == (4, ["empty: 0 bytes"])
    assert index.paths() == sorted(map(str, photos))
    for photo in photos:
        assert index.search(image=photo, k=1)[0].path == str(photo)
        assert index.row(id_of(str(photo)), ["path"]) == {"path": str(photo)}
        index.fill([str(photo)], {"price": [1]})
        moved = photo.rename(photo.with_name(f"m{photo.name[2:]}"))
        assert index.add(tmp_path / "photos", model).moved == 1
        moved.unlink()
        assert index.prune() == [str(moved)]
    assert len(index) == 0


def test_a_folder_that_is_empty_or_vanishes(tmp_path: Path, index: Index, model: Bundle) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    assert index.add(photos, model).added == 0
    for i in range(6):
        picture(photos / f"{i}.png", i)

    def vanish(done: int, total: int) -> None:
        if done == 2:
            shutil.rmtree(photos)

    report = index.add(photos, model, vanish, batch=2)
    assert report.added >= 2
    assert {error.reason for error in report.failed} <= {"no such file"}
    assert len(index) == report.added
    (missing,) = index.add(photos, model).failed
    assert missing.reason == "no such file"
    assert len(index) == report.added  # nothing is removed but by prune
    assert len(index.prune()) == report.added


def add_on_a_full_disk(folder: Path, photos: Path) -> None:
    """To an index, in a process that may write no file of more than 2 kB: the error is that of a
    full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        open_index(folder).add(photos, tiny_bundle(tiny_clip()), thumbnails=False)
    except IndexStoreError as error:
        print(error, flush=True)


def test_a_full_disk_loses_nothing(tmp_path: Path, model: Bundle) -> None:
    for i in range(12):
        picture(tmp_path / "photos" / f"{i:02d}.png", i)
    index = open_index(tmp_path / "index")
    index.add(tmp_path / "photos" / "00.png", model)
    adding = partial(add_on_a_full_disk, tmp_path / "index", tmp_path / "photos")
    process = start(tmp_path / "said", adding)
    process.join()
    message = (tmp_path / "said.out").read_text()
    assert process.exitcode == 0, (tmp_path / "said.err").read_text()
    assert "no room on the disk" in message
    assert "what was committed is kept" in message
    assert index.add(tmp_path / "photos", model).added == 11
    assert len(index.search("a dog", 99)) == 12


def test_a_watched_folder_and_its_index_stay_together(
    tmp_path: Path, index: Index, model: Bundle
) -> None:
    photos = tmp_path / "photos"
    first = picture(photos / "a.png", 1)
    steps: list[Callable[[], object]] = [
        lambda: picture(photos / "b.png", 2),
        lambda: None,
        lambda: (first.rename(photos / "c.png"), (photos / "bad.png").write_text("bad")),
        lambda: (photos / "b.png").unlink(),
        lambda: photos.rename(tmp_path / "away"),
        lambda: (tmp_path / "away").rename(photos),
        lambda: (picture(photos / "d.png", 4), (photos / "bad.png").unlink()),
    ]

    def pause(seconds: float) -> None:
        assert seconds >= 2
        if not steps:
            raise KeyboardInterrupt
        steps.pop(0)()

    seen = []

    def watch() -> None:
        for change in changes(index, [photos], model, pause=pause):
            removed = [Path(path).name for path in change.removed]
            seen.append((change.report.added, change.report.moved, removed, change.missing))

    with pytest.raises(KeyboardInterrupt):
        watch()
    assert seen == [
        (1, 0, [], []),
        (1, 0, [], []),
        (0, 1, [], []),
        (0, 0, ["b.png"], []),
        (0, 0, [], [str(photos)]),  # a drive that is not mounted: nothing is removed
        (0, 0, [], []),
        (1, 0, [], []),
    ]
    assert [Path(path).name for path in index.paths()] == ["c.png", "d.png"]


def test_options_of_index(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shapes = Path(patchword.__file__).parent / "assets" / "samples" / "shapes"
    for path in sorted(shapes.glob("*.jpg"))[:2]:
        Path("photos").mkdir(exist_ok=True)
        shutil.copy(path, "photos")
    names = sorted(os.listdir("photos"))
    Path("photos/bad.jpg").write_text("bad")
    Path("about.csv").write_text(f"file,price\n{names[0]},3\nno.jpg,4\n")
    indexed = run("index", "photos", "--metadata", "about.csv", "--caption", "--tags", LABELS)
    assert indexed.code == 1
    assert "1 row belongs to no image of the index: no.jpg" in indexed.err
    index = patchword.open_index("patchword.index")
    first, second = index.rows([id_of(path) for path in index.paths()], ["price", "caption"])
    assert (first["price"], second["price"]) == (3, None)
    model = patchword.load("demo-blip")
    assert first["caption"] == model.caption(f"photos/{names[0]}")[0].text
    assert second["caption"]
    tags = index.rows([id_of(path) for path in index.paths()], ["tags"])
    shown = patchword.load("demo").classify(index.paths(), LABELS.split(", "), multi_label=True)
    for row, scores in zip(tags, shown, strict=True):
        assert row["tags"] == [each.label for each in scores if each.probability >= 0.5]
    assert any(row["tags"] for row in tags)
    again = run("index", "photos")
    assert again.code == 1
    assert "1 file that failed before, unchanged, not tried again" in again.err
    assert "2 images (0 added, 2 unchanged, 1 failed before)" in again.out
    assert "bad.jpg" not in again.err
    assert "bad.jpg: not an image" in run("index", "photos", "--retry").err
    assert "all 2 images are whole" in run("index", "--repair").out

    np.save("v.npy", patchword.load("demo").embed_images([f"photos/{name}" for name in names]))
    Path("p.txt").write_text("".join(f"photos/{name}\n" for name in names))
    put = run("index", "--vectors", "v.npy", "--paths", "p.txt", "--into", "other", "--json")
    assert (put.code, put.records[-1]["put"], put.records[-1]["images"]) == (0, 2, 2)
    refused = run(
        "index", "--vectors", "v.npy", "--paths", "p.txt", "-m", "demo-blip", "--into", "x"
    )
    assert refused.code == 2
    for wrong, message in {
        ("--vectors", "v.npy"): "--vectors and --paths belong together",
        ("--watch",): "give files or folders",
        ("--prune", "--retry"): "need the files or folders",
        ("photos", "--captioner", "demo-blip"): "--captioner needs --caption",
        ("--metadata", "no.csv"): "not a table",
        ("--metadata", "no.xlsx"): "that is there: save its sheet as CSV (UTF-8)",
    }.items():
        refused_options = run("index", *wrong)
        assert refused_options.code == 2
        assert message in " ".join(refused_options.err.split())


def test_an_interrupted_run_says_how_to_go_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, into = tmp_path / "photos", tmp_path / "index"
    picture(folder / "a.png", 0)
    assert run("index", folder, "--into", into).code == 0

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Index, "add", stopped)
    interrupted = run("index", folder, "--into", into)
    assert interrupted.code == 130
    assert f"interrupted; images in {into}: 1; run it again to go on" in interrupted.err


def test_a_link_to_what_is_missing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named as it was given, by every command, and not what it was a link to."""
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("gone")
    for command in (["classify", "link", "-l", "hat,dress"], ["index", "link"]):
        result = run(*command)
        assert result.code == 2
        assert "link: a link to gone, which is missing" in result.err
    for command in (["search", "link", "a hat"], ["explore", "link"]):
        result = run(*command)
        assert result.code == 2
        assert "link: a link to gone, which is missing" in result.err
    Path("photos").mkdir()
    Path("photos/link.png").symlink_to("gone.png")
    Image.new("RGB", (32, 32)).save("photos/black.png")
    for _ in range(2):
        result = run("index", "photos", "--into", "made")
        assert result.code == 1
        assert "photos/link.png: a link to gone.png, which is missing" in result.err
