"""Images opened by worker processes.

Threads that open photos wait for each other: decoding releases Python's lock, but the code around
it does not. On many cores, more threads make small photos slower. Worker processes do not wait for
each other. They are started when a caller has waited for photos for a while, are reused by later
callers, and end after minutes without work or with the process that started them. Images that they
cannot open are opened in threads of this process, as all images are where the system is not Linux.
"""

from __future__ import annotations

import atexit
import mmap
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from multiprocessing import Pipe, parent_process
from threading import Lock

import numpy as np

from patchword.errors import PACKAGE, ImageError, in_threads, warn
from patchword.images.decode import ImageLike
from patchword.images.prefetch import cores, threads
from patchword.images.worker import MEMORY, Answer, Outcome, Work, attempt

THREADS = min(max(cores(), 4), 16)
CHUNK = 8  # most images that a process gets at a time
CHUNK_SECONDS = 0.02  # time that a process should need for a chunk
# Processes are started when in this many seconds callers waited for more than this share of them.
NOTICE, SHARE = 1.0, 0.25

_ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # environment of a process


def map_images(
    work: Work, images: Iterable[ImageLike], ahead: int
) -> Iterator[tuple[ImageLike, Outcome]]:
    """Each image in order with the result of `work`, or the ImageError that it raised. About
    `ahead` images are begun before they are wanted."""
    pool, source = _pool(), iter(images)
    pending: deque[Future[list[tuple[ImageLike, Outcome]]]] = deque()
    begun = yielded = 0  # images
    run_here = in_threads(partial(_run_here, work))
    run_in_process = in_threads(partial(_run_in_process, pool, work))
    with threads(THREADS) as openers, threads(pool.count or 1) as senders:
        last = time.perf_counter()
        while True:
            use_processes = pool.is_ready()
            room = ahead - begun
            if use_processes:
                room += 2 * pool.chunk * pool.count
            while room > 0:
                chunk = list(islice(source, pool.chunk if use_processes else 1))
                if not chunk:
                    break
                if use_processes:
                    pending.append(senders.submit(run_in_process, chunk))
                else:
                    pending.append(openers.submit(run_here, chunk))
                begun += len(chunk)
                room -= len(chunk)
            if not pending:
                return
            wait_start = time.perf_counter()
            outcomes = pending.popleft().result()
            now = time.perf_counter()
            begun -= len(outcomes)
            yielded += len(outcomes)
            if yielded > ahead:  # at the start, callers wait in any case
                pool.record_wait(now - wait_start, now - last)
            last = now
            yield from outcomes


def disable() -> None:
    """Start no processes, because this is one of many processes that open images already."""
    _pool().count = 0


def start_and_wait() -> int:
    """Start the processes now, wait until they are ready, and return how many there are."""
    pool = _pool()
    pool.start()
    return pool.wait()


def _run_here(work: Work, images: Sequence[ImageLike]) -> list[tuple[ImageLike, Outcome]]:
    return [(image, attempt(work, image)) for image in images]


def _run_in_process(
    pool: _Pool, work: Work, images: Sequence[ImageLike]
) -> list[tuple[ImageLike, Outcome]]:
    """`_run_here` by another process. This process repeats what that one could not do: a decoder
    that a program registered with Pillow, for example, exists here only."""
    to_send, folder = [_to_send(work, image) for image in images], _current_folder()
    request = [image for image in to_send if image is not None]
    process = pool.take() if request and folder else None
    if process is None:
        return _run_here(work, images)
    start = time.perf_counter()
    try:
        answers = iter(process.ask(folder, work, request))
    except (EOFError, OSError):  # the process was killed
        pool.drop(process)
        return _run_here(work, images)
    pool.give_back(process, (time.perf_counter() - start) / len(images))
    outcomes = []
    for image, sent in zip(images, to_send, strict=True):
        answer = None if sent is None else next(answers)
        outcomes.append((image, _outcome(work, image, answer)))
    return outcomes


def _to_send(work: Work, image: ImageLike) -> ImageLike | None:
    try:
        return work.to_send(image)
    except ImageError:  # opening it in this process raises it again
        return None


def _current_folder() -> str:
    """The current folder, at which relative paths begin; empty if it was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _outcome(work: Work, image: ImageLike, answer: Answer | None) -> Outcome:
    """The outcome by a process's answer; without one, the image is opened in this process."""
    if answer is None:
        return attempt(work, image)
    pixels, data, warned = answer
    for message, category in warned:
        warn(message, category)
    return work.received(image, (pixels, data))


