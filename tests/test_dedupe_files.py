"""dedupe --delete-files: nothing is deleted whose copy is not there."""

import os
import re
import shutil
from pathlib import Path

import pytest
from cli_runner import Run
from photos import CAT, COFFEE
from PIL import Image

from patchword.index.duplicates import KEEP


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cat in two sizes, and a cup, indexed in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, photo, side in (("large", CAT, 300), ("small", CAT, 200), ("cup", COFFEE, 300)):
        with Image.open(photo) as picture:
            picture.thumbnail((side, side))
            picture.convert("RGB").save(folder / f"{name}.bmp")
    return folder


def deleted(run: Run, *options: str) -> tuple[int, str]:
    found = run("dedupe", "i", "--delete-files", *options)
    return found.code, found.err


def test_the_copy_goes_and_the_one_to_keep_stays(run: Run, photos: Path) -> None:
    run("index", "photos", "--into", "i")
    assert "nothing is deleted" in run("dedupe", "i").err
    code, said = deleted(run)
    assert code == 0
    assert "1 group, 1 image besides those to keep; 1 file deleted" in said
    assert sorted(path.name for path in photos.iterdir()) == ["cup.bmp", "large.bmp"]


def test_no_file_that_is_gone_is_the_one_to_keep(run: Run, photos: Path) -> None:
    run("index", "photos", "--into", "i")
    (photos / "large.bmp").unlink()
    shown = run("dedupe", "i")
    assert re.search(r"keep .*small\.bmp *\n.*large\.bmp \(gone\)", shown.out)
    for keep in KEEP:
        small, large = run("dedupe", "i", "--keep", keep, "--json").records
        assert (Path(small["image"]).name, small["keep"]) == ("small.bmp", True)
        assert "gone" not in small
        assert (large["keep"], large["gone"]) == (False, True)
    code, said = deleted(run)
    assert code == 1
    assert "large.bmp: not deleted: the file is gone; index again, with --prune" in said
    assert "nothing is deleted" in said
    assert "1 of 3 images failed" in said
    (photos / "small.bmp").unlink()  # of two that are gone the order is as always
    assert [each["keep"] for each in run("dedupe", "i", "--json").records] == [True, False]
    assert "large.bmp (gone)" in run("dedupe", "i").out.splitlines()[2]


def test_nothing_is_deleted_where_one_has_changed(run: Run, photos: Path) -> None:
    run("index", "photos", "--into", "i")
    large = photos / "large.bmp"
    whole = large.read_bytes()
    for file in (large, photos / "small.bmp"):
        file.write_bytes(whole if file == large else file.read_bytes())
        os.utime(file)  # another time alone is no change
        pixels = bytearray(file.read_bytes())
        pixels[-40:] = bytes(40)
        before = file.read_bytes()
        file.write_bytes(pixels)  # as many bytes as before
        assert "changed since it was indexed" in deleted(run)[1], file
        file.write_bytes(before)
    assert (photos / "small.bmp").exists()
    assert deleted(run)[0] == 0
    assert not (photos / "small.bmp").exists()


def test_a_file_is_no_copy_of_itself(run: Run, photos: Path) -> None:
    """Two folders of the same photos, of which one becomes a link to the other."""
    shutil.copytree(photos, "again")
    run("index", "photos", "again", "--into", "i")
    shutil.rmtree("again")
    Path("again").symlink_to(photos)
    code, said = deleted(run, "--where", "path LIKE '%large%'")
    assert code == 1
    assert "under another name" in said
    assert (photos / "large.bmp").exists()
    Path("again").unlink()
    Path("again").mkdir()
    os.link(photos / "large.bmp", "again/large.bmp")  # of two links one stays
    assert deleted(run, "--where", "path LIKE '%large%'")[0] == 0
    assert len(list(Path().rglob("large.bmp"))) == 1
