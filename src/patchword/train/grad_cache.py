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
) -> Tensor:
    """Compute the loss of a batch and add its gradient to the parameters' `.grad`. It is the
    gradient of the whole batch if `forward` treats each sample independently (no batch norm in
    training).

    forward     returns the outputs of a micro-batch: tensors with a row for each sample, or scalars
                common to all samples, such as the logit scale. It runs twice for each micro-batch,
                the second time with the same random numbers of torch's generators
    parts       the micro-batches
    loss        computes a scalar from the outputs, the rows of all micro-batches concatenated
    no_sync     context of every micro-batch but the last: that of DistributedDataParallel, under
                which `loss` must take scalars from `forward` instead of reading parameters

    The activations of only one micro-batch exist at a time. Returns the loss, detached.
    """
    generators = _generators()
    states, outputs = [], []
    with torch.no_grad():
        for part in parts:
            states.append([generator.get_state() for generator in generators])
            outputs.append(forward(part))
    leaves = [_leaf(rows) for rows in zip(*outputs, strict=True)]
    value = loss(*leaves)
    value.backward()  # type: ignore[no-untyped-call]
    part_gradients = _split_gradients(leaves, outputs)
    last = len(parts) - 1
    for number, part in enumerate(parts):
        context = no_sync() if number < last else nullcontext()
        # Otherwise older torch uses weights that autocast cast under no_grad (its issue 65766).
        torch.clear_autocast_cache()
        with context, _restored(generators, states[number]):
            tensors, gradients = [], []
            for output, gradient in zip(forward(part), part_gradients[number], strict=True):
                if output.requires_grad and gradient is not None:
                    tensors.append(output)
                    gradients.append(gradient)
            torch.autograd.backward(tensors, gradients)
    return value.detach()


def warn_of_batch_norms(network: nn.Module) -> None:
    """Warn of a network with batch norms, which is to be trained in micro-batches."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if any(parameter.requires_grad for norm in norms for parameter in norm.parameters()):
        warn(
            "with micro_batch the gradient is not that of the whole batch: the model's batch norms "
            "(of a convolutional stem, of a ResNet) normalise over each micro-batch alone; make it "
            "as large as memory allows"
        )


def _leaf(parts: Sequence[Tensor]) -> Tensor:
    """One output of all micro-batches, as a leaf of autograd: rows are concatenated, scalars
    equal."""
    joined = torch.cat(list(parts)) if parts[0].ndim else parts[0].clone()
    return joined.detach().requires_grad_(joined.is_floating_point())


def _split_gradients(
    leaves: list[Tensor], outputs: list[Sequence[Tensor]]
) -> list[list[Tensor | None]]:
    """For each micro-batch, the gradients of its outputs. The gradient of a scalar goes to the last
    micro-batch, in whose backward DistributedDataParallel averages the gradients."""
    of_parts: list[list[Tensor | None]] = [[] for _ in outputs]
    for leaf, parts in zip(leaves, zip(*outputs, strict=True), strict=True):
        if leaf.grad is None:
            gradients: Sequence[Tensor | None] = [None] * len(parts)
        elif leaf.ndim:
            gradients = torch.split(leaf.grad, [len(part) for part in parts])
        else:
            gradients = [None] * (len(parts) - 1) + [leaf.grad]
        for part, gradient in zip(of_parts, gradients, strict=True):
            part.append(gradient)
    return of_parts


def _generators() -> list[torch.Generator]:
    """Torch's generators of the CPU and of the current CUDA device."""
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
    return generators


@contextmanager
def _restored(generators: Sequence[torch.Generator], states: Sequence[Tensor]) -> Iterator[None]:
    """Context in which the generators start from these states. Afterwards they are as before."""
    before = [generator.get_state() for generator in generators]
    try:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
