"""Maps the linear layers of a network to the modules of the checkpoint's own library, so that an
adapter that is trained on the one can be written as an adapter of the other."""

from __future__ import annotations

from collections.abc import Iterable

from patchword.bundle import Bundle
from patchword.checkpoints.formats import recognise
from patchword.checkpoints.resolve import locate
from patchword.checkpoints.rules import Fuse, Rename, fit
from patchword.errors import CheckpointError

Rows = tuple[int, int]  # rows of our weight: the first, and one past the last


def modules_of(
    source: str, model: Bundle, layers: Iterable[str]
) -> dict[str, tuple[tuple[str, Rows], ...]]:
    """For each of our layers, the modules of the checkpoint `source` that it consists of, with
    their rows of our weight: queries, keys and values are often three modules.

    model: that checkpoint, loaded. Raises CheckpointError for a layer that peft could not name.
    """
    opened = locate(source)
    if opened.adapter is not None:
        raise CheckpointError(f"{source} is an adapter itself; merge it into its base first")
    form = recognise(opened)
    shapes = {name: tuple(value.shape) for name, value in model.own_network.state_dict().items()}
    rules = fit(form.rules(model.config), opened.tensors, shapes, source)
    out = {}
    for layer in layers:
        rule = rules.get(f"{layer}.weight")
        if type(rule) not in (Rename, Fuse):
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
