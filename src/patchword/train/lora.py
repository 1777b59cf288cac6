"""Low-rank adapters (Hu et al. 2022) on any tower, by peft."""

from __future__ import annotations

from torch import nn

from patchword.errors import RecipeError
from patchword.optional import optional
from patchword.train.initial_model import within
from patchword.train.recipe import LoraConfig


def add(network: nn.Module, config: LoraConfig) -> None:
    """Put adapters beside the linear layers that `config` names, in place, and freeze all else.

    Raises RecipeError where there is no such layer, or no peft.
    """
    peft = optional("peft", "train", "lora", RecipeError)
    ends = tuple(f".{layer}" for layer in config.layers)
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and f".{name}".endswith(ends)
        and (not config.within or within(name, config.within))
    ]
    if not names:
        place = f" within {', '.join(config.within)}" if config.within else ""
        raise RecipeError(f"lora: no linear layer ends in {' or '.join(config.layers)}{place}")
    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=names,
        bias="none",
    )
    peft.inject_adapter_in_model(adapters, network)


def merge(network: nn.Module) -> None:
    """Add each adapter to its layer's weight and take it away: a plain network again."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, module.get_base_layer())
