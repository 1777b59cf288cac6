"""Free memory is returned to the system.

glibc keeps freed memory in an arena for each thread; with photos and batches of all sizes a server
would grow for hours. `malloc_trim` returns the free pages within milliseconds; see malloc_trim(3).
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable

SECONDS = 5.0  # between two trims


async def trim_regularly(answered: Callable[[], int]) -> None:
    """Trim every few seconds in which requests were answered. answered: their number so far."""
    before = answered()
    while True:
        await asyncio.sleep(SECONDS)
        now = answered()
        if now != before:
            before = now
            await asyncio.to_thread(trim)


def trim() -> None:
    """Return free pages to the system. Does nothing if the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
