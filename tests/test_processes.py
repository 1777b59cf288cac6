"""Images opened by other processes: the same pixels, sights, warnings and errors as in threads."""

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchword
from patchword.errors import ImageError, ImageWarning, UnseenWarning
from patchword.images import Opener, Preprocess, processes
from patchword.images.decode import ImageLike
from patchword.images.reading import Reader
from patchword.unseen import Look

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="threads alone open images where there is no memfd"
)


@pytest.fixture
def two() -> Iterator[None]:
    """Two processes, whatever the machine has."""
    pool = processes._pool()
    pool.end()
    pool.count = 2
    assert processes.started() == 2
    yield
    pool.end()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[ImageLike]:
    """Sources of every kind, two of them broken, one with a warning."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (90 + n, 120, 3), dtype=np.uint8)) for n in range(20)
    ]
    paths = [folder / f"{n:02}.{'jpg' if n % 2 else 'png'}" for n in range(20)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    pages = [picture.copy() for picture in pictures[:3]]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(paths[1].read_bytes()[:900])
    return [
        *(str(path) for path in paths[:9]),
        *paths[9:16],
        str(folder / "pages.tif"),
        f"{folder / 'pages.tif'}#2",
        str(folder / "empty.jpg"),
        paths[16].read_bytes(),
        np.asarray(pictures[17]),
        pictures[18],
        folder / "cut.jpg",
        str(folder / "missing.jpg"),
        str(paths[19]),
    ]


def look(opener: Opener | None = None) -> Look:
    return Look(opener or Opener(), Preprocess(patchword.load("demo").config.preprocess), False)


def found(images: list[ImageLike], opener: Opener | None = None) -> tuple[list[object], list[str]]:
    """What is found in each image, as values that can be compared, and the warnings."""
    out: list[object] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for image, answer in processes.each(look(opener), images, 4):
            if isinstance(answer, ImageError):
                out.append((answer.image, answer.reason, type(answer.__cause__)))
            else:
                assert answer[0].dtype == np.uint8
                out.append((answer[0].tobytes(), answer[0].shape, answer[1], str(type(image))))
    return out, [str(each.message) for each in told]


def test_processes_find_what_threads_find(
    photos: list[ImageLike], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(processes._pool(), "count", 0)
    in_threads = found(photos)
    monkeypatch.undo()
    request.getfixturevalue("two")
    asked = spied(monkeypatch)
    assert found(photos) == in_threads
    assert sum(asked) >= 20  # not the arrays and pictures
    assert len(in_threads[1]) == 1
    assert "page 1 of 3" in in_threads[1][0]
    assert [answer[1][:6] for answer in in_threads[0] if len(answer) == 3] == [  # type: ignore
        *("empty:", "trunca", "no suc")
    ]


def spied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images processes are asked for."""
    asked: list[int] = []
    ask = processes._Process.ask

    def counted(process: processes._Process, work: processes.Work, images: list[ImageLike]) -> list:
        asked.append(len(images))
        return ask(process, work, images)

    monkeypatch.setattr(processes._Process, "ask", counted)
    return asked


