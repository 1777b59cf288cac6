"""How the network is being run, for what is faster in one way alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def unrounded(device: torch.device) -> torch.autocast:
    """Without the autocast of a program around, for what is computed on that device: its answers
    would be others, and be kept as those of the weights' own type."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """Inference mode, `unrounded`."""
    with torch.inference_mode(), unrounded(device):
        yield


def eager_inference() -> bool:
    """True in inference mode, which records no gradients, outside a graph that is compiled or
    exported: there a compiler chooses the kernels, and may not meet this question."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
