"""An index whose process is killed again and again, and one that is damaged and repaired."""

import json
import os
import random
import shutil
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from forked_processes import start
from index_photos import picture, rows
from small_models import tiny_bundle, tiny_clip

import patchword
from patchword.bundle import Bundle
from patchword.errors import ImageError, IndexStoreError
from patchword.index import Index, failures, open_index
from patchword.index.failures import Failure, Failures
from patchword.index.schema import id_of

KILLS = 20


class Fast(Bundle):
    """A model whose vectors are the first numbers of the photo."""

    def embed_each(self, sources: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for source in sources:
            try:
                pixels = np.asarray(self.opener.sized(source).picture)
                vector = np.resize(pixels, 24).astype(np.float32) + 1
                yield source, vector / np.linalg.norm(vector)
            except ImageError as error:
                yield source, error


def add(index: Index, photos: Path, model: Bundle, death: tuple[int, float] | None) -> int:
    """Add photos to an index, in batches of four; returns how many failed. death: after how many
    photos, and then seconds, this process is killed."""

    def progress(done: int, total: int) -> None:
        if death and done == death[0]:
            Timer(death[1], os.kill, (os.getpid(), signal.SIGKILL)).start()

    report = index.add(photos, model, progress, batch=4)
    while death:
        signal.pause()  # all was done before the kill
    return len(report.failed)


def kill_again_and_again(folder: Path, photos: Path) -> None:
    """Add photos to an index in one process after another, of which each but the last is killed.
    Prints what each found there, (rows, errors), and its exit code."""
    plain = tiny_bundle(tiny_clip())
    model = Fast(**{name: getattr(plain, name) for name in plain.__dataclass_fields__})
    draw = random.Random(1)
    counts, codes = [], []
    for kill in range(KILLS + 1):
        death = draw.randint(1, 12), draw.choice([0, 0, 0.002, 0.005, 0.01, 0.02])
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            index = open_index(folder)
            state = len(index), len(index.errors()) if len(index) else 0
            os.write(writing, json.dumps(state).encode())
            os.close(writing)
            os._exit(add(index, photos, model, death if kill < KILLS else None))
        os.close(writing)
        with open(reading) as pipe:
            counts.append(json.loads(pipe.read()))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps([counts, codes]))


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_store_nothing_twice(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for i in range(152):
        picture(photos / f"{i:03d}.png", i)
    for i in range(0, 152, 19):
        (photos / f"{i:03d}.png").write_text("broken")
    output = tmp_path / "said"
    process = start(output, partial(kill_again_and_again, tmp_path / "index", photos))
    process.join()
    assert process.exitcode == 0, Path(f"{output}.err").read_text()
    counts, codes = json.loads(Path(f"{output}.out").read_text())
    assert codes == [-9] * KILLS + [8]
    stored = [count for count, _ in counts]
    assert stored == sorted(stored)  # what was committed stays
    assert len(set(stored)) > KILLS // 3, stored  # the kills came at many places
    assert [errors for _, errors in counts] == sorted(errors for _, errors in counts)
    paths, vectors = rows(tmp_path / "index")
    readable = sorted(str(p) for i, p in enumerate(sorted(photos.iterdir())) if i % 19)
    assert sorted(paths) == readable
    for path, vector in zip(paths, vectors, strict=True):
        pixels = np.resize(patchword.images.open(path), 24).astype(np.float64) + 1
        np.testing.assert_allclose(vector, pixels / np.linalg.norm(pixels), atol=1e-6)
    index = open_index(tmp_path / "index")
    assert len(index.errors()) == 8
    assert index.row(id_of(paths[0]), ["width", "height"]) == {"width": 40, "height": 36}


@pytest.fixture
def index(tmp_path: Path, model: Bundle) -> Index:
    """Twelve photos in three commits."""
    for i in range(12):
        picture(tmp_path / "photos" / f"{i:02d}.png", i)
    index_ = open_index(tmp_path / "index")
    index_.add(tmp_path / "photos", model, batch=4)
    return index_


def test_repair_keeps_what_is_whole(tmp_path: Path, index: Index, model: Bundle) -> None:
    before = dict(zip(*rows(tmp_path / "index"), strict=True))
    assert index.repair() == (12, 12)
    data = sorted((tmp_path / "index" / "images.lance" / "data").iterdir())
    broken = bytearray(data[0].read_bytes())
    numbers = [np.float32(vector[3]).tobytes() for vector in before.values()]
    position = max(broken.find(number) for number in numbers)  # within a vector of this file
    assert position > 0
    broken[position + 1] ^= 8
    data[0].write_bytes(broken)
    data[1].write_bytes(data[1].read_bytes()[:50])
    with pytest.raises(IndexStoreError, match=r"--repair"):
        open_index(tmp_path / "index").search("a dog", model=model)
    assert index.repair() == (7, 12)
    after = dict(zip(*rows(tmp_path / "index"), strict=True))
    assert len(after) == 7
    assert all((before[path] == vector).all() for path, vector in after.items())
    report = index.add(tmp_path / "photos", model)
    assert (report.added, report.unchanged) == (5, 7)
    assert len(index.search("a dog", 99, model=model)) == 12
    assert index.repair() == (12, 12)


def test_repair_of_the_newest_version_and_of_errors(
    tmp_path: Path, index: Index, model: Bundle
) -> None:
    (tmp_path / "photos" / "bad.png").write_text("bad")
    index.add(tmp_path / "photos", model)
    folder = tmp_path / "index"
    shutil.rmtree(folder / "errors.lance" / "_versions")
    (folder / "errors.lance" / "_versions").mkdir()
    (folder / "version.json").write_text("{")
    newest = min((folder / "images.lance" / "_versions").iterdir(), key=lambda file: file.name)
    newest.write_bytes(newest.read_bytes()[:10])
    found = index.repair()
    assert (found, len(index)) == ((8, None), 8)  # what the newest version had, nobody knows
    assert index.errors() == []
    again = index.add(tmp_path / "photos", model)
    assert (again.added, len(again.failed), again.not_retried) == (4, 1, 0)
    versions = folder / "images.lance" / "_versions"
    for damage in ("zeros", "empty", "gone"):  # of as many rows as the version before
        index.fill(index.paths(), {"price": [1] * len(index)})
        newest = min(versions.iterdir(), key=lambda file: file.name)
        if damage == "gone":
            newest.unlink()
        else:
            newest.write_bytes(bytes(newest.stat().st_size * (damage == "zeros")))
        with pytest.raises(IndexStoreError, match="--repair"):
            open_index(folder).search("a dog", model=model)
        assert index.repair() == (12, None)
        assert len(open_index(folder).search("a dog", 99, model=model)) == 12
    for manifest in versions.iterdir():
        manifest.write_bytes(b"")
    before = sorted(versions.iterdir())
    with pytest.raises(IndexStoreError, match=r"no version of it can be read; .*--reindex"):
        index.repair()
    assert sorted(versions.iterdir()) == before  # that may have another reason than damage
    assert not (folder / "images.lance" / "_unreadable").exists()
    assert index.add(tmp_path / "photos", model, reindex=True).added == 12
    with pytest.raises(IndexStoreError, match="no index there"):
        open_index(tmp_path / "nowhere").repair()


def test_several_note_failures_while_files_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MAX_FRAGMENTS", 2)

    def note(writer: int) -> None:
        mine = Failures(str(tmp_path / "index"))
        for i in range(25):
            new = Failure(f"/{writer}/{i}", 1, 1, "bad")
            mine.change([new], [f"/{writer}/{i - 1}"])
            assert new.path in mine.known()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(note, range(3)))
    assert sorted(Failures(str(tmp_path / "index")).known()) == ["/0/24", "/1/24", "/2/24"]
