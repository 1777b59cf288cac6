"""Work for one model, in batches: what arrived while one batch ran is the next batch.

No request waits for a batch to fill. A single client gets its answer as soon as the network is
free; with many clients the batches grow.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from patchword.serve.error_responses import RefusalError
from patchword.serve.request_warnings import add_warnings, collect_warnings

T = TypeVar("T")
Run = Callable[[list[Any]], Sequence[Any]]  # payloads -> a result, or an exception, for each
Observe = Callable[[int, float], None]  # (items of a batch, seconds that it took)

deadline: ContextVar[float | None] = ContextVar("deadline", default=None)  # time.monotonic()


@dataclass(eq=False)
class Job:
    """One piece of work. Jobs with the same key are run together, by the first job's `run`.

    weight    number of items
    deadline  by time.monotonic(); None: there is none
    warnings  those of its batch
    """

    key: Hashable
    run: Run
    payload: Any
    weight: int
    deadline: float | None
    future: asyncio.Future[Any]
    warnings: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for the result."""
        late = self.deadline is not None and time.monotonic() > self.deadline
        return not (self.future.done() or late)


class Queue:
    """A thread that runs jobs, the oldest first, together with those of the same key."""

    def __init__(self, name: str, max_items: int, observe: Observe | None = None) -> None:
        """max_items: of a batch."""
        self._max_items = max_items
        self._observe = observe
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, name=f"model {name}", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether new jobs are refused."""
        return not self._open

    async def run(self, key: Hashable, run: Run, payload: Any, weight: int = 1) -> Any:
        """The result of a job. Raises its exception, and RefusalError for a job that is not done in
        time."""
        future = asyncio.get_running_loop().create_future()
        job = Job(key, run, payload, weight, deadline.get(), future)
        with self._changed:
            if not self._open:
                message = "the model was closed; send the request again"
                raise RefusalError(503, "closing", message, retry_after=1)
            self._waiting.append(job)
            self._changed.notify()
        try:
            return await in_time(future)
        finally:
            add_warnings(job.warnings)

    async def call(self, function: Callable[[], T]) -> T:
        """The result of a function, which is run in a batch of its own."""
        result: T = await self.run(object(), lambda _: [function()], None)
        return result

    def close(self, wait: float = 0) -> None:
        """Refuse new jobs, and end the thread after those that wait.

        wait  seconds to wait for the thread. Needed before the process ends: a thread that still
              computes then would abort the process.
        """
        with self._changed:
            self._open = False
            self._changed.notify()
        if wait:
            self._thread.join(wait)

    def _work(self) -> None:
        while batch := self._next_batch():
            started = time.perf_counter()
            with collect_warnings() as messages:
                results = _results(batch)
            if self._observe:
                self._observe(sum(job.weight for job in batch), time.perf_counter() - started)
            for job, result in zip(batch, results, strict=True):
                job.warnings = messages
                _deliver(job, result)
            del batch, results  # frees the images while the thread waits

    def _next_batch(self) -> list[Job]:
        """The oldest wanted job, and others with its key; empty when the queue is closed."""
        with self._changed:
            while True:
                self._waiting = [job for job in self._waiting if job.wanted]
                if self._waiting:
                    return self._take_batch()
                if not self._open:
                    return []
                self._changed.wait()

    def _take_batch(self) -> list[Job]:
        key, room = self._waiting[0].key, self._max_items
        batch: list[Job] = []
        rest: list[Job] = []
        for job in self._waiting:
            if job.key == key and (not batch or job.weight <= room):
                batch.append(job)
                room -= job.weight
            else:
                rest.append(job)
        self._waiting = rest
        return batch


def _results(batch: Sequence[Job]) -> Sequence[Any]:
    """A result or an exception for each job. The jobs of a batch that fails are run one by one, so
    that a bad job fails alone. No exception ends the thread."""
    try:
        return batch[0].run([job.payload for job in batch])
    except Exception as error:
        if len(batch) == 1:
            return [error]
        return [_results([job])[0] for job in batch]


def _deliver(job: Job, result: Any) -> None:
    """Set the result in the event loop of the job."""

    def deliver() -> None:
        if job.future.done():
            return
        if isinstance(result, BaseException):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)

    loop = job.future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(deliver)


async def in_time(future: asyncio.Future[T]) -> T:
    """The result of a future. Raises RefusalError at the request's deadline."""
    until = deadline.get()
    seconds = None if until is None else max(until - time.monotonic(), 0)
    try:
        return await asyncio.wait_for(future, seconds)
    except TimeoutError:
        raise _deadline_error() from None


def remaining_seconds(share: float) -> float | None:
    """A share, 0 to 1, of the time until the request's deadline; None: there is no deadline."""
    until = deadline.get()
    return None if until is None else max(share * (until - time.monotonic()), 0.001)


def deadline_progress() -> Callable[[int, int], None]:
    """A progress callback (steps done, all steps) for long work of this request. It raises
    RefusalError after the deadline."""
    until = deadline.get()

    def progress(done: int, total: int) -> None:
        if until is not None and time.monotonic() > until:
            raise _deadline_error()

    return progress


def _deadline_error() -> RefusalError:
    message = "the request could not be answered in time; send less, or later"
    return RefusalError(503, "deadline", message, retry_after=1)


class Admission:
    """Counts the items that are being worked on, and refuses more than there is room for."""

    def __init__(self, max_items: int) -> None:
        self.max_items = max_items
        self.items = 0
        self.rate = 0.0  # items a second, a moving average

    @contextmanager
    def admit(self, count: int) -> Iterator[None]:
        """Count `count` items during the block. Raises RefusalError at once where there is no room;
        a request of any size is admitted alone."""
        if self.items and self.items + count > self.max_items:
            seconds = self.items / self.rate if self.rate else 1
            raise RefusalError(
                429,
                "busy",
                f"{self.items} images and texts are being worked on, and there is room for "
                f"{self.max_items}: send the request again later",
                retry_after=min(max(round(seconds), 1), 60),
            )
        self.items += count
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = max(time.monotonic() - started, 1e-3)
            self.rate += 0.1 * (self.items / seconds - self.rate)  # Little's law
            self.items -= count
