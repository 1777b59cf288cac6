"""One walker of folders: whatever is done with the images of a folder, they are the same ones."""

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from patchword.cli.inputs import expand
from patchword.data.folders import pictures
from patchword.errors import ImageError, PatchwordError, SkippedFilesWarning
from patchword.images import files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos, one of them through a link, and much that is none."""
    photos = tmp_path / "photos"
    for name in ("a.jpg", "sub/B.PNG", ".hidden.jpg", "._a.jpg", ".Trashes/x.jpg", "notes.txt"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(photos / name, "PNG")
    for left_out in files.LEFT_OUT:
        (photos / left_out).mkdir()
        shutil.copy(photos / "a.jpg", photos / left_out)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(photos / "a.jpg", elsewhere / "c.jpg")
    (photos / "linked").symlink_to(elsewhere)
    (photos / "again").symlink_to(elsewhere)
    (photos / "loop").symlink_to(photos)
    return photos


def test_index_commands_and_training_see_the_same(folder: Path) -> None:
    found = files.pictures_in(folder, [])
    assert sorted(os.path.basename(path) for path in found) == ["B.PNG", "a.jpg", "c.jpg"]
    assert all(path.startswith(str(folder)) for path in found)
    assert expand([str(folder)]) == found == pictures(folder)
    indexed = files.find([folder], [])
    assert [file.path for file in indexed] == sorted(map(os.path.realpath, found))


def test_a_hidden_folder_that_is_named_is_meant(folder: Path) -> None:
    assert len(files.pictures_in(folder / ".Trashes", [])) == 1


def test_what_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str) -> object:
        if os.path.basename(path) == "sub":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    failed: list[ImageError] = []
    assert len(files.pictures_in(folder, failed)) == 2
    assert [str(error) for error in failed] == [
        f"{folder / 'sub'}: cannot be listed: Permission denied"
    ]
    assert str(folder / "sub") in expand([str(folder)])  # and opening it fails by name
    with pytest.raises(PatchwordError, match="cannot be listed"):
        pictures(folder)


def test_files_that_may_hold_images_are_counted(folder: Path) -> None:
    with tarfile.open(folder / "more.tar", "w") as tar:
        tar.add(folder / "a.jpg", "cat.jpg")
    for name in ("x.zip", "y.ZIP", "z.tar.xz", "shop.parquet", "shop.csv"):
        (folder / name).write_bytes(b"")
    start = "files that were not looked into for images: "
    both = "name a .tar itself, unpack the others"
    tar = str(folder / "more.tar")
    walks: list[Callable[[], object]] = [
        lambda: expand([str(folder)]),
        lambda: expand([str(folder), str(folder / "*.tar")]),
        lambda: files.find([folder], []),
        lambda: files.find([folder], [], [tar]),
        lambda: pictures(folder),
    ]
    with pytest.warns(SkippedFilesWarning) as said:
        assert all(walk() for walk in walks)
    assert [
        str(each.message).removeprefix(start)
        for each in said
        if each.category is SkippedFilesWarning
    ] == [
        f"1 .tar, 1 .tar.xz, 2 .zip; {both}",
        "1 .tar.xz, 2 .zip; unpack them",
        "1 .parquet, 1 .tar, 1 .tar.xz, 2 .zip; name a .parquet or .tar itself, unpack the others",
        "1 .parquet, 1 .tar.xz, 2 .zip; name a .parquet itself, unpack the others",
        "1 .tar, 1 .tar.xz, 2 .zip; unpack them",
    ]


def test_a_name_that_the_locale_cannot_write_is_not_taken_for_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "stat", lambda path: path.encode("ascii"))
    assert not files.gone("猫.jpg")
