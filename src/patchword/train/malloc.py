"""The memory of a training process: glibc's settings for it, and how much it was."""

from __future__ import annotations

import ctypes
import math
import sys

import torch

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

# Of glibc's <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_memory() -> bool:
    """Let this process keep the memory that it frees; returns whether that was possible.

    A training step allocates and frees the same large tensors again and again. glibc maps each of
    them anew and unmaps it, and the system has to fill every page with zeros in every step: some
    100,000 page faults, a few percent of a step's time, for CLIP ViT-B/32 at batch 32. After this
    call allocations never use mmap (M_MMAP_MAX 0) and the heap never shrinks (M_TRIM_THRESHOLD -1),
    see mallopt(3): each step reuses the memory of the one before. The process never becomes smaller
    than it once was, which is right for training and not for a server.

    To be called once, before the first step. Does nothing and returns False where the C library is
    not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")):
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, -1))


def peak_memory(device: torch.device) -> float:
    """The most memory in use so far, in GB: of the GPU, or of this process; NaN for the latter on
    Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if resource is None:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
