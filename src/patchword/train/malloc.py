"""The memory of a training process: glibc's settings, and the peak."""

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
    """Let this process keep the memory that it frees. Returns whether that was possible.

    A training step allocates and frees the same large tensors again and again. glibc maps and
    unmaps each of them, and the system fills every page with zeros in every step: some 100,000 page
    faults, a few percent of a step's time, for CLIP ViT-B/32 at batch 32. After this call
    allocations never use mmap (M_MMAP_MAX 0) and the heap never shrinks (M_TRIM_THRESHOLD -1), see
    mallopt(3): each step reuses the memory of the last one. The process never becomes smaller
    again, which suits training, but not a server.

    To be called once, before the first step. Returns False, and does nothing, if the C library is
    not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")):
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, -1))


def peak_memory(device: torch.device) -> float:
    """The most memory in use so far, in GB: on the GPU, or by this process for a CPU. NaN for a CPU
    on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if resource is None:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
