"""Rules that map a checkpoint's tensors to ours, as data.

`fit` compares names and shapes before a byte is read; `assemble` then reads.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from patchword.checkpoints.read import Stored
from patchword.errors import CheckpointError

Shape = tuple[int, ...]
ANY = -1  # of a dimension that may be of any size
LISTED = 20  # tensors named in one error; the others are counted


@dataclass(frozen=True)
class Rename:
    """Their tensor under our name."""

    theirs: str
    ours: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Names in the checkpoint."""
        return (self.theirs,)

    def needs(self, shape: Shape) -> dict[str, Shape]:
        """The shape that each source must have for ours to have `shape`."""
        return {self.theirs: shape}

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        """Our tensor from the sources, a view where possible."""
        return parts[0]


@dataclass(frozen=True)
class Unsqueeze(Rename):
    """Theirs with `count` leading dimensions of size 1 put before it."""

    count: int = 1

    def needs(self, shape: Shape) -> dict[str, Shape]:
        return {self.theirs: shape[self.count :]}

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0][(None,) * self.count]


@dataclass(frozen=True)
class Squeeze(Rename):
    """Theirs without its leading dimension, which is of size 1."""

    def needs(self, shape: Shape) -> dict[str, Shape]:
        return {self.theirs: (1, *shape)}

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0][0]


@dataclass(frozen=True)
class Transpose(Rename):
    """Their matrix transposed: x @ W in their code is W.T @ x in ours."""

    def needs(self, shape: Shape) -> dict[str, Shape]:
        return {self.theirs: shape[::-1]}

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].mT


@dataclass(frozen=True)
class NegativeLog(Rename):
    """-log of theirs: a temperature as the logarithm of a scale."""

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        return -parts[0].log()


@dataclass(frozen=True)
class Patches(Rename):
    """A linear map of flattened patches (D, P * P * C), pixel by pixel, as a convolution's kernel
    (D, C, P, P)."""

    def needs(self, shape: Shape) -> dict[str, Shape]:
        return {self.theirs: (shape[0], math.prod(shape[1:]))}

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        side = math.isqrt(parts[0].shape[1] // 3)
        return torch.unflatten(parts[0], 1, (side, side, 3)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class AddRow:
    """Theirs (N, D) plus the first row of `row` (M, D) everywhere, as (1, N, D).

    Folds the type embedding of a BERT that only ever sees one type into its positions.
    """

    theirs: str
    row: str
    rows: int
    ours: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.theirs, self.row)

    def needs(self, shape: Shape) -> dict[str, Shape]:
        return {self.theirs: shape[1:], self.row: (self.rows, shape[-1])}

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        return (parts[0] + parts[1][0])[None]


@dataclass(frozen=True)
class AddRowToSome(AddRow):
    """The same of `count` of theirs from row `first` on, however many there are: those of a RoBERTa
    begin at 2, and a tower may be for shorter texts than its BERT was."""

    first: int
    count: int

    def needs(self, shape: Shape) -> dict[str, Shape]:
        return {self.theirs: (ANY, shape[-1]), self.row: (self.rows, shape[-1])}

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        return super().make([parts[0][self.first : self.first + self.count], parts[1]])


@dataclass(frozen=True)
class AddFirst:
    """Theirs (1, 1, D) plus the first of `rows` of `table` (1, rows, D): a class token with its own
    position."""

    theirs: str
    table: str
    rows: int
    ours: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.theirs, self.table)

    def needs(self, shape: Shape) -> dict[str, Shape]:
        return {self.theirs: shape, self.table: (1, self.rows, shape[-1])}

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0] + parts[1][:, :1]


@dataclass(frozen=True)
class SkipFirst(Rename):
    """Theirs (1, 1 + N, D) without the first row."""

    def needs(self, shape: Shape) -> dict[str, Shape]:
        return {self.theirs: (1, 1 + shape[1], shape[2])}

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0][:, 1:]


@dataclass(frozen=True)
class Fuse:
    """Several of theirs, one after the other along the first dimension.

    shares: how much of it each takes, (1, 2) for a third and two thirds; () for equal parts.
    """

    theirs: tuple[str, ...]
    ours: str
    shares: tuple[int, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        return self.theirs

    def needs(self, shape: Shape) -> dict[str, Shape]:
        shares = self.shares or (1,) * len(self.theirs)
        unit = shape[0] // sum(shares)
        sizes = [(unit * share, *shape[1:]) for share in shares]
        return dict(zip(self.theirs, sizes, strict=True))

    def make(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))


@dataclass(frozen=True)
class Const:
    """Ours, which they do not have, filled with one value; diagonal: only the diagonal, else 0."""

    ours: str
    value: float
    diagonal: bool = False


@dataclass(frozen=True)
class Drop:
    """Theirs, which we do not need. It may be absent."""

    theirs: str
    why: str


@dataclass(frozen=True)
class Same:
    """All of ours, under the same names."""


Made = Rename | AddRow | AddFirst | Fuse


@dataclass(frozen=True)
class OrZero:
    """What `rule` makes, or zeros in a checkpoint that has none of the sources of any OrZero.

    For linear maps that a configuration gives no biases; the format checks that it says so.
    """

    rule: Made


@dataclass(frozen=True)
class OrIdentity:
    """What `rule` makes, or the identity matrix in a checkpoint without its sources.

    For a projection that a configuration leaves out; the format checks that it says so.
    """

    rule: Made


@dataclass(frozen=True)
class Either:
    """What `rule` makes, or `other` in a checkpoint that has one of the sources of that.

    For a library that has written the same tensor under two names.
    """

    rule: Made
    other: Made


Rule = Made | Const | Drop | Same | OrZero | OrIdentity | Either


