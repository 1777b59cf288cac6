"""Batches that a network on a CPU computes at the same time, each in a share of torch's threads.

All threads of a product wait until the slowest has done its part, and spin meanwhile. If processes
that open images, or another program, take one of the cores, they wait most of the time. Streams do
not wait for each other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

import torch

from patchword.images.prefetch import ahead

MOST = 4  # streams at a time
PART = 8  # images at a time for each thread of a stream: more are not sooner done

T = TypeVar("T")
U = TypeVar("U")

_pools: dict[int, ThreadPoolExecutor] = {}  # by torch's threads
_lock = threading.Lock()


def in_turn(work: Callable[[list[T]], U], items: Iterable[T], size: int) -> Iterator[U]:
    """`work` of batches of so many items, one after the other."""
    return map(work, _batches(items, size))


def in_streams(work: Callable[[list[T]], U], items: Iterable[T], size: int) -> Iterator[U]:
    """`work` of batches of at most so many items, in order. Several are computed at the same time,
    and some before they are wanted. If there is one alone, it gets all threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield from in_turn(work, items, size)
        return
    count = min(threads, MOST)
    batches = _batches(items, min(size, PART * (threads // count)))
    first = list(islice(batches, 2))
    if len(first) == 1:
        yield work(first[0])
        return
    # One more than streams waits, for the stream that is done first.
    yield from ahead(_pool(threads), work, chain(first, batches), count + 1)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def _pool(threads: int) -> ThreadPoolExecutor:
    """The streams that share so many of torch's threads."""
    with _lock:
        if threads not in _pools:
            count = min(threads, MOST)
            started = threading.Barrier(count + 1)

            def start() -> None:
                torch.get_num_threads()  # the first use in a thread sets the number
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
