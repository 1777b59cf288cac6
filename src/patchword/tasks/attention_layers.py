"""Which layers and heads of attention are shown, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from patchword.errors import UnsupportedError
from patchword.models.protocols import Tower


def layers_of(
    names: Sequence[str],
    model: str,
    layer: int | None,
    head: int | None,
    rollout: bool,
    all_layers: bool,
) -> list[str]:
    """Which of the layers are asked for. Raises UnsupportedError for one that is not there, and
    for options that contradict each other."""
    options = {"layer": layer is not None, "head": head is not None, "all_layers": all_layers}
    if rollout and any(options.values()):
        others = " and ".join(name for name, given in options.items() if given)
        raise UnsupportedError(
            "rollout is of all layers together and of the mean over heads; leave out "
            f"{others} or rollout"
        )
    if all_layers and layer is not None:
        raise UnsupportedError("all_layers shows every layer; leave out layer, or all_layers")
    if rollout or all_layers:
        return list(names)
    place, count = -1 if layer is None else layer, len(names)
    if isinstance(place, bool) or not isinstance(place, int) or not -count <= place < count:
        raise UnsupportedError(
            f"no layer {layer!r}: {model} has layers 0 to {count - 1}, or -1 to {-count} from the "
            "end"
        )
    return [names[place]]


def chosen(
    layers: Sequence[Tensor], head: int | None, rollout: bool, all_layers: bool
) -> tuple[Tensor, list[str]]:
    """Of layers' maps (heads, N, M) those that are shown, (K, N, M), and their titles; that of
    the mean over heads, which is not among them, comes before those of all heads."""
    if rollout:
        return rolled(layers)[None], ["rollout"]
    if not all_layers:
        return of_heads(layers[0], head)
    more = "" if head is None else f", head {head}"
    maps = torch.stack([of_heads(each, head)[0].mean(dim=0) for each in layers])
    return maps, [f"layer {i}{more}" for i in range(len(layers))]


def mean_of(layers: Sequence[Tensor], several: bool) -> Tensor:
    """(1, N, M): the mean over heads of the one layer (heads, N, M); (0, N, M) of several, whose
    means are among those that are shown."""
    return layers[0].mean(dim=0, keepdim=True)[: 0 if several else 1]


def of_heads(weights: Tensor, head: int | None) -> tuple[Tensor, list[str]]:
    """weights (heads, N, M) of one head or, for None, of all; titles, the mean's first for all."""
    if head is None:
        return weights, ["mean", *(f"head {i}" for i in range(len(weights)))]
    if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < len(weights):
        raise UnsupportedError(f"no head {head!r}: the layer has 0 to {len(weights) - 1}")
    return weights[head : head + 1], [f"head {head}"]


def rolled(layers: Sequence[Tensor]) -> Tensor:
    """Attention rollout (Abnar & Zuidema 2020, section 3) of maps (heads, N, N): (N, N). Where the
    last of them is an attention pooling, (heads, 1, N), which has no residual: its one row (1,
    N)."""
    total = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device)
    for weights in layers:
        mixed = weights.mean(dim=0)
        if len(mixed) > 1:
            mixed = mixed + torch.eye(len(mixed), dtype=mixed.dtype, device=mixed.device)
        total = (mixed / mixed.sum(dim=-1, keepdim=True)) @ total
    return total


def pooling(tower: Tower) -> list[str]:
    """The tap of the attention pooling that follows a tower's layers; none of another tower."""
    last = tower.pool_layer
    return [f"image.{last}.attn"] if last and last not in tower.attention_layers else []
