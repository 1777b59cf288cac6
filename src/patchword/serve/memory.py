"""Memory that is free goes back to the system.

glibc keeps what was freed, in an arena for each of its threads; with photos and batches of all
sizes a server would grow for hours. `malloc_trim` gives back the pages that are free, in some
milliseconds; see malloc_trim(3).
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable

SECONDS = 5.0  # from one time to the next


async def tidy(done: Callable[[], int]) -> None:
    """Trim now and then, while the number of requests that were answered rises."""
    before = done()
    while True:
        await asyncio.sleep(SECONDS)
        if (now := done()) != before:
            before = now
            await asyncio.to_thread(trim)


def trim() -> bool:
    """Give free pages back. False where the C library is not glibc, which alone needs it."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    return hasattr(libc, "malloc_trim") and bool(libc.malloc_trim(0))
