"""Batches that a network on a CPU computes at the same time, each in a share of torch's threads.

All threads of a product wait until the slowest has done its part, and spin meanwhile. If processes
that open images, or another program, take one of the cores, they wait most of the time. Streams do
not wait for each other.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

from patchword.errors import in_threads

MOST = 4  # streams at a time; each holds the activations of a batch

T = TypeVar("T")
U = TypeVar("U")

_pools: dict[int, ThreadPoolExecutor] = {}  # by torch's threads
_lock = threading.Lock()


def in_streams(work: Callable[[T], U], batches: Iterable[T]) -> Iterator[U]:
    """work(batch) for each batch, in order. The first is computed with all threads, because it may
    be the only one; of the others, some are computed before they are wanted."""
    source = iter(batches)
    yield from map(work, islice(source, 1))
    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(work, source)
        return
    pool, work = _pool(threads), in_threads(work)
    count = min(threads, MOST) + 1  # one more waits, for the stream that is done first
    pending: deque[Future[U]] = deque()
    try:
        pending.extend(pool.submit(work, batch) for batch in islice(source, count))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(work, batch) for batch in islice(source, 1))
            yield result
    finally:
        for future in pending:
            future.cancel()


def _pool(threads: int) -> ThreadPoolExecutor:
    """The streams that share so many of torch's threads."""
    with _lock:
        if threads not in _pools:
            count = min(threads, MOST)
            started = threading.Barrier(count + 1)

            def start() -> None:
                torch.get_num_threads()  # torch sets the number of a new thread when it is first used
                torch.set_num_threads(threads // count)
                started.wait()

            pool = ThreadPoolExecutor(count, "patchword-stream", start)
            for _ in range(count):
                pool.submit(int)  # starts a thread, because none is free
            started.wait()
            torch.set_num_threads(threads)  # of this thread, and of others that begin to use torch
            _pools[threads] = pool
        return _pools[threads]


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _pools.clear()  # a fork copies no threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
