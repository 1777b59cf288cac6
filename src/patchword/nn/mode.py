"""How the network is being run, for what is faster in one way alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_computed = False  # whether this process, or one that it was forked from, has computed
_forked = False  # whether it was forked from one that had, and has not computed since


def unrounded(device: torch.device) -> torch.autocast:
    """Without the autocast of a program around, for what is computed on that device: its answers
    would be others, and be kept as those of the weights' own type."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """Inference mode, `unrounded`. A process that was forked from one that had computed does so on
    one thread: OpenMP's others are not there, and it would wait for them without end."""
    global _computed, _forked
    if _forked:
        torch.set_num_threads(1)
    _computed, _forked = True, False
    with torch.inference_mode(), unrounded(device):
        yield


def eager_inference() -> bool:
    """True in inference mode, which records no gradients, outside a graph that is compiled or
    exported: there a compiler chooses the kernels, and may not meet this question."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def _note_fork() -> None:
    global _forked
    _forked = _computed


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
