"""Images opened by processes of their own, for whoever waits for them.

Threads that open photos take turns: decoding lets go of Python's lock, and all that is around it
does not. On many cores, more threads make small photos slower. Processes do not wait for each
other; they are started when somebody has waited for photos for a while, kept for the next, and end
when they have had nothing to do for minutes, or with the process that started them. What they
cannot do is done in a thread of that one, as all of it is where the system is not Linux.
"""

from __future__ import annotations

import atexit
import mmap
import os
import pickle
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import islice
from multiprocessing import Pipe, parent_process
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patchword.errors import PACKAGE, ImageError, in_threads, warn
from patchword.images.decode import ImageLike
from patchword.images.prefetch import cores, threads

THREADS = min(max(cores(), 4), 16)
CHUNK, WORK = 8, 0.02  # images that a process is given at a time, of so many seconds together
MEMORY = 32 << 20  # bytes for their pixels that it shares with this one; what is more is sent
IDLE = 300.0  # seconds without work after which it ends
NOTICE, SHARE = 1.0, 0.25  # they are started when of so many seconds such a part was waited

_OURS = "<string>"  # the file of the line that calls patchword in a process
_APART = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a process has one core

Found = tuple[NDArray[np.uint8], Any]  # pixels, and what else is known of the image
Attempt = tuple[ImageLike, Found | ImageError]
Answer = tuple[Any, Any, list[tuple[str, type[Warning]]]]  # the shape of pixels, or they themselves


class Work(Protocol):
    """What is done to each image. It can be sent to another process."""

    def __call__(self, image: ImageLike) -> Found:
        """Raises ImageError."""
        ...

    def sent(self, image: ImageLike) -> ImageLike | None:
        """What another process is given for an image; None: nothing, it is done in this one."""
        ...

    def received(self, image: ImageLike, found: Found) -> Found:
        """What another process found in what it was given for an image."""
        ...


def each(work: Work, images: Iterable[ImageLike], most: int) -> Iterator[Attempt]:
    """Each image in order with what `work` finds in it, or the ImageError that it raises; of about
    `most` the work is begun before they are wanted."""
    pool, source = _pool(), iter(images)
    pending: deque[Future[list[Attempt]]] = deque()
    begun = taken = 0
    here: Callable[[Sequence[ImageLike]], list[Attempt]] = in_threads(partial(_here, work))
    there: Callable[[Sequence[ImageLike]], list[Attempt]] = in_threads(partial(_there, pool, work))
    with threads(THREADS) as openers, threads(pool.count or 1) as senders:
        last = time.perf_counter()
        while True:
            helped = pool.ready()
            chunk = pool.chunk if helped else 1
            room = most + helped * 2 * chunk * pool.count - begun
            while room > 0 and (some := list(islice(source, chunk))):
                pending.append(
                    senders.submit(there, some) if helped else openers.submit(here, some)
                )
                begun, room = begun + len(some), room - len(some)
            if not pending:
                return
            waits = time.perf_counter()
            found = pending.popleft().result()
            begun, taken, now = begun - len(found), taken + len(found), time.perf_counter()
            if taken > most:  # not what begins
                pool.note(now - waits, now - last)
            last = now
            yield from found


def alone() -> None:
    """Start no processes: this is one of many that open images already."""
    _pool().count = 0


def started() -> int:
    """Start the processes now, wait until they can be used, and say how many there are."""
    pool = _pool()
    pool.start()
    return pool.wait()


def _here(work: Work, images: Sequence[ImageLike]) -> list[Attempt]:
    return [(image, _found(work, image)) for image in images]


def _found(work: Work, image: ImageLike) -> Found | ImageError:
    try:
        return work(image)
    except ImageError as error:
        return error


