"""Memory of a training process."""

from __future__ import annotations

import ctypes
import sys

# Of glibc's <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_memory() -> bool:
    """Have this process keep the memory that it frees; whether that could be arranged.

    A training step makes and frees the same large tensors again and again. glibc maps each of them
    afresh and hands it back, so the system has to zero and fault in every page of every step:
    some 100,000 page faults, a few percent of a step's time, for CLIP ViT-B/32 at batch 32. After
    this call allocations are never mapped (M_MMAP_MAX 0) and the heap never shrinks
    (M_TRIM_THRESHOLD -1), see mallopt(3): what a step frees, the next one uses. The process then
    stays as large as it has once been, which suits training and not a server.

    To be called once, before the first step; what is allocated already stays as it is. Does
    nothing, and says False, where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")):
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, -1))
