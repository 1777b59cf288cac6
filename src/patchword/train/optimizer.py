"""How weights are changed: which of them decay, and how fast they learn at each step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from patchword.train.recipe import Recipe


def groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters that learn with weight decay, and without.

    With it: the weights of linear layers, convolutions and token embeddings. Without: biases,
    norms, the temperature and the scales of layers, and what is learned of places and as a token:
    positions and a Swin's tables of relative ones, class, distillation, register and mask tokens,
    the query of a pooling (timm's `no_weight_decay`, MAE's and Swin's own code).
    """
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
    decayed = {id(m.weight) for m in network.modules() if isinstance(m, kinds)}
    learning = [p for p in network.parameters() if p.requires_grad]
    both = [
        {"params": [p for p in learning if id(p) in decayed], "weight_decay": decay},
        {"params": [p for p in learning if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return [group for group in both if group["params"]]


def align(optimizer: torch.optim.Optimizer) -> None:
    """Lay the optimiser's tensors out in memory as their parameters are, which a checkpoint of
    another number of processes may not: the fused kernel goes by memory, not by index."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter).copy_(value)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2017, eq. 5)."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (1 + math.cos(math.pi * done)) / 2
