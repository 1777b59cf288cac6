"""Work for one model: what came while the last batch ran is the next batch.

Nothing waits for a batch to fill: one client gets its answer as soon as the network is free, and of
many clients the more are run together the busier it is.
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
from patchword.serve.request_warnings import heard, say

T = TypeVar("T")
Run = Callable[[list[Any]], Sequence[Any]]  # payloads -> a result, or an exception, for each
Observe = Callable[[int, float], None]  # (items of a batch, seconds that it took)

deadline: ContextVar[float | None] = ContextVar("deadline", default=None)  # time.monotonic()


@dataclass(eq=False)
class Job:
    """One piece of work. Jobs of the same key are run together, by the first one's `run`; weight:
    how many items it has."""

    key: Hashable
    run: Run
    payload: Any
    weight: int
    until: float | None
    future: asyncio.Future[Any]
    said: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        late = self.until is not None and time.monotonic() > self.until
        return not (self.future.done() or late)


class Queue:
    """A thread that runs jobs, the oldest first, together with those of the same key."""

    def __init__(self, name: str, most: int, observe: Observe | None = None) -> None:
        """most: items of a batch."""
        self._most = most
        self._observe = observe
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, name=f"model {name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        """Whether it takes no more jobs."""
        return not self._open

    async def run(self, key: Hashable, run: Run, payload: Any, weight: int = 1) -> Any:
        """The result of a job. Raises what it raised, and RefusalError for one that is not done in
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
            say(job.said)

    async def call(self, function: Callable[[], T]) -> T:
        """The result of a function that is run by itself."""
        result: T = await self.run(object(), lambda _: [function()], None)
        return result

    def close(self, wait: float = 0) -> None:
        """End the thread when it has run what waits. wait: seconds for that, before a process ends:
        a thread that is in the middle of it then would abort the process."""
        with self._changed:
            self._open = False
            self._changed.notify()
        if wait:
            self._thread.join(wait)

    def _work(self) -> None:
        while batch := self._next():
            started = time.perf_counter()
            with heard() as messages:
                results = _results(batch)
            if self._observe:
                self._observe(sum(job.weight for job in batch), time.perf_counter() - started)
            for job, result in zip(batch, results, strict=True):
                job.said = messages
                _deliver(job, result)
            del batch, results  # no image is kept while the thread waits

    def _next(self) -> list[Job]:
        """The oldest job that is wanted, and those of its key; none when the queue is closed."""
        with self._changed:
            while True:
                self._waiting = [job for job in self._waiting if job.wanted]
                if self._waiting:
                    return self._taken()
                if not self._open:
                    return []
                self._changed.wait()

    def _taken(self) -> list[Job]:
        key, room = self._waiting[0].key, self._most
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
    """A result or an exception for each job. Where a batch fails its jobs are run one by one, so
    that a bad one fails alone; whatever it raises goes to who asked, and the thread lives on."""
    try:
        return batch[0].run([job.payload for job in batch])
    except Exception as error:
        if len(batch) == 1:
            return [error]
        return [_results([job])[0] for job in batch]


def _deliver(job: Job, result: Any) -> None:
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
    """A result, unless the request's time is over before it is there."""
    until = deadline.get()
    try:
        return await asyncio.wait_for(future, until and max(until - time.monotonic(), 0))
    except TimeoutError:
        raise _late() from None


def share(part: float) -> float | None:
    """Seconds: a part of the time that is left of this request; None: it has no end."""
    until = deadline.get()
    return None if until is None else max(part * (until - time.monotonic()), 0.001)


def steps() -> Callable[[int, int], None]:
    """What long work of this request calls between its steps, with how many are done and all of
    them: it ends the work when the time is over."""
    until = deadline.get()

    def step(done: int, total: int) -> None:
        if until is not None and time.monotonic() > until:
            raise _late()

    return step


def _late() -> RefusalError:
    message = "the request could not be answered in time; send less, or later"
    return RefusalError(503, "deadline", message, retry_after=1)


class Admission:
    """How many items are being worked on, and a refusal of more than there is room for."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.items = 0
        self.rate = 0.0  # items a second, lately

    @contextmanager
    def of(self, count: int) -> Iterator[None]:
        """Room for `count` items. Raises RefusalError at once where there is none."""
        if self.items and self.items + count > self.most:
            seconds = self.items / self.rate if self.rate else 1
            raise RefusalError(
                429,
                "busy",
                f"{self.items} images and texts are being worked on, and there is room for "
                f"{self.most}: send the request again later",
                retry_after=min(max(round(seconds), 1), 60),
            )
        self.items += count
        started = time.monotonic()
        try:
            yield
        finally:
            spent = max(time.monotonic() - started, 1e-3)
            self.rate += 0.1 * (self.items / spent - self.rate)  # Little's law
            self.items -= count
