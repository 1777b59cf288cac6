"""Low-rank adapters (Hu et al. 2022) on any tower, by peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from patchword import checkpoints
from patchword.atomic_write import make_folder, replacing
from patchword.bundle import Bundle
from patchword.config import ModelConfig
from patchword.errors import CheckpointError, RecipeError, warn
from patchword.optional import optional
from patchword.train.initial_model import within
from patchword.train.recipe import LoraConfig, Recipe


def add(network: nn.Module, config: LoraConfig) -> None:
    """Add adapters to the linear layers that `config` selects, in place, and freeze all else.

    Raises RecipeError if there is no such layer, or peft is not installed.
    """
    peft = optional("peft", "train", "lora", RecipeError)
    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=layers(network, config),
        bias="none",
    )
    peft.inject_adapter_in_model(adapters, network)


def layers(network: nn.Module, config: LoraConfig) -> list[str]:
    """The names of the linear layers that `config` selects. Raises RecipeError if there is none,
    and for an entry of `config.layers` that selects none, unless it is one of the defaults."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    for part in config.within:
        if not any(within(name, (part,)) for name in linear):
            raise RecipeError(f"lora.within: no linear layer is within {part}")
    candidates = [name for name in linear if not config.within or within(name, config.within)]
    selected: set[str] = set()
    for layer in config.layers:
        matches = [name for name in candidates if f".{name}".endswith(f".{layer}")]
        if not matches and layer not in LoraConfig.layers:
            raise RecipeError(f"lora.layers: no linear layer ends in {layer}")
        selected.update(matches)
    if not selected:
        place = f" within {', '.join(config.within)}" if config.within else ""
        raise RecipeError(f"lora: no linear layer ends in {' or '.join(config.layers)}{place}")
    return [name for name in candidates if name in selected]


@dataclass(frozen=True)
class AdapterWriter:
    """Writes the adapter of a run for peft, with the names of the library that `init` comes from.

    base: the name by which another program finds `init`. modules: for each of our layers, the
    modules of that library that hold its weight, each with its rows of our weight.
    """

    base: str
    config: LoraConfig
    modules: Mapping[str, tuple[tuple[str, tuple[int, int]], ...]]

    def write(self, folder: Path, values: Mapping[str, Tensor]) -> None:
        """Write adapter_config.json and adapter_model.safetensors. values: our tensors by name."""
        peft = optional("peft", "train", "lora", RecipeError)
        tensors = {}
        for layer, parts in self.modules.items():
            a, b = (values[f"{layer}.lora_{side}.default.weight"] for side in "AB")
            for module, (start, end) in parts:
                name = f"base_model.model.{module}.lora"
                tensors[f"{name}_A.weight"] = a.clone()
                tensors[f"{name}_B.weight"] = b[start:end].contiguous()
        make_folder(folder)
        with replacing(folder / "adapter_model.safetensors") as part:
            safetensors.torch.save_file(tensors, part, metadata={"format": "pt"})
        peft.LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            lora_dropout=self.config.dropout,
            target_modules=sorted(name for parts in self.modules.values() for name, _ in parts),
            bias="none",
            base_model_name_or_path=self.base,
            inference_mode=True,
        ).save_pretrained(str(folder))


def adapter_writer(
    recipe: Recipe, init: Bundle | None, config: ModelConfig, network: nn.Module
) -> AdapterWriter | None:
    """The writer of a run's adapter. None, with a warning that says why, for a run that changes
    more than an adapter can hold."""
    lora = recipe.lora
    assert lora is not None
    try:
        if init is None or recipe.fresh:
            raise CheckpointError("parts of the model are not from init")
        if recipe.weights or recipe.architecture:
            raise CheckpointError(
                "an adapter cannot say with which weights or architecture of init"
            )
        if _comparable(config) != _comparable(init.config):
            raise CheckpointError("the model is not that of init: its config differs")
        modules = checkpoints.modules_of(recipe.init, init, layers(network, lora))
    except CheckpointError as error:
        warn(f"only the merged model will be written, no adapter: {error}")
        return None
    return AdapterWriter(init.name, lora, modules)


def _comparable(config: ModelConfig) -> ModelConfig:
    """The config without the fields that an adapter does not depend on."""
    return replace(config, source="", assumed={}, dense_head=None)


def merge(network: nn.Module) -> None:
    """Merge each adapter into the weight of its layer, in place. The network has no adapters
    then."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, module.get_base_layer())
