"""Batches larger than memory: the exact gradient of a loss over the whole batch, computed in
micro-batches (GradCache, Gao et al. 2021, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from patchword.errors import warn

Part = TypeVar("Part")


def backward(
    forward: Callable[[Part], Sequence[Tensor]],
    parts: Sequence[Part],
    loss: Callable[..., Tensor],
    no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
    generators: Sequence[torch.Generator] = (),
) -> Tensor:
    """Computes the loss of a batch and adds its gradient to the parameters' `.grad`: the gradient
    of the whole batch, if `forward` treats each sample independently (no batch norm in training).

    forward     one micro-batch -> tensors: rows of its samples, or scalars common to all, such as
                the logit scale. It runs twice for each micro-batch, the second time with the same
                random numbers: torch's generators of the CPU and of the current CUDA device, and
                `generators`
    parts       the micro-batches
    loss        those tensors, with the rows of all micro-batches concatenated -> a scalar
    no_sync     context of every micro-batch but the last: that of DistributedDataParallel, under
                which `loss` must take scalars from `forward` instead of reading parameters

    The activations of only one micro-batch exist at a time. Returns the loss, detached.
    """
    random = [torch.default_generator, *_cuda(), *generators]
    before, outputs = [], []
    with torch.no_grad():
        for part in parts:
            before.append([each.get_state() for each in random])
            outputs.append(forward(part))
    leaves = [_leaf(each) for each in zip(*outputs, strict=True)]
    value = loss(*leaves)
    value.backward()  # type: ignore[no-untyped-call]
    shares = _shares(leaves, outputs)
    for number, part in enumerate(parts, 1):
        context = no_sync() if number < len(parts) else nullcontext()
        # Otherwise older torch uses weights that autocast cast under no_grad (its issue 65766).
        torch.clear_autocast_cache()
        with context, _at(random, before[number - 1]):
            pairs = zip(forward(part), shares[number - 1], strict=True)
            found = [(x, up) for x, up in pairs if x.requires_grad and up is not None]
            torch.autograd.backward([x for x, _ in found], [up for _, up in found])
    return value.detach()


def warn_of_batch_norms(network: nn.Module) -> None:
    """Warn where a network that is trained in micro-batches normalises over samples."""
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    if any(parameter.requires_grad for norm in norms for parameter in norm.parameters()):
        warn(
            "with micro_batch the gradient is not that of the whole batch: the model's batch norms "
            "(of a convolutional stem, of a ResNet) normalise over each micro-batch alone; make it "
            "as large as memory allows"
        )


def _leaf(parts: Sequence[Tensor]) -> Tensor:
    joined = torch.cat(list(parts)) if parts[0].ndim else parts[0].clone()
    return joined.detach().requires_grad_(joined.is_floating_point())


def _shares(leaves: list[Tensor], outputs: list[Sequence[Tensor]]) -> list[list[Tensor | None]]:
    """Each micro-batch's part of the leaves' gradients. That of a scalar goes to the last one, in
    whose backward DistributedDataParallel reduces the gradients."""
    shares: list[list[Tensor | None]] = [[] for _ in outputs]
    for leaf, parts in zip(leaves, zip(*outputs, strict=True), strict=True):
        if leaf.grad is None:
            each: Sequence[Tensor | None] = [None] * len(parts)
        elif leaf.ndim:
            each = torch.split(leaf.grad, [len(part) for part in parts])
        else:
            each = [None] * (len(parts) - 1) + [leaf.grad]
        for share, gradient in zip(shares, each, strict=True):
            share.append(gradient)
    return shares


def _cuda() -> list[torch.Generator]:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    return [torch.cuda.default_generators[torch.cuda.current_device()]]


@contextmanager
def _at(random: list[torch.Generator], states: list[Tensor]) -> Iterator[None]:
    """Context in which the generators have these states; restored afterwards."""
    now = [each.get_state() for each in random]
    try:
        for each, state in zip(random, states, strict=True):
            each.set_state(state)
        yield
    finally:
        for each, state in zip(random, now, strict=True):
            each.set_state(state)
