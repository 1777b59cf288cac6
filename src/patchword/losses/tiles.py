"""Sums over all pairs of N images and M texts, exact, without storing the N x M matrix of logits.

Logits are computed one tile at a time and not kept: memory grows with N + M. Features may have any
floating-point type; the arithmetic is float32 (float64 for float64), with or without autocast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from patchword.losses.precision import wide, widest, without_autocast

# Rows and columns of a tile. Smaller ones would fit a CPU's cache, but are not faster: at the end
# of each tile the threads wait for each other.
CPU_SIDE, SIDE = 2048, 4096

Gradients = list[Tensor | None]  # in the order of the inputs; None for one that is not needed


def log_sum_exps(
    image: Tensor, text: Tensor, scale: Tensor, first: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the logits scale * image @ text.T, features (N, D) and (M, D): the log-sum-exp of each
    row (N,) and of each column (M,), in float64 where the device has it, and each image's own
    logit (N,): with text first + i for image i.

    Differentiable once, in image, text and scale; backward computes the logits again.
    """
    return _LogSumExps.apply(image, text, scale, first)  # type: ignore[no-any-return,no-untyped-call]


def pairwise_sigmoid(
    inputs: Sequence[Tensor],
    positives: Tensor | None = None,
    first: int = 0,
    wanted: Sequence[bool] = (True, True, True, True),
) -> tuple[Tensor, Gradients]:
    """The sum over all pairs of -log sigmoid(z * (scale * image @ text.T + bias)), where z is 1
    for positive pairs and -1 for negative ones, and its gradients.

    inputs: image (N, D), text (M, D), scale, bias. wanted: which of them need a gradient.
    positives: (N, M) bool; or (N + M,) integers of the images, then of the texts, equal numbers
    being positive pairs; or None for image i with text first + i, if there is one.
    Computed without autograd: `with_gradients` makes the value a function of the inputs.
    """
    with torch.no_grad(), without_autocast(inputs[0]):
        return _pairwise_sigmoid(inputs, positives, first, wanted)


def with_gradients(value: Tensor, inputs: Sequence[Tensor], gradients: Gradients) -> Tensor:
    """`value` as a differentiable function of the inputs, whose gradients are known already.

    A gradient may have a wider type than its input."""
    out: Tensor = _WithGradients.apply(value, gradients, *inputs)  # type: ignore[no-untyped-call]
    return out


class _Tile(NamedTuple):
    rows: slice
    columns: slice
    offset: int  # of the diagonal of the images' own texts
    own: slice  # the rows of the tile that this diagonal crosses


def _tiles(image: Tensor, text: Tensor, first: int) -> Iterator[_Tile]:
    side = CPU_SIDE if image.device.type == "cpu" else SIDE
    for top in range(0, len(image), side):
        for left in range(0, len(text), side):
            bottom, right = min(top + side, len(image)), min(left + side, len(text))
            begin = max(top, left - first)
            own = slice(begin, max(begin, min(bottom, right - first)))
            yield _Tile(slice(top, bottom), slice(left, right), first + top - left, own)


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, scale: Tensor, first: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        with without_autocast(image):
            a, b = wide(image) * wide(scale), wide(text)
            rows = a.new_full((len(a),), -torch.inf, dtype=widest(a))
            columns = a.new_full((len(b),), -torch.inf, dtype=widest(a))
            own = a.new_zeros(len(a))
            for tile in _tiles(a, b, first):
                logits = a[tile.rows] @ b[tile.columns].mT
                own[tile.own] = logits.diagonal(tile.offset)
                row, column = rows[tile.rows], columns[tile.columns]
                torch.logaddexp(row, _log_sum_exp(logits, 1), out=row)
                torch.logaddexp(column, _log_sum_exp(logits, 0), out=column)
        ctx.save_for_backward(image, text, scale, rows, columns)
        ctx.first = first
        return rows, columns, own

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *ups: Tensor) -> tuple[Tensor | None, ...]:
        image, text, scale, rows, columns = ctx.saved_tensors
        with without_autocast(image):
            a, b = wide(image) * wide(scale), wide(text)
            # exp(logit - sum) without rounding the float64 sum to float32: its float32 part is
            # subtracted from the logit, and the exponential of the rest multiplies the factor.
            row, column = rows.to(a.dtype), columns.to(a.dtype)
            row_factor = ((row - rows).exp() * ups[0]).to(a.dtype)
            column_factor = ((column - columns).exp() * ups[1]).to(a.dtype)
            gather = _Gather(a, b, ctx.needs_input_grad)
            for tile in _tiles(a, b, ctx.first):
                logits = a[tile.rows] @ b[tile.columns].mT
                weights = (logits - row[tile.rows, None]).exp_()
                weights *= row_factor[tile.rows, None]
                logits.sub_(column[tile.columns]).exp_().mul_(column_factor[tile.columns])
                weights += logits
                weights.diagonal(tile.offset).add_(ups[2][tile.own])
                gather.add(tile, weights)
            gradients = gather.gradients(image, scale)
        each = zip(gradients, (image, text, scale), strict=True)
        return *(g if g is None else g.to(x.dtype) for g, x in each), None


