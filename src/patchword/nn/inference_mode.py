"""Contexts in which a network runs without gradients, and a test for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

_computed = False  # this process, or one that it was forked from, has run a network
_forked = False  # it was forked from a process that had run a network, and has not run one since
_lock = threading.Lock()
# Networks in evaluation mode: how many threads use each, and its modules to put back afterwards.
_evaluated: dict[nn.Module, tuple[int, list[nn.Module]]] = {}


def without_autocast(device: torch.device) -> torch.autocast:
    """Disable autocast on that device, also inside a program that enables it: its lower precision
    would change vectors that are cached as those of the weights' own type."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def evaluation(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode. Once no thread uses it any more, modules that were in
    training mode return to it.

    In training mode, batch norms would make the result for an image depend on the others of its
    batch, and would update their statistics from them.
    """
    with _lock:
        users, to_restore = _evaluated.get(network, (0, []))
        training = _training_modules(network)
        _evaluated[network] = users + 1, to_restore + training
        for module in training:
            module.training = False
    try:
        yield
    finally:
        with _lock:
            # (0, []) after a fork in the meantime, which has emptied the table.
            users, to_restore = _evaluated.pop(network, (0, []))
            if users > 1:
                _evaluated[network] = users - 1, to_restore
            else:
                _back_to_training(to_restore)


def _back_to_training(modules: list[nn.Module]) -> None:
    for module in modules:
        module.training = True


def _training_modules(network: nn.Module) -> list[nn.Module]:
    """The modules in training mode. Walks them in a fifth of the time of `network.modules()`."""
    modules: list[nn.Module | None] = [network]
    for module in modules:  # the list grows during the loop
        if module is not None:
            modules.extend(module._modules.values())
    return [module for module in modules if module is not None and module.training]


@contextmanager
def inference(network: nn.Module) -> Iterator[None]:
    """Inference mode, with `evaluation` and `without_autocast`.

    A process that was forked after its parent had run a network uses one thread: OpenMP's other
    threads are not copied by a fork, and it would wait for them forever.
    """
    global _computed, _forked
    if _forked:
        torch.set_num_threads(1)
    _computed, _forked = True, False
    device = next(network.parameters()).device
    with torch.inference_mode(), without_autocast(device), evaluation(network):
        yield


def eager_inference() -> bool:
    """True in inference mode, which records no gradients, outside a graph that is being compiled or
    exported: there the compiler chooses the kernels, and must not trace the second call."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def has_hooks(*layers: nn.Module) -> bool:
    """True if calling one of the layers does more than its class does: by a hook of its own or of
    all layers, or by another `forward`. Pruning, for example, applies its mask in a hook."""
    return bool(_global_forward_hooks or _global_forward_pre_hooks) or any(
        layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
        for layer in layers
    )


def _after_fork() -> None:
    global _forked, _lock
    _forked = _computed
    _lock = threading.Lock()  # a thread of the parent, which does not exist here, may hold the old
    for _, modules in _evaluated.values():
        _back_to_training(modules)
    _evaluated.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
