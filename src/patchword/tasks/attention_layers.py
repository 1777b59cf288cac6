"""The layers and heads of attention that are shown, and their titles."""

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
    """The layers that the options choose. Raises UnsupportedError for an unknown layer, and for
    options that contradict each other."""
    is_set = {"layer": layer is not None, "head": head is not None, "all_layers": all_layers}
    if rollout and any(is_set.values()):
        others = " and ".join(name for name, value in is_set.items() if value)
        raise UnsupportedError(
            "rollout is of all layers together and of the mean over heads; leave out "
            f"{others} or rollout"
        )
    if all_layers and layer is not None:
        raise UnsupportedError("all_layers shows every layer; leave out layer, or all_layers")
    if rollout or all_layers:
        return list(names)
    number, count = -1 if layer is None else layer, len(names)
    if isinstance(number, bool) or not isinstance(number, int) or not -count <= number < count:
        raise UnsupportedError(
            f"no layer {layer!r}: {model} has layers 0 to {count - 1}, or -1 to {-count} from the "
            "end"
        )
    return [names[number]]


def chosen(
    layers: Sequence[Tensor], head: int | None, rollout: bool, all_layers: bool
) -> tuple[Tensor, list[str]]:
    """From the attention (heads, N, M) of layers the maps that are shown, (K, N, M), and their
    titles. Of all heads of one layer there is a title "mean" more, which comes first."""
    if rollout:
        return rolled(layers)[None], ["rollout"]
    if not all_layers:
        return of_heads(layers[0], head)
    suffix = "" if head is None else f", head {head}"
    maps = torch.stack([of_heads(weights, head)[0].mean(dim=0) for weights in layers])
    return maps, [f"layer {i}{suffix}" for i in range(len(layers))]


def mean_of(layers: Sequence[Tensor], several: bool) -> Tensor:
    """(1, N, M): the mean over heads of the first layer (heads, N, M). For several layers, whose
    means are shown already, (0, N, M)."""
    mean = layers[0].mean(dim=0, keepdim=True)
    return mean[:0] if several else mean


def of_heads(weights: Tensor, head: int | None) -> tuple[Tensor, list[str]]:
    """The weights (heads, N, M) of one head, or of all for None, and their titles; for all heads
    the title "mean" comes first."""
    if head is None:
        return weights, ["mean", *(f"head {i}" for i in range(len(weights)))]
    if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < len(weights):
        raise UnsupportedError(f"no head {head!r}: the layer has 0 to {len(weights) - 1}")
    return weights[head : head + 1], [f"head {head}"]


def rolled(layers: Sequence[Tensor]) -> Tensor:
    """Attention rollout (N, N) of the attention A^l (heads, N, N) of layers (Abnar & Zuidema 2020,
    section 3): with A the mean over heads and rows renormalised to 1,

        R <- (A + I) / 2 R, from R = I

    The last layer may be an attention pooling (heads, 1, N), which has no residual: R <- A R, (1,
    N).
    """
    rollout = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device)
    for weights in layers:
        mean = weights.mean(dim=0)
        if len(mean) > 1:
            mean = mean + torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        rollout = (mean / mean.sum(dim=-1, keepdim=True)) @ rollout
    return rollout


def pooling(tower: Tower) -> list[str]:
    """The tap of the attention pooling that follows a tower's layers; [] for another tower."""
    last = tower.pool_layer
    return [f"image.{last}.attn"] if last and last not in tower.attention_layers else []