def fit(
    rules: Iterable[Rule], tensors: Mapping[str, Stored], shapes: Mapping[str, Shape], what: str
) -> dict[str, Made | Const]:
    """The rule that makes each of our tensors, after all were compared with the checkpoint.

    shapes: of each tensor of ours. what: the checkpoint and its format, for the error. Raises
    CheckpointError naming every missing, extra and misshapen tensor.
    """
    by_ours: dict[str, Made | Const] = {}
    needed: dict[str, Shape] = {}
    dropped: set[str] = set()
    rules = list(rules)
    may_lack = [rule.rule for rule in rules if isinstance(rule, OrZero)]
    lacks = not any(name in tensors for rule in may_lack for name in rule.sources)
    for rule in rules:
        if isinstance(rule, OrZero):
            made = rule.rule
            by_ours[made.ours] = Const(made.ours, 0.0) if lacks else made
        elif isinstance(rule, OrIdentity):
            made = rule.rule
            there = any(name in tensors for name in made.sources)
            by_ours[made.ours] = made if there else Const(made.ours, 1.0, diagonal=True)
        elif isinstance(rule, Either):
            there = any(name in tensors for name in rule.other.sources)
            by_ours[rule.rule.ours] = rule.other if there else rule.rule
        elif isinstance(rule, Same):
            by_ours.update((name, Rename(name, name)) for name in shapes)
        elif isinstance(rule, Drop):
            dropped.add(rule.theirs)
        else:
            by_ours[rule.ours] = rule
    for rule in by_ours.values():
        if not isinstance(rule, Const):
            needed.update(rule.needs(shapes[rule.ours]))
    if set(by_ours) != set(shapes):  # the format file is wrong, not the checkpoint
        raise ValueError(f"no rule makes {sorted(set(shapes) - set(by_ours))}")
    missing = {name: shape for name, shape in needed.items() if name not in tensors}
    extra = {n: s.shape for n, s in tensors.items() if n not in needed and n not in dropped}
    odd = {n: s for n, s in needed.items() if n in tensors and not _fits(tensors[n].shape, s)}
    if missing or extra or odd:
        shown = {n: str(s).replace(str(ANY), "any") for n, s in odd.items()}
        lines = [f"  misshapen {n}  {tensors[n].shape}, expected {s}" for n, s in shown.items()]
        lines += _unmatched(missing, extra)
        if len(lines) > LISTED:
            lines[LISTED:] = [f"  ... and {len(lines) - LISTED} more"]
        count = len(missing) + len(extra) + len(odd)
        counted = f"{count} of its {len(tensors)} tensors do not fit"
        raise CheckpointError("\n".join([f"{what}, but {counted}:", *lines]))
    return by_ours


def assemble(
    by_ours: Mapping[str, Made | Const],
    tensors: Mapping[str, Stored],
    like: Mapping[str, Tensor],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    file: str,
) -> Iterator[tuple[str, Tensor]]:
    """Each of our tensors in memory of its own, floating ones as `dtype`, sources read in turn.

    like: ours by name, for integer types. file: that of the sources, for errors. No more than one
    source set is in memory beside them. Raises CheckpointError for integers where floating point is
    expected, and for NaN and infinity.
    """
    for ours, rule in by_ours.items():
        kind = dtype if like[ours].is_floating_point() else like[ours].dtype
        out = torch.empty(like[ours].shape, dtype=kind, device=device)
        if isinstance(rule, Const) and rule.diagonal:
            out.zero_().fill_diagonal_(rule.value)
        elif isinstance(rule, Const):
            out.fill_(rule.value)
        else:
            made = rule.make([tensors[name].read() for name in rule.sources])
            if made.is_floating_point() != out.is_floating_point():
                raise CheckpointError(
                    f"{file}: {', '.join(rule.sources)} holds {made.dtype}; floating point is "
                    "expected (a quantised checkpoint must be converted first)"
                )
            out.copy_(made)
            if out.is_floating_point() and not _finite(out):
                _refuse_infinite(file, rule.sources, made, dtype)
            del made
        yield ours, out


def _fits(shape: Shape, wanted: Shape) -> bool:
    """Whether a tensor has the shape that a rule needs."""
    alike = len(shape) == len(wanted)
    return alike and all(b in (a, ANY) for a, b in zip(shape, wanted, strict=True))


def _finite(values: Tensor) -> bool:
    """True if all numbers are finite. The sum of others is not finite either, and summing takes a
    tenth of the time of testing each number."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _refuse_infinite(file: str, names: Sequence[str], made: Tensor, dtype: torch.dtype) -> NoReturn:
    """Raise CheckpointError for a tensor with numbers that are not finite in memory."""
    sources = f"{file}: {', '.join(names)}"
    if _finite(made):
        largest = made.abs().max().item()
        raise CheckpointError(
            f"{sources} holds {largest:.6g}, which {dtype} cannot: load it as float32 or bfloat16"
        )
    bad = made.numel() - int(made.isfinite().sum())
    raise CheckpointError(
        f"{sources}: {bad} of its {made.numel()} numbers are NaN or infinite; it was saved after a "
        "training that diverged, or the file is damaged"
    )


def _unmatched(missing: Mapping[str, Shape], extra: Mapping[str, Shape]) -> list[str]:
    """A line for every name on one side only, likely renamings side by side."""
    lines, left = [], dict(extra)
    for name, shape in missing.items():
        lines.append(f"  missing   {name}  {shape}")
        alike = [n for n, s in left.items() if s == shape]
        for close in difflib.get_close_matches(name, alike, n=1, cutoff=0.8):
            lines.append(f"  extra     {close}  {left.pop(close)}  did you rename it?")
    return lines + [f"  extra     {name}  {shape}" for name, shape in left.items()]