def _pairwise_sigmoid(
    inputs: Sequence[Tensor], positives: Tensor | None, first: int, wanted: Sequence[bool]
) -> tuple[Tensor, Gradients]:
    image, text, scale, bias = (wide(x) for x in inputs)
    a = image * scale
    value = a.new_zeros((), dtype=widest(a))
    to_bias = value.clone()
    gather = _Gather(a, text, wanted)
    for tile in _tiles(a, text, first):
        logits = (a[tile.rows] @ text[tile.columns].mT).add_(bias)
        _flip(logits, tile, positives, len(a))
        value += F.softplus(logits).sum()  # -log sigmoid(x) = softplus(-x)
        if any(wanted):
            weights = logits.sigmoid_()
            _flip(weights, tile, positives, len(a))
            to_bias += weights.sum()
            gather.add(tile, weights)
    bias_gradient = to_bias.to(bias.dtype).view_as(bias) if wanted[3] else None
    return value.to(a.dtype), [*gather.gradients(image, scale), bias_gradient]


def _flip(values: Tensor, tile: _Tile, positives: Tensor | None, count: int) -> None:
    """Change the sign of the positive pairs of a tile; count: of images."""
    if positives is None:
        values.diagonal(tile.offset).neg_()
        return
    if positives.ndim == 2:
        together = positives[tile.rows, tile.columns]
    else:
        together = positives[:count][tile.rows, None] == positives[count:][tile.columns]
    torch.where(together, -values, values, out=values)


class _Gather:
    """Gradients of features through logits a @ b.T, where a is scale * image, tile by tile."""

    def __init__(self, a: Tensor, b: Tensor, wanted: Sequence[bool]) -> None:
        self.a, self.b, self.wanted = a, b, wanted
        self.to_a = torch.zeros_like(a) if wanted[0] or wanted[2] else None
        self.to_b = torch.zeros_like(b) if wanted[1] else None

    def add(self, tile: _Tile, weights: Tensor) -> None:
        """weights: the derivatives with respect to the logits of a tile."""
        if self.to_a is not None:
            self.to_a[tile.rows].addmm_(weights, self.b[tile.columns])
        if self.to_b is not None:
            self.to_b[tile.columns].addmm_(weights.mT, self.a[tile.rows])

    def gradients(self, image: Tensor, scale: Tensor) -> Gradients:
        """Those of image, text and scale."""
        to_image, to_scale = None, None
        if self.to_a is not None and self.wanted[2]:
            rows = torch.linalg.vecdot(self.to_a, wide(image))
            to_scale = rows.sum(dtype=widest(rows)).to(rows.dtype).view_as(scale)
        if self.to_a is not None and self.wanted[0]:
            to_image = self.to_a.mul_(wide(scale))
        return [to_image, self.to_b, to_scale]


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Gradients, *inputs: Tensor) -> Tensor:
        ctx.gradients, ctx.types = gradients, [x.dtype for x in inputs]
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up: Tensor) -> tuple[Tensor | None, ...]:
        each = zip(ctx.gradients, ctx.types, strict=True)
        return None, None, *(g if g is None else (g * up).to(dtype) for g, dtype in each)


def _log_sum_exp(logits: Tensor, dim: int) -> Tensor:
    """As torch.logsumexp, but in float64: the loss is a difference of two such sums, and one near
    zero would be lost in the rounding of large logits."""
    top = logits.amax(dim, keepdim=True)
    rest = (logits - top).exp_().sum(dim)
    return top.squeeze(dim).to(widest(top)) + rest.to(widest(top)).log()
