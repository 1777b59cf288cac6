"""Rules that say how the tensors of a checkpoint become the tensors of our network.

A rule names its sources, tensors of the checkpoint, and its target, a tensor of ours. A format is
a list of such rules. `apply_rules` compares them with a checkpoint and converts its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]
ANY = -1  # a dimension that may be of any size


@dataclass(frozen=True)
class Rename:
    """The source under another name."""

    source: str
    target: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Names in the checkpoint."""
        return (self.source,)

    def source_shapes(self, shape: Shape) -> dict[str, Shape]:
        """The shape that each source must have, if the target has `shape`."""
        return {self.source: shape}

    def convert(self, sources: Sequence[Tensor]) -> Tensor:
        """The target from the sources; a view where possible."""
        return sources[0]


@dataclass(frozen=True)
class Unsqueeze(Rename):
    """The source with `count` more leading dimensions of size 1."""

    count: int = 1

    def source_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {self.source: shape[self.count :]}

    def convert(self, sources: Sequence[Tensor]) -> Tensor:
        return sources[0][(None,) * self.count]


@dataclass(frozen=True)
class Squeeze(Rename):
    """The source without its leading dimension, which is of size 1."""

    def source_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {self.source: (1, *shape)}

    def convert(self, sources: Sequence[Tensor]) -> Tensor:
        return sources[0][0]


@dataclass(frozen=True)
class Transpose(Rename):
    """The transposed source, for libraries that compute x @ W where we compute x @ W.T."""

    def source_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {self.source: shape[::-1]}

    def convert(self, sources: Sequence[Tensor]) -> Tensor:
        return sources[0].mT


@dataclass(frozen=True)
class NegativeLog(Rename):
    """-log of the source: the logarithm of a scale from a temperature."""

    def convert(self, sources: Sequence[Tensor]) -> Tensor:
        return -sources[0].log()


@dataclass(frozen=True)
class PatchKernel(Rename):
    """The kernel (D, C, P, P) of a convolution from a linear map (D, P * P * C) of flattened
    patches, whose values are ordered pixel by pixel."""

    def source_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {self.source: (shape[0], math.prod(shape[1:]))}

    def convert(self, sources: Sequence[Tensor]) -> Tensor:
        side = math.isqrt(sources[0].shape[1] // 3)
        return torch.unflatten(sources[0], 1, (side, side, 3)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class AddFirstRow:
    """The source (N, D) with the first row of `table` (rows, D) added to each row, as (1, N, D).

    Adds the type embedding of a BERT to its positions: all tokens here are of the first type.
    """

    source: str
    table: str
    rows: int
    target: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source, self.table)

    def source_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {self.source: shape[1:], self.table: (self.rows, shape[-1])}

    def convert(self, sources: Sequence[Tensor]) -> Tensor:
        return (sources[0] + sources[1][0])[None]


@dataclass(frozen=True)
class AddFirstRowToSlice(AddFirstRow):
    """`AddFirstRow` for `count` rows of the source, from row `start` on.

    The source may have more rows: the positions of a RoBERTa begin at row 2, and a text tower may
    be trained with shorter texts than its RoBERTa.
    """

    start: int
    count: int

    def source_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {self.source: (ANY, shape[-1]), self.table: (self.rows, shape[-1])}

    def convert(self, sources: Sequence[Tensor]) -> Tensor:
        rows = sources[0][self.start : self.start + self.count]
        return super().convert([rows, sources[1]])


@dataclass(frozen=True)
class AddClassPosition:
    """A class token (1, 1, D) plus the first of the positions (1, count, D), which is its own."""

    source: str
    positions: str
    count: int
    target: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source, self.positions)

    def source_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {self.source: shape, self.positions: (1, self.count, shape[-1])}

    def convert(self, sources: Sequence[Tensor]) -> Tensor:
        return sources[0] + sources[1][:, :1]


@dataclass(frozen=True)
class SkipClassPosition(Rename):
    """Positions (1, 1 + N, D) without the first, the class token's."""

    def source_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {self.source: (1, 1 + shape[1], shape[2])}

    def convert(self, sources: Sequence[Tensor]) -> Tensor:
        return sources[0][:, 1:]


@dataclass(frozen=True)
class Fuse:
    """Several sources, concatenated along the first dimension.

    shares: relative sizes of the sources: (1, 2) for a third and two thirds; () for equal sizes.
    """

    sources: tuple[str, ...]
    target: str
    shares: tuple[int, ...] = ()

    def source_shapes(self, shape: Shape) -> dict[str, Shape]:
        shares = self.shares or (1,) * len(self.sources)
        unit = shape[0] // sum(shares)
        sizes = [(unit * share, *shape[1:]) for share in shares]
        return dict(zip(self.sources, sizes, strict=True))

    def convert(self, sources: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(sources))


@dataclass(frozen=True)
class Const:
    """A target that the checkpoint does not have, filled with one value.

    diagonal: only its diagonal has the value; the rest is 0.
    """

    target: str
    value: float
    diagonal: bool = False


@dataclass(frozen=True)
class Drop:
    """A tensor of the checkpoint that we do not need. It may be missing."""

    source: str
    why: str


@dataclass(frozen=True)
class SameNames:
    """Every tensor has the same name in the checkpoint and in our network."""


ReadingRule = Rename | AddFirstRow | AddClassPosition | Fuse  # makes its target from sources


@dataclass(frozen=True)
class ZerosIfMissing:
    """The target of `rule`, or zeros where the sources of all `ZerosIfMissing` rules are missing.

    For linear layers without biases. The format checks that the configuration agrees.
    """

    rule: ReadingRule


@dataclass(frozen=True)
class IdentityIfMissing:
    """The target of `rule`, or the identity matrix where its sources are missing.

    For a projection that is left out. The format checks that the configuration agrees.
    """

    rule: ReadingRule


@dataclass(frozen=True)
class Either:
    """The target of `other` where one of its sources exists, else that of `rule`.

    For a library that has saved the same tensor under two names.
    """

    rule: ReadingRule
    other: ReadingRule


Rule = ReadingRule | Const | Drop | SameNames | ZerosIfMissing | IdentityIfMissing | Either


def rename_layer(source: str, target: str) -> Iterator[Rename]:
    """Rename a layer: its weight and its bias."""
    for name in ("weight", "bias"):
        yield Rename(f"{source}.{name}", f"{target}.{name}")


def drop_layer(source: str, why: str) -> Iterator[Drop]:
    """Drop a layer: its weight and its bias."""
    for name in ("weight", "bias"):
        yield Drop(f"{source}.{name}", why)


def fuse_layers(sources: Sequence[str], target: str) -> Iterator[Fuse]:
    """Fuse layers into one: their weights, and their biases."""
    for name in ("weight", "bias"):
        yield Fuse(tuple(f"{source}.{name}" for source in sources), f"{target}.{name}")
