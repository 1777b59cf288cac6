"""How the network is being run, for what is faster in one way alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_computed = False  # whether this process, or one that it was forked from, has computed
_forked = False  # whether it was forked from one that had, and has not computed since
_lock = threading.Lock()
_evaluated: dict[nn.Module, tuple[int, list[nn.Module]]] = {}  # uses now, modules to put back


def unrounded(device: torch.device) -> torch.autocast:
    """Without the autocast of a program around, for what is computed on that device: its answers
    would be others, and be kept as those of the weights' own type."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def evaluation(network: nn.Module) -> Iterator[None]:
    """A network in evaluation mode. Modules that were in training mode are in it again when no
    thread uses the network any more. In training mode batch norms would make the answer for an
    image depend on the others, and be changed by them."""
    with _lock:
        uses, training = _evaluated.get(network, (0, []))
        found = _training(network)
        _evaluated[network] = uses + 1, training + found
        for module in found:
            module.training = False
    try:
        yield
    finally:
        with _lock:
            uses, training = _evaluated.pop(network, (0, []))  # none: forked meanwhile
            if uses > 1:
                _evaluated[network] = uses - 1, training
            else:
                _train(training)


def _train(modules: list[nn.Module]) -> None:
    for module in modules:
        module.training = True


def _training(network: nn.Module) -> list[nn.Module]:
    """The modules that are in training mode: as of `modules()`, in a fifth of its time."""
    every: list[nn.Module | None] = [network]
    for module in every:  # which grows
        if module is not None:
            every.extend(module._modules.values())
    return [module for module in every if module is not None and module.training]


@contextmanager
def inference(network: nn.Module) -> Iterator[None]:
    """Inference mode, `evaluation`, `unrounded`. A process that was forked from one that had
    computed does so on one thread: OpenMP's others are not there, and it would wait for them
    without end."""
    global _computed, _forked
    if _forked:
        torch.set_num_threads(1)
    _computed, _forked = True, False
    device = next(network.parameters()).device
    with torch.inference_mode(), unrounded(device), evaluation(network):
        yield


def eager_inference() -> bool:
    """True in inference mode, which records no gradients, outside a graph that is compiled or
    exported: there a compiler chooses the kernels, and may not meet this question."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def _note_fork() -> None:
    global _forked, _lock
    _forked = _computed
    _lock = threading.Lock()  # another thread, which is not here, may have held it
    for _, modules in _evaluated.values():  # which it used
        _train(modules)
    _evaluated.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
