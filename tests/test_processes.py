"""Images opened by worker processes: results, warnings and errors are those of threads."""

import mmap
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchword
from patchword.errors import ImageError, ImageWarning, UnseenWarning
from patchword.images import Opener, processes, worker
from patchword.images.decode import ImageLike
from patchword.images.reading import Reader
from patchword.index.members import Inside
from patchword.visible_area import Look

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="threads alone open images on other systems"
)


@pytest.fixture
def two_processes() -> Iterator[None]:
    """Two worker processes, independent of the number of processors."""
    pool = processes._pool()
    pool.end()
    pool.count = 2
    assert processes.start_and_wait() == 2
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
    return Look(opener or Opener(), patchword.load("demo").preprocess, False, True)


def open_all(
    images: list[ImageLike], opener: Opener | None = None
) -> tuple[list[object], list[str]]:
    """The result of each image as values that can be compared, and the warnings."""
    out: list[object] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for image, answer in processes.map_images(look(opener), images, 4):
            if isinstance(answer, ImageError):
                out.append((answer.image, answer.reason, type(answer.__cause__)))
            else:
                assert answer[0].dtype == np.uint8
                out.append((answer[0].tobytes(), answer[0].shape, answer[1], str(type(image))))
    return out, [str(each.message) for each in caught]


