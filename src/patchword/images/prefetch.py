"""Work done in threads before its result is wanted."""

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

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds, and of how many

T = TypeVar("T")
U = TypeVar("U")


def cores() -> int:
    """The processors that this process may use: those that it may run on, and of a container no
    more than its quota (Linux's control groups, version 2)."""
    able = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = QUOTA.read_text().split()
        most = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # "max": none
        return able or 1
    return max(1, min(able or 1, most))


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for a generator: nobody waits for their end. An abandoned generator may be ended by
    the garbage collector in any thread, also in one that is just starting and holds a lock of
    Python's that waiting for another thread needs."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], U], items: Iterable[T], count: int
) -> Iterator[U]:
    """work(item) for each, in order, at most `count` of them begun before they are wanted."""
    source, work = iter(items), in_threads(work)
    pending = deque(pool.submit(work, item) for item in islice(source, count))
    while pending:
        done = pending.popleft().result()
        pending.extend(pool.submit(work, item) for item in islice(source, 1))
        yield done
