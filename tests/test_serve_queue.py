"""The queue of a model: batches, deadlines, errors and warnings; and the admission of requests."""

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
from patchword.serve.request_warnings import collect_warnings
from patchword.serve.settings import Settings


class BlockedRun:
    """A `run` of jobs that blocks until `free` is set, and records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.free = threading.Event()
        self.begun = threading.Event()

    def __call__(self, payloads: list[Any]) -> Sequence[Any]:
        self.batches.append(payloads)
        self.begun.set()
        self.free.wait(10)
        if "bad" in payloads:
            raise ValueError("bad")
        return [f"{payload}!" for payload in payloads]


def test_jobs_that_come_while_a_batch_runs_are_the_next_batch() -> None:
    async def work(queue: Queue, run: BlockedRun) -> None:
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

    _with_queue(work, max_items=4)


def test_a_bad_job_fails_alone() -> None:
    async def work(queue: Queue, run: BlockedRun) -> None:
        first = asyncio.ensure_future(queue.run("a", run, 0))
        await asyncio.to_thread(run.begun.wait)
        jobs = [
            asyncio.ensure_future(queue.run("a", run, payload)) for payload in ("x", "bad", "y")
        ]
        await asyncio.sleep(0.01)
        run.free.set()
        results = await asyncio.gather(first, *jobs, return_exceptions=True)
        assert [str(result) for result in results] == ["0!", "x!", "bad", "y!"]
        assert isinstance(results[2], ValueError)
        assert await queue.call(lambda: 7) == 7  # the thread goes on

    _with_queue(work)


def test_jobs_of_clients_that_left_or_are_late_are_not_run() -> None:
    async def work(queue: Queue, run: BlockedRun) -> None:
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


def test_warnings_go_to_the_request_of_their_job() -> None:
    from patchword.errors import ScopeWarning

    def warn() -> None:
        import warnings

        warnings.warn("odd", ScopeWarning, stacklevel=1)

    async def work(queue: Queue, run: BlockedRun) -> None:
        with collect_warnings() as first:
            await queue.call(warn)
            await queue.call(warn)
        with collect_warnings() as second:
            await queue.call(lambda: None)
        assert (first, second) == (["odd"], [])

    _with_queue(work)


def test_a_closed_queue_runs_waiting_jobs_and_refuses_others() -> None:
    async def work(queue: Queue, run: BlockedRun) -> None:
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


def test_close_can_wait_for_the_running_job() -> None:
    """A thread that still computed aborted the process as it ended."""

    async def work(queue: Queue, run: BlockedRun) -> None:
        first = asyncio.ensure_future(queue.run("a", run, 0))
        await asyncio.to_thread(run.begun.wait)
        threading.Timer(0.1, run.free.set).start()
        started = time.monotonic()
        queue.close(wait=10)
        assert 0.05 < time.monotonic() - started < 5
        assert await first == "0!"

    _with_queue(work)


def test_admission_refuses_items_beyond_its_limit_at_once() -> None:
    admission = Admission(10)
    with admission.admit(8):
        with pytest.raises(RefusalError, match="room for 10") as caught, admission.admit(3):
            pass
        assert caught.value.status == 429
        assert int(caught.value.headers["Retry-After"]) >= 1
        with admission.admit(2):
            assert admission.items == 10
    with admission.admit(11):  # a request of any size is admitted alone
        pass
    assert admission.items == 0


def _with_queue(work: Callable[[Queue, BlockedRun], Awaitable[None]], max_items: int = 32) -> None:
    queue = Queue("test", max_items)
    run = BlockedRun()
    try:
        asyncio.run(work(queue, run))  # type: ignore[arg-type]
    finally:
        run.free.set()
        queue.close()


@pytest.mark.parametrize("form", ["png", "numbers"])
def test_a_network_runs_only_in_the_thread_of_its_queue(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for the probabilities of texts, which a heatmap computes only on demand."""
    threads: list[str] = []

    def probable(*_: object) -> tuple[float, ...]:
        threads.append(threading.current_thread().name)
        return (1.0,)

    monkeypatch.setattr("patchword.where.heatmap._probable", probable)
    body = {"image": sent(RING), "texts": ["a ring"], "method": "cosine", "format": form}
    with TestClient(create_app(Settings(models=("demo",))), base_url=AT) as client:
        assert client.post("/v1/heatmap", json=body).status_code == 200
    assert threads == ["model demo"]
