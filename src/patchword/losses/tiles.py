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

from patchword.losses.precision import sum_dtype, upcast, without_autocast

# Rows and columns of a tile. Smaller ones would fit a CPU's cache, but are not faster: at the end
# of each tile the threads wait for each other.
CPU_SIDE, SIDE = 2048, 4096

Gradients = list[Tensor | None]  # in the order of the inputs; None for one that is not needed


def log_sum_exps(
    image: Tensor, text: Tensor, scale: Tensor, first: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exps of the logits scale * image @ text.T, with features (N, D) and (M, D): those of
    the rows (N,) and of the columns (M,), in float64 if the device has it; and the logit of each
    image i with its own text first + i, (N,).

    Differentiable once, in image, text and scale; backward computes the logits again.
    """
    return _LogSumExps.apply(image, text, scale, first)  # type: ignore[no-any-return,no-untyped-call]


def pairwise_sigmoid(
    inputs: Sequence[Tensor],
    positives: Tensor | None,
    first: int,
    needs_gradient: Sequence[bool],
) -> tuple[Tensor, Gradients]:
    """The sum over all pairs of -log sigmoid(z * (scale * image @ text.T + bias)), where z is 1
    for positive pairs and -1 for negative ones, and its gradients.

    inputs          image (N, D), text (M, D), scale, bias
    positives       (N, M) bool; or (N + M,) integers of the images, then of the texts, which are
                    equal for positive pairs; or None: image i with text first + i, if there is one
    needs_gradient  which of the inputs need a gradient

    Computed without autograd: `with_gradients` makes the value a function of the inputs.
    """
    with torch.no_grad(), without_autocast(inputs[0]):
        return _pairwise_sigmoid(inputs, positives, first, needs_gradient)


def with_gradients(value: Tensor, inputs: Sequence[Tensor], gradients: Gradients) -> Tensor:
    """`value` as a differentiable function of the inputs, whose gradients are known already.

    A gradient may have a wider type than its input."""
    return _WithGradients.apply(value, gradients, *inputs)  # type: ignore[no-any-return,no-untyped-call]


class _Tile(NamedTuple):
    rows: slice
    columns: slice
    offset: int  # of the diagonal of matching pairs, as for `torch.diagonal`
    diagonal_rows: slice  # the rows of the images that this diagonal crosses in the tile


def _tiles(image: Tensor, text: Tensor, first: int) -> Iterator[_Tile]:
    side = CPU_SIDE if image.device.type == "cpu" else SIDE
    for top in range(0, len(image), side):
        for left in range(0, len(text), side):
            bottom, right = min(top + side, len(image)), min(left + side, len(text))
            begin = max(top, left - first)
            diagonal = slice(begin, max(begin, min(bottom, right - first)))
            yield _Tile(slice(top, bottom), slice(left, right), first + top - left, diagonal)


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, scale: Tensor, first: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        with without_autocast(image):
            a, b = upcast(image) * upcast(scale), upcast(text)
            rows = a.new_full((len(a),), -torch.inf, dtype=sum_dtype(a))
            columns = a.new_full((len(b),), -torch.inf, dtype=sum_dtype(a))
            own_logits = a.new_zeros(len(a))
            for tile in _tiles(a, b, first):
                logits = a[tile.rows] @ b[tile.columns].mT
                own_logits[tile.diagonal_rows] = logits.diagonal(tile.offset)
                row, column = rows[tile.rows], columns[tile.columns]
                torch.logaddexp(row, _log_sum_exp(logits, 1), out=row)
                torch.logaddexp(column, _log_sum_exp(logits, 0), out=column)
        ctx.save_for_backward(image, text, scale, rows, columns)
        ctx.first = first
        return rows, columns, own_logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor | None, ...]:
        image, text, scale, rows, columns = ctx.saved_tensors
        row_gradient, column_gradient, own_gradient = output_gradients
        with without_autocast(image):
            a, b = upcast(image) * upcast(scale), upcast(text)
            # exp(logit - sum) without rounding the float64 sum to float32: its float32 part is
            # subtracted from the logit, and the exponential of the rest multiplies the factor.
            row, column = rows.to(a.dtype), columns.to(a.dtype)
            row_factor = ((row - rows).exp() * row_gradient).to(a.dtype)
            column_factor = ((column - columns).exp() * column_gradient).to(a.dtype)
            sums = _FeatureGradients(a, b, ctx.needs_input_grad)
            for tile in _tiles(a, b, ctx.first):
                logits = a[tile.rows] @ b[tile.columns].mT
                weights = (logits - row[tile.rows, None]).exp_()
                weights *= row_factor[tile.rows, None]
                logits.sub_(column[tile.columns]).exp_().mul_(column_factor[tile.columns])
                weights += logits
                weights.diagonal(tile.offset).add_(own_gradient[tile.diagonal_rows])
                sums.add(tile, weights)
            gradients = sums.result(image, scale)
        types = (image.dtype, text.dtype, scale.dtype)
        return *_as_types(gradients, types), None


def _pairwise_sigmoid(
    inputs: Sequence[Tensor], positives: Tensor | None, first: int, needs_gradient: Sequence[bool]
) -> tuple[Tensor, Gradients]:
    image, text, scale, bias = map(upcast, inputs)
    a = image * scale
    value = a.new_zeros((), dtype=sum_dtype(a))
    to_bias = value.clone()
    sums = _FeatureGradients(a, text, needs_gradient)
    for tile in _tiles(a, text, first):
        logits = (a[tile.rows] @ text[tile.columns].mT).add_(bias)
        _flip(logits, tile, positives, len(a))
        value += F.softplus(logits).sum()  # -log sigmoid(x) = softplus(-x)
        if any(needs_gradient):
            weights = logits.sigmoid_()
            _flip(weights, tile, positives, len(a))
            to_bias += weights.sum()
            sums.add(tile, weights)
    bias_gradient = to_bias.to(bias.dtype).view_as(bias) if needs_gradient[3] else None
    return value.to(a.dtype), [*sums.result(image, scale), bias_gradient]


def _flip(values: Tensor, tile: _Tile, positives: Tensor | None, count: int) -> None:
    """Change the sign of the positive pairs of a tile, in place. count: the number of images."""
    if positives is None:
        values.diagonal(tile.offset).neg_()
        return
    if positives.ndim == 2:
        is_positive = positives[tile.rows, tile.columns]
    else:
        is_positive = positives[:count][tile.rows, None] == positives[count:][tile.columns]
    torch.where(is_positive, -values, values, out=values)


class _FeatureGradients:
    """The gradients of features through logits a @ b.T, where a is scale * image, summed tile by
    tile."""

    def __init__(self, a: Tensor, b: Tensor, needs_gradient: Sequence[bool]) -> None:
        self.a, self.b, self.needs_gradient = a, b, needs_gradient
        self.to_a = torch.zeros_like(a) if needs_gradient[0] or needs_gradient[2] else None
        self.to_b = torch.zeros_like(b) if needs_gradient[1] else None

    def add(self, tile: _Tile, weights: Tensor) -> None:
        """weights: the derivatives with respect to the logits of a tile."""
        if self.to_a is not None:
            self.to_a[tile.rows].addmm_(weights, self.b[tile.columns])
        if self.to_b is not None:
            self.to_b[tile.columns].addmm_(weights.mT, self.a[tile.rows])

    def result(self, image: Tensor, scale: Tensor) -> Gradients:
        """The gradients of image, text and scale."""
        to_image, to_scale = None, None
        if self.to_a is not None and self.needs_gradient[2]:
            rows = torch.linalg.vecdot(self.to_a, upcast(image))
            to_scale = rows.sum(dtype=sum_dtype(rows)).to(rows.dtype).view_as(scale)
        if self.to_a is not None and self.needs_gradient[0]:
            to_image = self.to_a.mul_(upcast(scale))
        return [to_image, self.to_b, to_scale]


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Gradients, *inputs: Tensor) -> Tensor:
        ctx.gradients, ctx.types = gradients, [x.dtype for x in inputs]
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if g is None else g * output_gradient for g in ctx.gradients]
        return None, None, *_as_types(scaled, ctx.types)


def _as_types(gradients: Gradients, types: Sequence[torch.dtype]) -> Gradients:
    """Each gradient in the type of its input."""
    pairs = zip(gradients, types, strict=True)
    return [None if gradient is None else gradient.to(dtype) for gradient, dtype in pairs]


def _log_sum_exp(logits: Tensor, dim: int) -> Tensor:
    """As torch.logsumexp, but in float64: the loss is a difference of two such sums, and one near
    zero would be lost in the rounding of large logits."""
    top = logits.amax(dim, keepdim=True)
    rest = (logits - top).exp_().sum(dim)
    return top.squeeze(dim).to(sum_dtype(top)) + rest.to(sum_dtype(top)).log()
