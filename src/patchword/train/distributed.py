"""Losses over the pairs of all processes, exact.

All processes have the same number of pairs. The loss of a process is the mean over its own images,
compared with the texts of all processes: the mean of these losses is the loss of the whole batch.
Its backward includes the gradient of the other processes' losses with respect to its features, so
the mean of the parameter gradients, as DistributedDataParallel and FSDP compute it, is the gradient
of the whole batch; nothing has to be multiplied by the number of processes. All processes must call
backward, each with the same factor on its loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from patchword import losses


def gather(x: Tensor) -> Tensor:
    """The rows (n, ...) of every process, in order of rank: (W * n, ...).

    Its gradient is the sum of the gradients that all processes have for these rows.
    """
    return _Gather.apply(x)  # type: ignore[no-any-return,no-untyped-call]


def contrastive(
    image: Tensor, text: Tensor, scale: Tensor, positives: Tensor | None = None
) -> Tensor:
    """This process's share of `losses.contrastive`, of n pairs each; only texts are gathered.

    positives: (n,) integers: texts are true of the images with the same number, in all processes.
    Or (n, W * n) bool: which texts of all processes are true of these images.
    """
    losses.check_pairs(image, text)
    texts, first = gather(text), dist.get_rank() * len(image)
    rows, columns, logits = losses.log_sum_exps(image, texts, scale, first)
    columns = gather(columns[None]).logsumexp(dim=0)[first : first + len(image)]
    if positives is not None:
        of_texts = _positives_of_texts(positives)
        logits = losses.positive_logits(image, texts, scale, positives, of_texts)
    return ((rows + columns) / 2 - logits).mean().to(logits.dtype)


def sigmoid(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, positives: Tensor | None = None
) -> Tensor:
    """This process's share of `losses.sigmoid`, of n pairs each, round a ring (Zhai et al. 2023,
    section 3.3): each process passes texts, with their gradient so far, to the next one, and holds
    no more texts than its own and those of one other process. `positives` as for `contrastive`.
    """
    losses.check_pairs(image, text)
    inputs = (image, text, scale, bias)
    value, gradients = _ring(inputs, positives, losses.needs_gradient(*inputs))
    return losses.with_gradients(value, inputs, gradients) / len(image)


def _ring(
    inputs: Sequence[Tensor], positives: Tensor | None, needs_gradient: Sequence[bool]
) -> tuple[Tensor, losses.Gradients]:
    """The sum over this process's images and all texts, and its gradients. The gradient of this
    process's texts is summed over all processes."""
    image, text, scale, bias = (x.detach() for x in inputs)
    rank, world, count = dist.get_rank(), dist.get_world_size(), len(image)
    labels: Tensor | None = None
    if positives is not None and positives.ndim == 1:
        labels = gather(positives).view(world, count)
    values: list[Tensor] = []
    total: losses.Gradients = [None] * 4
    text_gradient: Tensor | None = None  # travels with the texts
    for step in range(world):
        owner = (rank + step) % world
        if positives is None:
            block = None
        elif labels is None:
            block = positives[:, owner * count : (owner + 1) * count]
        else:
            block = torch.cat([positives, labels[owner]])
        parts = (image, text, scale, bias)
        value, gradients = losses.pairwise_sigmoid(
            parts, block, (rank - owner) * count, needs_gradient
        )
        values.append(value)
        text_gradient = _plus(text_gradient, gradients[1])
        gradients[1] = None
        total = [_plus(a, b) for a, b in zip(total, gradients, strict=True)]
        if step < world - 1:
            text = _rotated(text)
        if text_gradient is not None and world > 1:  # the last time, back to its own process
            text_gradient = _rotated(text_gradient)
    return torch.stack(values).sum(), [total[0], text_gradient, *total[2:]]


def _plus(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    """The sum; None for gradients that are not needed."""
    return new if total is None or new is None else total + new


def _rotated(x: Tensor) -> Tensor:
    """Send x to the process of the rank before, and return the x of the rank after."""
    rank, world = dist.get_rank(), dist.get_world_size()
    received = torch.empty_like(x, memory_format=torch.contiguous_format)
    send = dist.P2POp(dist.isend, x.contiguous(), (rank - 1) % world)
    receive = dist.P2POp(dist.irecv, received, (rank + 1) % world)
    for work in dist.batch_isend_irecv([send, receive]):
        work.wait()
    return received


def _positives_of_texts(positives: Tensor) -> Tensor:
    """The `of_texts` of `losses.positive_logits`, over the texts of all processes."""
    if positives.ndim == 1:
        return gather(positives)
    counts = positives.sum(dim=0)
    dist.all_reduce(counts)
    return counts


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
