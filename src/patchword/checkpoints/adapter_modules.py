"""Maps the linear layers of a network to the modules of the checkpoint's own library, so that an
adapter that was trained here can be written for that library."""

from __future__ import annotations

from collections.abc import Iterable

from patchword.bundle import Bundle
from patchword.checkpoints.apply_rules import match_rules
from patchword.checkpoints.formats import recognise
from patchword.checkpoints.resolve import locate
from patchword.checkpoints.rules import Fuse, Rename
from patchword.errors import CheckpointError

Rows = tuple[int, int]  # rows of our weight: the first, and one past the last


def modules_of(
    source: str, model: Bundle, layers: Iterable[str]
) -> dict[str, tuple[tuple[str, Rows], ...]]:
    """For each layer, the modules of the checkpoint `source` that it was made from, with their
    rows of our weight: queries, keys and values are often three modules.

    model: that checkpoint, loaded. Raises CheckpointError for a layer that peft could not name.
    """
    opened = locate(source)
    if opened.adapter is not None:
        raise CheckpointError(f"{source} is an adapter itself; merge it into its base first")
    form = recognise(opened)
    shapes = {name: tuple(value.shape) for name, value in model.own_network.state_dict().items()}
    plan = match_rules(form.rules(model.config), opened.tensors, shapes, source)
    out = {}
    for layer in layers:
        rule = plan.get(f"{layer}.weight")
        if type(rule) not in (Rename, Fuse):  # not of a subclass, which changes the tensor
            raise CheckpointError(f"{source} has no linear layer that is {layer} here")
        assert isinstance(rule, (Rename, Fuse))
        parts, start = [], 0
        for name in rule.sources:
            if not name.endswith(".weight"):
                raise CheckpointError(f"{source} has {name}, which is no module of its own")
            end = start + opened.tensors[name].shape[0]
            parts.append((name.removesuffix(".weight"), (start, end)))
            start = end
        out[layer] = tuple(parts)
    return out