class _Process:
    """A worker process. One thread at a time uses it."""

    def __init__(self) -> None:
        memory = os.memfd_create("patchword")
        os.ftruncate(memory, MEMORY)
        self._shared = mmap.mmap(memory, MEMORY)
        self._pipe, worker_end = Pipe()
        descriptors = (worker_end.fileno(), memory)
        code = (
            f"import sys; sys.path[:] = {_import_paths()}; "
            f"from patchword.images import worker; worker.serve{descriptors}"
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env=os.environ | _ONE_CORE,
                start_new_session=True,  # Ctrl-C ends the process that started it, not this one
            )
        finally:
            worker_end.close()
            os.close(memory)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def is_ready(self, wait: float = 0.0) -> bool:
        """True once it has started. Raises EOFError if it ended before that."""
        if not self._pipe.poll(wait):
            return False
        self._pipe.recv()
        return True

    def ask(self, folder: str, work: Work, images: Sequence[ImageLike]) -> list[Answer | None]:
        """The answer for each image; None for an image that failed or cannot be opened there."""
        self._pipe.send((folder, work, images))
        received: list[Answer | None] = self._pipe.recv() or [None] * len(images)
        start = 0
        answers: list[Answer | None] = []
        for answer in received:
            if answer is not None and isinstance(answer[0], tuple):
                shape, data, warned = answer
                size = int(np.prod(shape))
                pixels = np.frombuffer(self._shared, np.uint8, size, start).reshape(shape)
                answer = pixels.copy(), data, warned
                start += size
            answers.append(answer)
        return answers

    def close(self) -> None:
        """Close this end of the pipe. The process ends when all copies of it are closed."""
        self._pipe.close()

    def end(self) -> None:
        self.close()
        self._process.kill()
        self._process.wait()


class _Pool:
    """The worker processes of this process. count: how many there should be; chunk: how many
    images each gets at a time."""

    def __init__(self) -> None:
        self.chunk = CHUNK
        self.count = _processors_per_rank() if _processes_are_possible() else 0
        self._lock = Lock()
        self._all: list[_Process] = []
        self._starting: list[_Process] = []
        self._free: list[_Process] = []
        self._waited = self._passed = 0.0

    def record_wait(self, waited: float, passed: float) -> None:
        """A caller waited for images for `waited` of the last `passed` seconds. Start processes if
        callers wait for long."""
        self._waited += waited
        self._passed += passed
        if self._passed > NOTICE:
            waited_long = self._waited > SHARE * self._passed
            self._waited = self._passed = 0.0
            if waited_long:
                self.start()

    def start(self) -> None:
        """Start the processes that are missing."""
        with self._lock:
            for process in [process for process in self._free if not process.is_alive]:
                self._remove(process)
            try:
                while len(self._all) < self.count:
                    process = _Process()
                    self._all.append(process)
                    self._starting.append(process)
            except OSError as error:
                self._start_no_more(str(error))

    def is_ready(self) -> bool:
        """True if at least one process has started."""
        if not self._all:
            return False
        with self._lock:
            self._check_starting()
            return len(self._starting) < len(self._all)

    def wait(self) -> int:
        """Wait until all processes have started, and return how many there are."""
        with self._lock:
            while self._starting:
                self._check_starting(wait=0.01)
            return len(self._all)

    def _check_starting(self, wait: float = 0.0) -> None:
        for process in list(self._starting):
            try:
                if process.is_ready(wait):
                    self._starting.remove(process)
                    self._free.append(process)
            except (EOFError, OSError):
                self._remove(process)
                self._start_no_more("it ended at its start")

    def take(self) -> _Process | None:
        with self._lock:
            return self._free.pop() if self._free else None

    def give_back(self, process: _Process, seconds_per_image: float) -> None:
        with self._lock:
            self._free.append(process)
            self.chunk = max(1, min(CHUNK, round(CHUNK_SECONDS / seconds_per_image)))

    def drop(self, process: _Process) -> None:
        with self._lock:
            self._remove(process)

    def end(self) -> None:
        with self._lock:
            for process in list(self._all):
                self._remove(process)

    def close(self) -> None:
        for process in self._all:
            process.close()

    def _remove(self, process: _Process) -> None:
        for processes in (self._all, self._starting, self._free):
            if process in processes:
                processes.remove(process)
        process.end()

    def _start_no_more(self, reason: str) -> None:
        self.count = len(self._all)
        if not self.count:
            warn(f"no process can be started that opens images, threads open them: {reason}")


def _processes_are_possible() -> bool:
    """True on Linux, in a program that Python runs: in a frozen application, `sys.executable` would
    start the application again. False in a child process, such as a DataLoader's."""
    runs_python = bool(sys.executable) and not hasattr(sys, "frozen")
    return hasattr(os, "memfd_create") and runs_python and parent_process() is None


def _processors_per_rank() -> int:
    """The processors, divided by the number of processes that torchrun started on this machine."""
    world_size = os.environ.get("LOCAL_WORLD_SIZE", "")
    ranks = int(world_size) if world_size.isdecimal() else 0
    return max(1, cores() // max(1, ranks))


def _import_paths() -> list[str]:
    """`sys.path` for a worker process: without relative entries, which would import from whatever
    folder is the current one."""
    paths = [path for path in sys.path if isinstance(path, str) and os.path.isabs(path)]
    return [*paths, os.path.dirname(os.path.dirname(PACKAGE))]


_pools: dict[int, _Pool] = {}  # by process id: a forked process has its own


def _pool() -> _Pool:
    return _pools.setdefault(os.getpid(), _Pool())


@atexit.register
def _end() -> None:
    if os.getpid() in _pools:
        _pools[os.getpid()].end()


def _close_in_child() -> None:
    """A forked process must not keep its parent's worker processes alive."""
    for pool in _pools.values():
        pool.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
