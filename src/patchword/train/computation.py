"""How a network computes in training: compiled blocks, training mode, the attention kernel."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from patchword.nn.transformer import Block
from patchword.train.recipe import EngineConfig

# A compiled block has versions for each tower, for last blocks, for lengths of texts, with
# gradients and without. Above torch's default limit of 8, the rest would run uncompiled, and
# slower.
RECOMPILE_LIMIT = 64


def prepare_blocks(network: nn.Module, engine: EngineConfig) -> None:
    """Set gradient checkpointing for all blocks, and compile them if `engine` says so."""
    if engine.compile:
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    for module in network.modules():
        if isinstance(module, Block):
            module.recompute = engine.gradient_checkpointing
            if engine.compile:
                module.compile()


def training_mode(network: nn.Module) -> None:
    """Set all modules to training mode, except frozen ones: the statistics of a frozen batch norm
    must not change."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def attention_kernel(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Context in which attention trains fastest: on a CPU the backward pass of the fused kernel is
    slow in bfloat16."""
    explicit = device.type == "cpu" and precision == "bfloat16"
    return sdpa_kernel(SDPBackend.MATH) if explicit else nullcontext()
