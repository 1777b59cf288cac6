"""Applies the rules of a format to a checkpoint.

`match_rules` compares names and shapes before a tensor is read; `read_tensors` then reads and
converts.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import (
    ANY,
    Const,
    Drop,
    Either,
    IdentityIfMissing,
    ReadingRule,
    Rename,
    Rule,
    SameNames,
    Shape,
    ZerosIfMissing,
)
from patchword.errors import CheckpointError

MAX_LISTED = 20  # tensors named in one error; the others are counted
Plan = dict[str, ReadingRule | Const]  # the rule for each target


def match_rules(
    rules: Iterable[Rule],
    tensors: Mapping[str, LazyTensor],
    shapes: Mapping[str, Shape],
    what: str,
) -> Plan:
    """The rule for each target, after all names and shapes were compared with the checkpoint.

    shapes: of each target. what: the checkpoint and its format, for the error. Raises
    CheckpointError with every missing, extra and misshapen tensor.
    """
    rules = list(rules)
    plan = _without_alternatives(rules, tensors, shapes)
    if set(plan) != set(shapes):  # the format file is wrong, not the checkpoint
        raise ValueError(f"no rule makes {sorted(set(shapes) - set(plan))}")
    needed: dict[str, Shape] = {}
    for target, rule in plan.items():
        if not isinstance(rule, Const):
            needed.update(rule.source_shapes(shapes[target]))
    known = needed.keys() | {rule.source for rule in rules if isinstance(rule, Drop)}
    missing = {name: shape for name, shape in needed.items() if name not in tensors}
    extra = {name: tensor.shape for name, tensor in tensors.items() if name not in known}
    misshapen = {
        name: shape
        for name, shape in needed.items()
        if name in tensors and not _same_shape(tensors[name].shape, shape)
    }
    if missing or extra or misshapen:
        lines = []
        for name, shape in misshapen.items():
            expected = str(shape).replace(str(ANY), "any")
            lines.append(f"  misshapen {name}  {tensors[name].shape}, expected {expected}")
        lines += _unmatched(missing, extra)
        if len(lines) > MAX_LISTED:
            lines[MAX_LISTED:] = [f"  ... and {len(lines) - MAX_LISTED} more"]
        count = len(missing) + len(extra) + len(misshapen)
        counted = f"{count} of its {len(tensors)} tensors do not fit"
        raise CheckpointError("\n".join([f"{what}, but {counted}:", *lines]))
    return plan


def _without_alternatives(
    rules: Sequence[Rule], tensors: Mapping[str, LazyTensor], shapes: Mapping[str, Shape]
) -> Plan:
    """The rule for each target. Of a rule with alternatives, the one whose sources exist."""

    def has_source(rule: ReadingRule) -> bool:
        return any(name in tensors for name in rule.sources)

    has_biases = any(has_source(rule.rule) for rule in rules if isinstance(rule, ZerosIfMissing))
    plan: Plan = {}
    for rule in rules:
        if isinstance(rule, ZerosIfMissing):
            target = rule.rule.target
            plan[target] = rule.rule if has_biases else Const(target, 0.0)
        elif isinstance(rule, IdentityIfMissing):
            target = rule.rule.target
            plan[target] = rule.rule if has_source(rule.rule) else Const(target, 1.0, diagonal=True)
        elif isinstance(rule, Either):
            plan[rule.rule.target] = rule.other if has_source(rule.other) else rule.rule
        elif isinstance(rule, SameNames):
            plan.update((name, Rename(name, name)) for name in shapes)
        elif not isinstance(rule, Drop):
            plan[rule.target] = rule
    return plan


def read_tensors(
    plan: Plan,
    tensors: Mapping[str, LazyTensor],
    like: Mapping[str, Tensor],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    file: str,
) -> Iterator[tuple[str, Tensor]]:
    """Each target with its name. Sources are read one rule at a time, so that memory holds the
    targets and the sources of one rule. Floating point tensors become `dtype`.

    like: our tensors by name, for shapes and integer types. file: that of the sources, for errors.
    Raises CheckpointError for integers where floating point is expected, and for NaN and infinity.
    """
    for target, rule in plan.items():
        kind = dtype if like[target].is_floating_point() else like[target].dtype
        out = torch.empty(like[target].shape, dtype=kind, device=device)
        if isinstance(rule, Const) and rule.diagonal:
            out.zero_().fill_diagonal_(rule.value)
        elif isinstance(rule, Const):
            out.fill_(rule.value)
        else:
            converted = rule.convert([tensors[name].read() for name in rule.sources])
            if converted.is_floating_point() != out.is_floating_point():
                raise CheckpointError(
                    f"{file}: {', '.join(rule.sources)} holds {converted.dtype}; floating point is "
                    "expected (a quantised checkpoint must be converted first)"
                )
            out.copy_(converted)
            if out.is_floating_point() and not _finite(out):
                _refuse_infinite(file, rule.sources, converted, dtype)
            del converted  # before the caller keeps `out`
        yield target, out


def _same_shape(shape: Shape, expected: Shape) -> bool:
    """Whether a tensor has the shape that a rule needs."""
    if len(shape) != len(expected):
        return False
    return all(size in (actual, ANY) for actual, size in zip(shape, expected, strict=True))


def _finite(values: Tensor) -> bool:
    """Whether all numbers are finite. If one is not, the sum is not finite either, and a sum takes
    a tenth of the time of testing each number."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _refuse_infinite(
    file: str, names: Sequence[str], converted: Tensor, dtype: torch.dtype
) -> NoReturn:
    """Raise CheckpointError for a tensor with numbers that are not finite in memory."""
    sources = f"{file}: {', '.join(names)}"
    if _finite(converted):
        largest = converted.abs().max().item()
        raise CheckpointError(
            f"{sources} holds {largest:.6g}, which {dtype} cannot: load it as float32 or bfloat16"
        )
    bad = converted.numel() - int(converted.isfinite().sum())
    raise CheckpointError(
        f"{sources}: {bad} of its {converted.numel()} numbers are NaN or infinite; it was saved "
        "after a training that diverged, or the file is damaged"
    )


def _unmatched(missing: Mapping[str, Shape], extra: Mapping[str, Shape]) -> list[str]:
    """A line for each missing and each extra tensor. A missing one is followed by an extra one of
    the same shape and a similar name: it was likely renamed."""
    lines, left = [], dict(extra)
    for name, shape in missing.items():
        lines.append(f"  missing   {name}  {shape}")
        same_shape = [other for other, other_shape in left.items() if other_shape == shape]
        for similar in difflib.get_close_matches(name, same_shape, n=1, cutoff=0.8):
            lines.append(f"  extra     {similar}  {left.pop(similar)}  did you rename it?")
    return lines + [f"  extra     {name}  {shape}" for name, shape in left.items()]