def test_what_does_not_fit_the_shared_memory_is_sent(
    two: None, photos: list[ImageLike], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found(photos)[0]
    large = np.zeros((3, 3000, 4000), np.uint8)
    assert 8 * large.nbytes > processes.MEMORY
    work = Large()
    answers = [pixels for _, (pixels, _) in processes.each(work, ["x"] * 9, 9)]  # type: ignore
    assert len(answers) == 9
    assert all((pixels == 7).all() for pixels in answers)
    assert found(photos)[0] == whole


class Large:
    """Finds much in any image."""

    def __call__(self, image: ImageLike) -> processes.Found:
        return np.full((3, 3000, 4000), 7, np.uint8), None

    def sent(self, image: ImageLike) -> ImageLike:
        return image

    def received(self, image: ImageLike, found: processes.Found) -> processes.Found:
        return found


def test_a_killed_process_costs_no_image(two: None, photos: list[ImageLike]) -> None:
    expected = found(photos)
    for process in processes._pool()._all:
        os.kill(process._process.pid, signal.SIGKILL)
    assert found(photos) == expected
    assert not processes._pool()._all
    assert processes.started() == 2  # the next time they are wanted
    assert found(photos) == expected


def test_relative_paths_are_of_the_current_folder(
    two: None, photos: list[ImageLike], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        shutil.copy(str(photos[number * 2]), tmp_path / folder / "x.png")
    answers = []
    for folder in ("a", "b"):
        monkeypatch.chdir(tmp_path / folder)
        answers.append(found(["x.png"])[0][0])
    assert answers == [
        (*found([photos[n]])[0][0][:2], *answers[n // 2][2:])  # type: ignore
        for n in (0, 2)
    ]


def test_warnings_as_errors_are_raised(two: None, photos: list[ImageLike]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ImageWarning)
        with pytest.raises(ImageWarning, match="page 1 of 3"):
            list(processes.each(look(), photos, 4))


def test_an_index_keeps_what_processes_see(two: None, photos: list[ImageLike]) -> None:
    paths = [str(path) for path in photos[:8]]
    inside = {"a.tar/x.png": Path(paths[0]).read_bytes, "a.tar/y.png": lambda: b"broken"}
    here, there = Reader(inside=inside), Reader(inside=inside)
    work = look(here)
    alone = [work(path) for path in [*paths, "a.tar/x.png"]]
    several = list(processes.each(look(there), [*paths, *inside], 4))
    error = several.pop()[1]
    assert isinstance(error, ImageError)
    assert error.image == "a.tar/y.png"
    assert here.seen == there.seen
    assert there.seen["a.tar/x.png"].digest
    for (pixels, known), (_, answer) in zip(alone, several, strict=True):
        assert not isinstance(answer, ImageError)
        assert (answer[0] == pixels).all()
        assert answer[1] == known


def test_they_are_started_when_images_are_waited_for(
    photos: list[ImageLike], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = processes._pool()
    pool.end()
    monkeypatch.setattr(pool, "count", 2)
    monkeypatch.setattr(processes, "NOTICE", 0.0)
    used: list[int] = []
    for number, _ in enumerate(processes.each(look(), [str(photos[0])] * 4000, 4)):
        used.append(len(pool._all))
        if pool._all and not pool._starting:
            break
        assert number < 3990
    assert used[0] == 0
    assert used[-1] == 2
    pool.end()


def test_nobody_waits_and_none_is_started() -> None:
    pool = processes._pool()
    pool.end()
    pool.note(0.2, 1.1)
    assert not pool._all


SCRIPT = """
import os, sys, patchword
from patchword.images import processes
print("once", flush=True)
model = patchword.load("demo")
assert processes.started() == len(os.sched_getaffinity(0)) > 0
vectors = model.embed_images(sys.argv[1:] * 20)
print(vectors.shape, *(p._process.pid for p in processes._pool()._all))
"""


def test_a_script_without_a_main_guard_runs_once_and_leaves_nothing(
    photos: list[ImageLike], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    given = [str(path) for path in photos[:4]]
    done = subprocess.run(
        [sys.executable, "-X", "dev", script, *given], capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0] == "once"
    assert lines[1].startswith("(80, ")
    assert len(lines) == 2
    assert "ResourceWarning" not in done.stderr
    assert "Traceback" not in done.stderr
    for pid in lines[1].split(") ")[1].split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_they_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom patchword.images import processes\nprocesses.started()\n"
        "print(processes._pool()._all[0]._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z"):
            return  # dead, and nobody's child
        time.sleep(0.05)
    raise AssertionError("it goes on")


def test_where_none_can_be_started_threads_go_on(
    photos: list[ImageLike], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = processes._pool()
    pool.end()
    monkeypatch.setattr(pool, "count", 2)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.warns(UserWarning, match="no process can be started that opens images"):
        assert processes.started() == 0
    assert len(found(photos)[0]) == len(photos)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    monkeypatch.setattr(pool, "count", 2)
    with pytest.warns(UserWarning, match="threads open them: .*No such file"):
        assert processes.started() == 0


def test_vectors_are_the_same(two: None, photos: list[ImageLike]) -> None:
    model = patchword.load("demo")
    paths = [str(path) for path in photos[:9]]
    there = model.embed_images(paths)
    processes._pool().end()
    assert (there == model.embed_images(paths)).all()


def test_the_line_that_called_is_named(two: None, tmp_path: Path) -> None:
    Image.new("RGB", (900, 90), "red").save(tmp_path / "strip.png")
    with pytest.warns(UnseenWarning, match="strip.png") as told:
        patchword.load("demo").embed_images([tmp_path / "strip.png"] * 3)
    assert {each.filename for each in told} == {__file__}
