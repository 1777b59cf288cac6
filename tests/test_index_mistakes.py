"""What is in an index is not lost by a slip: a name that is mistyped, a drive that is not mounted,
files that others left, a model that is not its own."""

import os
import shutil
from pathlib import Path

import pytest
from cli_runner import Run
from index_photos import picture
from small_models import tiny_bundle, tiny_clip

import patchword
from patchword.bundle import Bundle
from patchword.errors import IndexStoreError
from patchword.index import Index, open_index
from patchword.index.watching import changes


@pytest.fixture
def index(tmp_path: Path, model: Bundle) -> Index:
    """Three photos."""
    for i in range(3):
        picture(tmp_path / "photos" / f"{i}.png", i)
    found = open_index(tmp_path / "index")
    found.add(tmp_path / "photos", model)
    return found


def test_a_mistyped_name_does_not_begin_anew(tmp_path: Path, index: Index, model: Bundle) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("photo", "empty"):
        assert index.add(tmp_path / name, model, reindex=True).added == 0
        assert len(open_index(tmp_path / "index")) == 3
    other = tiny_bundle(tiny_clip()).opening(stretch=True)
    assert index.add(tmp_path / "photos", other, reindex=True).added == 3
    assert index.fingerprint == other.fingerprint


def test_an_index_that_another_process_makes_anew(
    tmp_path: Path, index: Index, model: Bundle
) -> None:
    """With vectors of another model, of the same length: they are not compared with those of the
    first one, and none of its vectors gets among them."""
    photos = sorted((tmp_path / "photos").iterdir())
    vectors = model.embed_images(photos)
    other = tiny_bundle(tiny_clip()).opening(stretch=True)
    for use in (
        lambda: index.search(vectors[0], model=model),
        lambda: index.search_many(vectors, model=model),
        lambda: index.explore(model=model),
        lambda: index.add(picture(tmp_path / "new.png", 9), model),
        lambda: index.put([tmp_path / "new.png"], vectors[:1], model),
        lambda: index.check(model),
    ):
        assert index.search(vectors[0], 1, model=model)[0].path == str(photos[0])
        anew = open_index(tmp_path / "index")
        anew.add(photos, other, reindex=True)
        with pytest.raises(IndexStoreError, match="which cannot be compared with those of"):
            use()
        assert (len(anew), index.fingerprint) == (3, other.fingerprint)
        index.add(photos, model, reindex=True)


def test_an_index_that_is_made_anew_while_files_are_added(
    tmp_path: Path, index: Index, model: Bundle
) -> None:
    other = tiny_bundle(tiny_clip()).opening(stretch=True)
    anew = open_index(tmp_path / "index")

    def between_batches(done: int, total: int) -> None:
        if done == 2:
            anew.add(tmp_path / "photos", other, reindex=True)

    new = [picture(tmp_path / "new" / f"{i}.png", 9 + i) for i in range(4)]
    with pytest.raises(IndexStoreError, match="another process made it anew, with vectors of"):
        index.add(new, model, between_batches, batch=1)
    assert (len(anew), anew.fingerprint) == (3, other.fingerprint)


def test_leftover_files_in_the_folder_are_ignored(
    tmp_path: Path, index: Index, model: Bundle
) -> None:
    leftover = tmp_path / "index" / ".part-0123456789abcdef.json"  # a note of a killed process
    for name in (leftover.name, ".DS_Store"):
        (tmp_path / "index" / name).touch()
    assert index.add(tmp_path / "photos", model, reindex=True).added == 3
    assert not leftover.exists()
    leftover.touch()
    os.utime(leftover, (0, 0))
    index.add(picture(tmp_path / "photos" / "3.png", 3), model)
    assert not leftover.exists()
    (tmp_path / "index" / "mine.txt").touch()
    with pytest.raises(IndexStoreError, match="holds other files"):
        index.add(tmp_path / "photos", model, reindex=True)
    assert len(index) == 4


def test_a_folder_with_other_files_is_refused_before_images_are_opened(
    tmp_path: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    photo = picture(tmp_path / "1.png", 1)
    monkeypatch.setattr(Bundle, "embed_each", None)
    with pytest.raises(IndexStoreError, match="holds other files"):
        open_index(tmp_path / "mine").add(photo, model)


def test_watching_one_folder_leaves_the_others_alone(
    tmp_path: Path, index: Index, model: Bundle
) -> None:
    drive, watched_folder = tmp_path / "drive", tmp_path / "here"
    unmounted = [picture(drive / f"{i}.png", 10 + i) for i in range(2)]
    linked = [picture(tmp_path / "linked" / f"{i}.png", 20 + i) for i in range(2)]
    watched = [picture(watched_folder / f"{i}.png", 30 + i) for i in range(2)]
    (watched_folder / "link").symlink_to(tmp_path / "linked")
    index.add([watched_folder, drive], model)
    shutil.rmtree(drive)
    drive.mkdir()  # where it is mounted
    watched[0].unlink()
    linked[0].unlink()

    def pause(seconds: float) -> None:
        raise KeyboardInterrupt

    removed: list[str] = []

    def watch() -> None:
        for change in changes(index, [watched_folder], model, pause=pause):
            removed.extend(change.removed)

    with pytest.raises(KeyboardInterrupt):
        watch()
    assert removed == sorted(map(str, (watched[0], linked[0])))
    assert {str(path) for path in unmounted} <= set(index.paths())


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    shapes = Path(patchword.__file__).parent / "assets" / "samples" / "shapes"
    Path("shapes").mkdir()
    for path in sorted(shapes.glob("*.jpg"))[:2]:
        shutil.copy(path, "shapes")
    return tmp_path / "shapes"


def test_a_temporarily_empty_folder_stays_indexed(run: Run, samples: Path) -> None:
    assert run("search", "shapes", "a circle").code == 0
    samples.rename("away")
    samples.mkdir()
    refused = run("search", "shapes", "a circle")
    assert refused.code == 2
    assert "shapes: neither an index nor a folder with images in it; what was there" in refused.err
    samples.rmdir()
    Path("away").rename(samples)
    again = run("search", "shapes", "a circle")
    assert (again.code, again.err) == (0, "")


def test_tags_are_by_the_model_of_the_index(run: Run, samples: Path) -> None:
    """Vectors of another model, though as long, say nothing about its texts."""
    patchword.open_index("i").add(samples, patchword.load("demo", image_size=64))
    for command in (
        ["tag", "i", "-l", "a circle", "-m", "demo"],
        ["index", "--into", "i", "--tags", "a circle", "-m", "demo-blip"],
        ["dedupe", "i", "-m", "demo-blip"],
    ):
        refused = run(*command)
        assert refused.code == 2
        assert "cannot be compared" in refused.err
    assert run("index", "--into", "i", "--tags", "a circle").code == 0
    index = patchword.open_index("i")
    by_index = [index.rows([hit.id], ["tags"]) for hit in index.search("a circle")]
    assert run("tag", "i", "-l", "a circle").code == 0
    assert [index.rows([hit.id], ["tags"]) for hit in index.search("a circle")] == by_index