def test_processes_give_the_results_of_threads(
    photos: list[ImageLike], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(processes._pool(), "count", 0)
    in_threads = open_all(photos)
    monkeypatch.undo()
    request.getfixturevalue("two_processes")
    requests = count_requests(monkeypatch)
    assert open_all(photos) == in_threads
    assert sum(requests) >= 20  # not the arrays and pictures
    assert len(in_threads[1]) == 1
    assert "page 1 of 3" in in_threads[1][0]
    assert [answer[1][:6] for answer in in_threads[0] if len(answer) == 3] == [  # type: ignore
        *("empty:", "trunca", "no suc")
    ]


def count_requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the number of images in each request to a process."""
    requests: list[int] = []
    ask = processes._Process.ask

    def counted(
        process: processes._Process, folder: str, work: worker.Work, images: list[ImageLike]
    ) -> list:
        requests.append(len(images))
        return ask(process, folder, work, images)

    monkeypatch.setattr(processes._Process, "ask", counted)
    return requests


def test_pixels_beyond_the_shared_memory_are_sent(
    two_processes: None, photos: list[ImageLike], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_all(photos)[0]
    large = np.zeros((3, 3000, 4000), np.uint8)
    assert 8 * large.nbytes > worker.MEMORY
    work = Large()
    answers = [pixels for _, (pixels, _) in processes.map_images(work, ["x"] * 9, 9)]  # type: ignore
    assert len(answers) == 9
    assert all((pixels == 7).all() for pixels in answers)
    assert open_all(photos)[0] == whole


class Large:
    """Gives large pixels for any image."""

    def __call__(self, image: ImageLike) -> worker.Result:
        return np.full((3, 3000, 4000), 7, np.uint8), None

    def to_send(self, image: ImageLike) -> ImageLike:
        return image

    def received(self, image: ImageLike, result: worker.Result) -> worker.Result:
        return result


def test_a_killed_process_costs_no_image(two_processes: None, photos: list[ImageLike]) -> None:
    expected = open_all(photos)
    for process in processes._pool()._all:
        os.kill(process._process.pid, signal.SIGKILL)
    assert open_all(photos) == expected
    assert not processes._pool()._all
    assert processes.start_and_wait() == 2  # the next time they are wanted
    assert open_all(photos) == expected


def test_relative_paths_are_of_the_current_folder(
    two_processes: None, photos: list[ImageLike], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        shutil.copy(str(photos[number * 2]), tmp_path / folder / "x.png")
    answers = []
    for folder in ("a", "b"):
        monkeypatch.chdir(tmp_path / folder)
        answers.append(open_all(["x.png"])[0][0])
    assert answers == [
        (*open_all([photos[n]])[0][0][:2], *answers[n // 2][2:])  # type: ignore
        for n in (0, 2)
    ]


def test_a_current_folder_that_is_deleted_ends_no_process(
    two_processes: None, photos: list[ImageLike], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    answers = open_all([photos[0], "x.png"])[0]
    assert [len(answer) for answer in answers] == [4, 3]  # type: ignore[arg-type]
    assert len(processes._pool()._all) == 2


class Named(str):
    """A path of a class that a worker process cannot import."""

    __slots__ = ()


def test_paths_are_sent_as_plain_texts(photos: list[ImageLike]) -> None:
    assert type(Opener().to_send(Named("x.png"))) is str
    assert type(Opener().to_send(Path("x.png"))) is str


class Fails:
    """Raises an error that is not an ImageError."""

    def __call__(self, image: ImageLike) -> worker.Result:
        raise ZeroDivisionError(str(image))

    to_send, received = Large.to_send, Large.received


def test_an_error_in_a_process_is_raised_here_and_the_process_stays(
    two_processes: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError, match="x"):
        list(processes.map_images(Fails(), ["x"] * 3, 3))
    assert all(process.is_alive for process in processes._pool()._all)
    assert len(processes._pool()._all) == 2
    assert worker._answer_request(b"of another version", mmap.mmap(-1, 4096)) == []
    assert capfd.readouterr().err == ""


class Warns:
    """Warns at its own line, as another library does."""

    def begin(self, image: ImageLike) -> worker.Result:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return np.zeros((3, 2, 2), np.uint8), None


def test_an_image_with_warnings_of_a_library_is_opened_again_here() -> None:
    assert list(worker._answers(Warns(), ["x"], mmap.mmap(-1, 4096))) == [None]


def test_warnings_as_errors_are_raised(two_processes: None, photos: list[ImageLike]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ImageWarning)
        with pytest.raises(ImageWarning, match="page 1 of 3"):
            list(processes.map_images(look(), photos, 4))


def test_records_of_an_index_come_back_from_processes(
    two_processes: None, photos: list[ImageLike]
) -> None:
    paths = [str(path) for path in photos[:8]]

    def gone() -> bytes:
        raise ImageError("a.tar/z.png", "not there any more")

    inside = {
        "a.tar/x.png": Path(paths[0]).read_bytes,
        "a.tar/y.png": lambda: b"broken",
        "a.tar/z.png": gone,
    }
    here, there = Reader(inside=inside), Reader(inside=inside)
    work = look(here)
    alone = [work(path) for path in [*paths, "a.tar/x.png"]]
    several = list(processes.map_images(look(there), [*paths, *inside], 4))
    for name in ("a.tar/z.png", "a.tar/y.png"):
        error = several.pop()[1]
        assert isinstance(error, ImageError)
        assert error.image == name
    assert here.seen == there.seen
    assert there.seen["a.tar/x.png"].digest
    for (pixels, known), (_, answer) in zip(alone, several, strict=True):
        assert not isinstance(answer, ImageError)
        assert (answer[0] == pixels).all()
        assert answer[1] == known


def test_warnings_name_what_is_inside_other_files(photos: list[ImageLike], tmp_path: Path) -> None:
    pages = Path(str(photos[16]))
    with pytest.warns(ImageWarning, match=r"^a\.tar/x\.tif: page 1 of 3"):
        Reader(inside={"a.tar/x.tif": pages.read_bytes}).sized("a.tar/x.tif")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(pages, "x.tif")
        tar.add(str(photos[18]), "empty.jpg")
    with pytest.warns(ImageWarning, match=r"a\.tar/x\.tif: page 1 of 3"):
        Inside().sized(f"{tmp_path}/a.tar/x.tif")
    with pytest.raises(ImageError, match=r"a\.tar/empty\.jpg: empty"):
        Inside().sized(f"{tmp_path}/a.tar/empty.jpg")


def test_processes_start_when_callers_wait_for_images(
    photos: list[ImageLike], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = processes._pool()
    pool.end()
    monkeypatch.setattr(pool, "count", 2)
    monkeypatch.setattr(processes, "NOTICE", 0.0)
    used: list[int] = []
    for number, _ in enumerate(processes.map_images(look(), [str(photos[0])] * 4000, 4)):
        used.append(len(pool._all))
        if pool._all and not pool._starting:
            break
        assert number < 3990
    assert used[0] == 0
    assert used[-1] == 2
    pool.end()


def test_no_process_starts_for_short_waits() -> None:
    pool = processes._pool()
    pool.end()
    pool.record_wait(0.2, 1.1)
    assert not pool._all


SCRIPT = """
import os, sys, patchword
from patchword.images import processes
print("once", flush=True)
model = patchword.load("demo")
assert processes.start_and_wait() == len(os.sched_getaffinity(0)) > 0
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


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\nfrom patchword.images import processes\nprocesses.start_and_wait()\n"
        "if not os.fork():\n    time.sleep(8)\n    os._exit(0)\n"  # who goes on
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


def test_threads_open_images_if_no_process_can_start(
    photos: list[ImageLike], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = processes._pool()
    pool.end()
    monkeypatch.setattr(pool, "count", 2)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.warns(UserWarning, match="no process can be started that opens images"):
        assert processes.start_and_wait() == 0
    assert len(open_all(photos)[0]) == len(photos)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    monkeypatch.setattr(pool, "count", 2)
    with pytest.warns(UserWarning, match="threads open them: .*No such file"):
        assert processes.start_and_wait() == 0


def test_the_processes_that_could_start_are_used(
    photos: list[ImageLike], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = processes._pool()
    pool.end()
    monkeypatch.setattr(pool, "count", 2)
    made = iter([processes._Process])
    monkeypatch.setattr(processes, "_Process", lambda: next(made, refused)())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert processes.start_and_wait() == 1
    assert pool.count == 1
    assert len(open_all(photos)[0]) == len(photos)
    pool.end()


def refused() -> processes._Process:
    raise OSError(11, "Resource temporarily unavailable")


def test_nothing_is_imported_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy.py", "patchword.py"):
        (tmp_path / name).write_text("raise SystemExit('of the folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", tmp_path, *sys.path])
    pool = processes._pool()
    pool.end()
    monkeypatch.setattr(pool, "count", 1)
    assert processes.start_and_wait() == 1
    # Ctrl-C, which a terminal sends to all that it started, does not reach it at its start either
    assert os.getsid(pool._all[0]._process.pid) != os.getsid(0)
    pool.end()


def test_ranks_of_torchrun_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(96)))
    assert processes._Pool().count == 96
    for ranks, count in {"8": 12, "200": 1, "0": 96, "x": 96}.items():
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert processes._Pool().count == count
    monkeypatch.setattr(processes, "parent_process", object)  # as in one that multiprocessing began
    assert processes._Pool().count == 0


def test_a_frozen_application_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes._Pool().count
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not processes._Pool().count


def test_vectors_are_the_same(two_processes: None, photos: list[ImageLike]) -> None:
    model = patchword.load("demo")
    paths = [str(path) for path in photos[:9]]
    there = model.embed_images(paths)
    processes._pool().end()
    assert (there == model.embed_images(paths)).all()


def test_the_line_that_called_is_named(two_processes: None, tmp_path: Path) -> None:
    Image.new("RGB", (900, 90), "red").save(tmp_path / "strip.png")
    with pytest.warns(UnseenWarning, match="strip.png") as caught:
        patchword.load("demo").embed_images([tmp_path / "strip.png"] * 3)
    assert {each.filename for each in caught} == {__file__}
