"""Threads that compute results before they are needed, and how many processors there are."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from patchword.errors import in_threads

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: "quota period", microseconds

T = TypeVar("T")
U = TypeVar("U")


def cores() -> int:
    """The number of processors that this process may use: those that it may run on, at most a
    container's quota (Linux's control groups, version 2)."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        limit = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # "max": there is no quota
        return count
    return max(1, min(count, limit))


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads for a generator, whose end is not waited for. The garbage collector may end
    an abandoned generator in any thread. That thread may be starting and hold a lock of Python that
    waiting for another thread needs."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], U], items: Iterable[T], count: int
) -> Iterator[U]:
    """work(item) for each item, in order. At most `count` are begun before they are needed; those
    that nobody needs any more are not begun."""
    source, work = iter(items), in_threads(work)
    pending = deque(pool.submit(work, item) for item in islice(source, count))
    try:
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(work, item) for item in islice(source, 1))
            yield result
    finally:
        for future in pending:
            future.cancel()
