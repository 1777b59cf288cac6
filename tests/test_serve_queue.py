"""What a queue promises: batches of what came meanwhile, and nothing done for nobody."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from local_server import AT, RING, sent

from patchword.serve.app import create_app
from patchword.serve.error_responses import RefusalError
from patchword.serve.queue import Admission, Queue, deadline
from patchword.serve.request_warnings import heard
from patchword.serve.settings import Settings


class Work:
    """A job that waits until it may go on, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.free = threading.Event()
        self.begun = threading.Event()

    def __call__(self, payloads: list[Any]) -> Sequence[Any]:
        self.batches.append(payloads)
        self.begun.set()
        self.free.wait(10)
        if any(one == "bad" for one in payloads):
            raise ValueError("bad")
        return [f"{one}!" for one in payloads]


def test_a_batch_is_what_came_while_the_last_one_ran() -> None:
    async def work(queue: Queue, run: Work) -> None:
        first = asyncio.ensure_future(queue.run("a", run, 0))
        await asyncio.to_thread(run.begun.wait)
        rest = [asyncio.ensure_future(queue.run("a", run, n)) for n in range(1, 6)]
        other = asyncio.ensure_future(queue.run("b", run, "other"))
        await asyncio.sleep(0.01)
        run.free.set()
        assert await first == "0!"
        assert await asyncio.gather(*rest) == [f"{n}!" for n in range(1, 6)]
        assert await other == "other!"
        assert run.batches == [[0], [1, 2, 3, 4], [5], ["other"]] or run.batches == [
            [0], [1, 2, 3, 4], ["other"], [5],
        ]  # fmt: skip

    _with_queue(work, most=4)


def test_a_bad_job_fails_alone() -> None:
    async def work(queue: Queue, run: Work) -> None:
        first = asyncio.ensure_future(queue.run("a", run, 0))
        await asyncio.to_thread(run.begun.wait)
        jobs = [asyncio.ensure_future(queue.run("a", run, one)) for one in ("x", "bad", "y")]
        await asyncio.sleep(0.01)
        run.free.set()
        found = await asyncio.gather(first, *jobs, return_exceptions=True)
        assert [str(one) for one in found] == ["0!", "x!", "bad", "y!"]
        assert isinstance(found[2], ValueError)
        assert await queue.call(lambda: 7) == 7  # and the thread lives

    _with_queue(work)


def test_who_left_or_is_late_costs_nothing() -> None:
    async def work(queue: Queue, run: Work) -> None:
        first = asyncio.ensure_future(queue.run("a", run, 0))
        await asyncio.to_thread(run.begun.wait)
        left = asyncio.ensure_future(queue.run("a", run, "left"))
        await asyncio.sleep(0)
        left.cancel()
        deadline.set(time.monotonic() + 0.05)
        with pytest.raises(RefusalError, match="in time") as caught:
            await queue.run("a", run, "late")
        assert (caught.value.status, caught.value.code) == (503, "deadline")
        deadline.set(None)
        stays = asyncio.ensure_future(queue.run("a", run, "stays"))
        await asyncio.sleep(0)
        run.free.set()
        assert await stays == "stays!"
        assert await first == "0!"
        assert run.batches == [[0], ["stays"]]

    _with_queue(work)


def test_warnings_go_to_who_asked() -> None:
    from patchword.errors import ScopeWarning

    def warn() -> None:
        import warnings

        warnings.warn("odd", ScopeWarning, stacklevel=1)

    async def work(queue: Queue, run: Work) -> None:
        with heard() as first:
            await queue.call(warn)
            await queue.call(warn)
        with heard() as second:
            await queue.call(lambda: None)
        assert (first, second) == (["odd"], [])

    _with_queue(work)


def test_a_closed_queue_does_what_waits_and_refuses_more() -> None:
    async def work(queue: Queue, run: Work) -> None:
        first = asyncio.ensure_future(queue.run("a", run, 0))
        await asyncio.to_thread(run.begun.wait)
        second = asyncio.ensure_future(queue.run("a", run, 1))
        await asyncio.sleep(0)
        queue.close()
        run.free.set()
        assert await asyncio.gather(first, second) == ["0!", "1!"]
        with pytest.raises(RefusalError, match="closed"):
            await queue.run("a", run, 2)

    _with_queue(work)


def test_a_server_that_ends_waits_for_what_runs() -> None:
    """A thread in the middle of a network's work aborted the process as it ended."""

    async def work(queue: Queue, run: Work) -> None:
        first = asyncio.ensure_future(queue.run("a", run, 0))
        await asyncio.to_thread(run.begun.wait)
        threading.Timer(0.1, run.free.set).start()
        started = time.monotonic()
        queue.close(wait=10)
        assert 0.05 < time.monotonic() - started < 5
        assert await first == "0!"

    _with_queue(work)


def test_more_than_there_is_room_for_is_refused_at_once() -> None:
    room = Admission(10)
    with room.of(8):
        with pytest.raises(RefusalError, match="room for 10") as caught, room.of(3):
            pass
        assert caught.value.status == 429
        assert int(caught.value.headers["Retry-After"]) >= 1
        with room.of(2):
            assert room.items == 10
    with room.of(11):  # alone, a request of any size is let in
        pass
    assert room.items == 0


def _with_queue(work: Callable[[Queue, Work], Awaitable[None]], most: int = 32) -> None:
    queue = Queue("test", most)
    run = Work()
    try:
        asyncio.run(work(queue, run))  # type: ignore[arg-type]
    finally:
        run.free.set()
        queue.close()


@pytest.mark.parametrize("form", ["png", "numbers"])
def test_a_network_runs_in_the_thread_of_its_queue_alone(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for how probable texts are in a photo, which a heatmap computes when it is asked."""
    threads: list[str] = []

    def probable(*_: object) -> tuple[float, ...]:
        threads.append(threading.current_thread().name)
        return (1.0,)

    monkeypatch.setattr("patchword.where.heatmap._probable", probable)
    body = {"image": sent(RING), "texts": ["a ring"], "method": "cosine", "format": form}
    with TestClient(create_app(Settings(models=("demo",))), base_url=AT) as client:
        assert client.post("/v1/heatmap", json=body).status_code == 200
    assert threads == ["model demo"]
