"""Which weights decay, and the learning rate of each step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from patchword.config import ModelConfig
from patchword.errors import counted, warn
from patchword.train.recipe import Recipe

MARGIN = 1e-6  # below the limit of a logit scale, so that float32 rounding does not exceed it


def parameter_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """The trained parameters in two groups, with weight decay and without.

    With weight decay: the weights of linear layers, convolutions and token embeddings. Without:
    biases, norms, the temperature, layer scales, position embeddings and Swin's relative position
    tables, class, distillation, register and mask tokens (timm's `no_weight_decay`, MAE's and
    Swin's own code), and the query of attention pooling, which timm decays.
    """
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
    decayed = {id(m.weight) for m in network.modules() if isinstance(m, kinds)}
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in decayed], "weight_decay": decay},
        {"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def clip_scale(network: nn.Module, config: ModelConfig) -> None:
    """Move a trained logit scale that is above its limit back to it, after each step, as CLIP and
    open_clip do. Above the limit the clamp within the network has no gradient, and the scale could
    not become smaller again."""
    parameter = getattr(network, "logit_scale", None)
    if config.score == "softmax" and parameter is not None and parameter.requires_grad:
        parameter.clamp_(max=math.log(config.scale_limit) - MARGIN)


def match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser's state the strides of its parameters: the fused kernel ignores strides,
    and the state of a checkpoint from another number of processes may have others."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter).copy_(value)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine decay to zero (Loshchilov & Hutter 2017, eq. 5). It depends on
    the step alone: torch's schedulers are recursive, and round differently in a continued run."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def warn_of_warmup(recipe: Recipe) -> None:
    """Warn of a warm-up that is longer than the run."""
    if recipe.warmup > recipe.steps:
        warn(
            f"warmup is {recipe.warmup}, of {counted(recipe.steps, 'step')}: the learning rate "
            f"gets to {learning_rate(recipe, recipe.steps - 1):.2g}, not to "
            f"{recipe.learning_rate:g}; give warmup=... below steps"
        )
