"""Batches larger than memory: the gradient of a loss over the whole batch, micro-batch by
micro-batch (GradCache, Gao et al. 2021, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")


def backward(
    forward: Callable[[Part], Sequence[Tensor]],
    parts: Sequence[Part],
    loss: Callable[..., Tensor],
    hold: Callable[[], AbstractContextManager[Any]] = nullcontext,
    generators: Sequence[torch.Generator] = (),
) -> Tensor:
    """The loss of a batch in micro-batches, its gradients added to the parameters' `.grad`: those
    of the whole batch, for a forward that treats each sample alone (no batch norm in training).

    forward     one micro-batch -> tensors: rows of its samples, or scalars common to all, such as
                the logit scale. It runs twice for each part, the second time with the same random
                numbers: torch's own of the CPU and of the current CUDA device, and `generators`.
    loss        those tensors, rows of all parts joined -> a scalar
    hold        context of every part but the last: `no_sync` under DistributedDataParallel,
                whose scalars must then come out of `forward` and not be read by `loss` itself

    At no time are there activations of more than one part. The loss comes back detached.
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
        context = hold() if number < len(parts) else nullcontext()
        # Older torch would use the weights that were cast without a gradient (its issue 65766).
        torch.clear_autocast_cache()
        with context, _at(random, before[number - 1]):
            made = forward(part)
            pairs = zip(made, shares[number - 1], strict=True)
            known = [(x, up) for x, up in pairs if x.requires_grad and up is not None]
            torch.autograd.backward([x for x, _ in known], [up for _, up in known])
    return value.detach()


def _leaf(parts: Sequence[Tensor]) -> Tensor:
    joined = torch.cat(list(parts)) if parts[0].ndim else parts[0].clone()
    return joined.detach().requires_grad_(joined.is_floating_point())


def _shares(leaves: list[Tensor], outputs: list[Sequence[Tensor]]) -> list[list[Tensor | None]]:
    """Each part's share of the leaves' gradients; that of a scalar goes to the last part, whose
    backward is the one that DistributedDataParallel waits for."""
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
    """With the generators as they were then; afterwards as they are now."""
    now = [each.get_state() for each in random]
    try:
        for each, state in zip(random, states, strict=True):
            each.set_state(state)
        yield
    finally:
        for each, state in zip(random, now, strict=True):
            each.set_state(state)