def _there(pool: _Pool, work: Work, images: Sequence[ImageLike]) -> list[Attempt]:
    """The same by another process, and here what it could not do: whatever was made known to this
    process, as a decoder of Pillow's, is known here alone."""
    given, folder = [_sent(work, image) for image in images], _folder()
    asked = [image for image in given if image is not None]
    process = pool.take() if asked and folder else None
    if process is None:
        return _here(work, images)
    begins = time.perf_counter()
    try:
        answers = process.ask(folder, work, asked)
    except (EOFError, OSError):  # somebody ended it
        pool.drop(process)
        return _here(work, images)
    pool.free(process, (time.perf_counter() - begins) / len(images))
    rest = iter(answers)
    each = zip(images, [None if image is None else next(rest) for image in given], strict=True)
    return [(image, _received(work, image, answer)) for image, answer in each]


def _sent(work: Work, image: ImageLike) -> ImageLike | None:
    try:
        return work.sent(image)
    except ImageError:  # which it raises here
        return None


def _folder() -> str:
    """The current folder, which relative paths begin at; empty where somebody has deleted it."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _received(work: Work, image: ImageLike, answer: Answer | None) -> Found | ImageError:
    if answer is None:
        return _found(work, image)
    pixels, known, told = answer
    for message, category in told:
        warn(message, category)
    return work.received(image, (pixels, known))


class _Process:
    """A process that opens images; one thread asks it at a time."""

    def __init__(self) -> None:
        memory = os.memfd_create("patchword")
        os.ftruncate(memory, MEMORY)
        self._shared = mmap.mmap(memory, MEMORY)
        self._pipe, theirs = Pipe()
        given = (theirs.fileno(), memory)
        code = f"import sys; sys.path[:] = {_paths()}; from patchword.images import processes; "
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{code}processes.serve{given}"],
                stdin=subprocess.DEVNULL,
                pass_fds=given,
                env=os.environ | _APART,
                start_new_session=True,  # Ctrl-C is for the one that asks
            )
        finally:
            theirs.close()
            os.close(memory)

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def begun(self, wait: float = 0.0) -> bool:
        """Whether it can be asked. Raises EOFError where it ended before that."""
        if not self._pipe.poll(wait):
            return False
        self._pipe.recv()
        return True

    def ask(self, folder: str, work: Work, images: Sequence[ImageLike]) -> list[Answer | None]:
        """What it found in each image; None for what is to be done here, as what fails is."""
        self._pipe.send((folder, work, images))
        answers: list[Answer | None] = self._pipe.recv() or [None] * len(images)
        start, out = 0, []
        for answer in answers:
            if answer and isinstance(answer[0], tuple):
                size = int(np.prod(answer[0]))
                pixels = np.frombuffer(self._shared, np.uint8, size, start).reshape(answer[0])
                start, answer = start + size, (pixels.copy(), *answer[1:])
            out.append(answer)
        return out

    def let_go(self) -> None:
        """It ends when all who could ask it have let it go."""
        self._pipe.close()

    def end(self) -> None:
        self.let_go()
        self._process.kill()
        self._process.wait()


class _Pool:
    """The processes that a process has started. count: how many there are to be; chunk: how many
    images each is given at a time."""

    def __init__(self) -> None:
        self.chunk = CHUNK
        self.count = _share() if _possible() else 0
        self._lock = Lock()
        self._all: list[_Process] = []
        self._starting: list[_Process] = []
        self._free: list[_Process] = []
        self._waited = self._passed = 0.0

    def note(self, waited: float, passed: float) -> None:
        """Somebody who wants images waited for so many seconds of those that passed."""
        self._waited, self._passed = self._waited + waited, self._passed + passed
        if self._passed > NOTICE:
            worth = self._waited > SHARE * self._passed
            self._waited = self._passed = 0.0
            if worth:
                self.start()

    def start(self) -> None:
        """Start those that are not there."""
        with self._lock:
            for process in [each for each in self._free if not each.lives]:
                self._forget(process)
            try:
                while len(self._all) < self.count:
                    process = _Process()
                    self._all.append(process)
                    self._starting.append(process)
            except OSError as error:
                self._fail(str(error))

    def ready(self) -> bool:
        """Whether there is one that can be asked, now or soon."""
        if not self._all:
            return False
        with self._lock:
            self._look()
            return len(self._starting) < len(self._all)

    def wait(self) -> int:
        """Wait for those that are starting; how many there are then."""
        with self._lock:
            while self._starting:
                self._look(wait=0.01)
            return len(self._all)

    def _look(self, wait: float = 0.0) -> None:
        for process in list(self._starting):
            try:
                if process.begun(wait):
                    self._starting.remove(process)
                    self._free.append(process)
            except (EOFError, OSError):
                self._forget(process)
                self._fail("it ended at its start")

    def take(self) -> _Process | None:
        with self._lock:
            return self._free.pop() if self._free else None

    def free(self, process: _Process, pace: float) -> None:
        """It has answered. pace: seconds an image."""
        with self._lock:
            self._free.append(process)
            self.chunk = max(1, min(CHUNK, round(WORK / pace)))

    def drop(self, process: _Process) -> None:
        with self._lock:
            self._forget(process)

    def end(self) -> None:
        with self._lock:
            for process in list(self._all):
                self._forget(process)

    def let_go(self) -> None:
        for process in self._all:
            process.let_go()

    def _forget(self, process: _Process) -> None:
        for some in (self._all, self._starting, self._free):
            if process in some:
                some.remove(process)
        process.end()

    def _fail(self, reason: str) -> None:
        """There are to be no more than there are."""
        self.count = len(self._all)
        if not self.count:
            warn(f"no process can be started that opens images, threads open them: {reason}")


def _possible() -> bool:
    """Whether this system has what is needed, and Python a program of its own: that of a frozen
    application would be started again. One of many, as of a DataLoader, starts none."""
    python = bool(sys.executable) and not hasattr(sys, "frozen")
    return hasattr(os, "memfd_create") and python and parent_process() is None


def _share() -> int:
    """Processors for each of those that torchrun started on this machine."""
    several = os.environ.get("LOCAL_WORLD_SIZE", "")
    ranks = int(several) if several.isdecimal() else 0
    return max(1, cores() // max(1, ranks))


def _paths() -> list[str]:
    """Where a process finds what it imports: as this one, but not in the current folder, which may
    be another by now and hold anything."""
    paths = [path for path in sys.path if isinstance(path, str) and os.path.isabs(path)]
    return [*paths, os.path.dirname(os.path.dirname(PACKAGE))]


_pools: dict[int, _Pool] = {}  # by process: what is forked has its own


def _pool() -> _Pool:
    return _pools.setdefault(os.getpid(), _Pool())


@atexit.register
def _end() -> None:
    if os.getpid() in _pools:
        _pools[os.getpid()].end()


def _let_go() -> None:
    """What is forked holds no processes of others alive."""
    for pool in _pools.values():
        pool.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def serve(pipe: int, memory: int) -> None:
    """The work of a process: answers until it is not asked any more. pipe, memory: descriptors."""
    shared = mmap.mmap(memory, MEMORY)
    with Connection(pipe) as asked, suppress(EOFError, OSError):
        asked.send(None)
        while asked.poll(IDLE):
            asked.send(_done(asked.recv_bytes(), shared))


def _done(request: bytes, shared: mmap.mmap) -> list[Answer | None]:
    """The answers to a request of `ask`; none where that fails, also because patchword was
    installed anew in between. What fails is done again by the one that asks, and raises there."""
    try:
        folder, work, images = pickle.loads(request)
        os.chdir(folder)
        return list(_answers(work, images, shared))
    except Exception:  # whatever it is, the one that asks does it again, and tells of it
        return []


def _answers(work: Work, images: Iterable[ImageLike], shared: mmap.mmap) -> Iterator[Answer | None]:
    start = 0
    for image in images:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = _found(work, image)
        # Warnings of other libraries name their own lines, which filters are for.
        if isinstance(found, ImageError) or any(each.filename != _OURS for each in told):
            yield None
            continue
        pixels, known = found
        said = [(str(each.message), each.category) for each in told]
        if start + pixels.nbytes > MEMORY:
            yield pixels, known, said
            continue
        np.frombuffer(shared, np.uint8, pixels.size, start)[:] = pixels.ravel()
        start += pixels.nbytes
        yield pixels.shape, known, said
