"""Signals that end a run after its current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Context in which SIGTERM and Ctrl-C do not end the process; a second one does. Gives a
    function that returns whether one received."""
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return

    def handle(number: int, frame: object) -> None:
        received.set()
        signal.signal(number, before[signal.Signals(number)])

    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    for kind in kinds:
        signal.signal(kind, handle)
    try:
        yield received.is_set
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])
