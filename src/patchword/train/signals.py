"""Signals that end a run after its current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """A function that returns whether SIGTERM or Ctrl-C came, which inside this context do not end
    the process; a second Ctrl-C does."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return

    def note(number: int, frame: object) -> None:
        came.set()
        signal.signal(number, before[signal.Signals(number)])

    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    for kind in kinds:
        signal.signal(kind, note)
    try:
        yield came.is_set
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])
