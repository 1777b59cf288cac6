"""Files are written whole, or not at all."""

import errno
import fcntl
import os
import resource
import shutil
import signal
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import tiny_bundle, tiny_clip

import patchword
from patchword.atomic_write import replacing, write
from patchword.inspect.inspector_folder import free


def test_text_pieces_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "é.txt"
    assert write(path, "é") == path
    assert path.read_text(encoding="utf-8") == "é"
    write(path, iter(["a", "b"]))
    assert path.read_bytes() == b"ab"
    write(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert os.listdir(path.parent) == [path.name]


def test_names_that_are_no_unicode_are_written_out(tmp_path: Path) -> None:
    page = write(tmp_path / "page.html", f"<p>{os.fsdecode(b'caf' + bytes([0xE9]))}.jpg</p>")
    assert page.read_text(encoding="utf-8") == "<p>caf\\udce9.jpg</p>"


def test_a_pipe_is_written_itself(tmp_path: Path) -> None:
    """/dev/stdout of a pipeline: its real path, /proc/1/fd/pipe:[2], is no file."""
    ours, theirs = os.pipe()
    write(f"/dev/fd/{theirs}", "told")
    assert os.read(ours, 10) == b"told"
    os.close(ours)
    os.close(theirs)


def test_a_library_may_make_the_file_anew(tmp_path: Path) -> None:
    """safetensors writes to a file of its own, that nobody else may read, and moves it."""
    usual = write(tmp_path / "usual", "x").stat().st_mode
    with replacing(tmp_path / "file") as part:
        part.unlink()
        part.touch(0o600)
    assert (tmp_path / "file").stat().st_mode == usual


def test_nothing_is_seen_before_it_is_whole_and_nothing_stays_of_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "file.npy"
    write(path, "old")

    def broken() -> None:
        with replacing(path) as part:
            assert part.suffix == ".npy"
            part.write_text("half")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.npy"]


def test_what_cannot_be_written_says_so_of_the_file_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"this folder cannot be made \(.*/file'$"):
        write(tmp_path / "file" / "x.png", "x")
    with pytest.raises(OSError, match=r"nothing can be written in its folder \(.*'/proc/x.png'$"):
        write("/proc/x.png", "x")
    with pytest.raises(OSError, match=r"this folder cannot be made \(.*/model'$"):
        patchword.save(tiny_bundle(tiny_clip()), tmp_path / "file" / "model")


def test_what_a_killed_process_left_goes_and_blocks_nobody(tmp_path: Path) -> None:
    """After an hour in which nobody has written it."""
    killed, running = tmp_path / ".part-0123.npz", tmp_path / ".part-4567.npz"
    killed.write_text("half")
    running.write_text("half")
    os.utime(killed, (0, 0))
    patchword.save(tiny_bundle(tiny_clip()), tmp_path)
    assert [name for name in os.listdir(tmp_path) if name.startswith(".part")] == [running.name]
    inspected = tmp_path / "fitted"
    inspected.mkdir()
    (inspected / running.name).write_text("half")
    assert free(inspected) == inspected


def test_as_on_windows_only_what_is_open_for_writing_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "fsync", fsync)
    assert write(tmp_path / "file", "new").read_text() == "new"


def write_tensors(path: Path) -> None:
    with replacing(path) as part:
        save_file({"a": np.zeros(5000)}, part)


@pytest.mark.parametrize("writing", [partial(write, content=b"x" * 5000), write_tensors])
def test_a_full_disk_leaves_the_old_file_alone(
    writing: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "file.bin"
    write(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*file\.bin"):
            writing(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_what_libraries_raise_at_a_full_disk_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO and libtiff do not say why they cannot write."""

    def attempt() -> None:
        with replacing(tmp_path / "map.tif"):
            raise RuntimeError("basic_ios::clear: iostream error")

    with pytest.raises(RuntimeError):
        attempt()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"No space left on device: .*map\.tif"):
        attempt()


def test_modes_are_those_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_links_and_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    write("/dev/null", "gone")
    assert not Path("/dev/null").is_file()


def test_names_of_255_bytes_and_libraries_that_add_suffixes(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".npy")
    with replacing(path) as part:
        np.save(part, np.arange(3))
    assert np.load(path).tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == [path.name]
