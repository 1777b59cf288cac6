"""Work done in threads before its result is wanted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from patchword.errors import in_threads

T = TypeVar("T")
U = TypeVar("U")


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
