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

    positives: (n,) integers, equal numbers being true of each other in all processes; or (n, W * n)
    bool, which of all texts are true of these images.
    """
    losses.check_pairs(image, text)
    texts, first = gather(text), dist.get_rank() * len(image)
    rows, columns, own = losses.log_sum_exps(image, texts, scale, first)
    columns = gather(columns[None]).logsumexp(dim=0)[first : first + len(image)]
    if positives is not None:
        own = losses.attraction(image, texts, scale, positives, _whole(positives))
    return ((rows + columns) / 2 - own).mean().to(own.dtype)


def sigmoid(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, positives: Tensor | None = None
) -> Tensor:
    """This process's share of `losses.sigmoid`, of n pairs each, round a ring (Zhai et al. 2023,
    section 3.3): texts are passed from neighbour to neighbour with their gradient so far, and no
    process holds more texts than its own and one other's. `positives` as for `contrastive`.
    """
    losses.check_pairs(image, text)
    inputs = (image, text, scale, bias)
    value, gradients = _ring(inputs, positives, losses.wanted(*inputs))
    return losses.with_gradients(value, inputs, gradients) / len(image)


def _ring(
    inputs: Sequence[Tensor], positives: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor, losses.Gradients]:
    """The sum over this process's images and all texts, and its gradients; the gradient of this
    process's texts is that of all processes' sums."""
    image, text, scale, bias = (x.detach() for x in inputs)
    rank, world, count = dist.get_rank(), dist.get_world_size(), len(image)
    labels: Tensor | None = None
    if positives is not None and positives.ndim == 1:
        labels = gather(positives).view(world, count)
    values: list[Tensor] = []
    total: losses.Gradients = [None] * 4
    to_text: Tensor | None = None
    for step in range(world):
        owner = (rank + step) % world
        if positives is None:
            block = None
        elif labels is None:
            block = positives[:, owner * count : (owner + 1) * count]
        else:
            block = torch.cat([positives, labels[owner]])
        parts = (image, text, scale, bias)
        value, gradients = losses.pairwise_sigmoid(parts, block, (rank - owner) * count, wanted)
        values.append(value)
        to_text, gradients[1] = _plus(to_text, gradients[1]), None
        total = [_plus(a, b) for a, b in zip(total, gradients, strict=True)]
        if step < world - 1:
            text = _from_right(text)
        if to_text is not None and world > 1:  # the last time, back to its own process
            to_text = _from_right(to_text)
    return torch.stack(values).sum(), [total[0], to_text, *total[2:]]


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None or b is None else a + b


def _from_right(x: Tensor) -> Tensor:
    """Send our tensor to the neighbour of the rank before; returns that of the rank after."""
    rank, world = dist.get_rank(), dist.get_world_size()
    came = torch.empty_like(x, memory_format=torch.contiguous_format)
    send = dist.P2POp(dist.isend, x.contiguous(), (rank - 1) % world)
    receive = dist.P2POp(dist.irecv, came, (rank + 1) % world)
    for work in dist.batch_isend_irecv([send, receive]):
        work.wait()
    return came


def _whole(positives: Tensor) -> Tensor:
    """The `whole` of `losses.attraction`, over all processes."""
    if positives.ndim == 1:
        return gather(positives)
    counts = positives.sum(dim=0)
    dist.all_reduce(counts)
    return counts


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        every = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(every, x.contiguous())
        return torch.cat(every)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up: Tensor) -> Tensor:
        total = up.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
