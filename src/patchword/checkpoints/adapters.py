"""Low-rank adapters (Hu et al. 2022) as peft writes them, merged into the weights that they change.

An adapter is a folder with adapter_config.json and adapter_model.safetensors, or it is inside the
weights themselves, beside a "base_layer". The computation is that of peft's `merge_and_unload`;
adapters of any other kind are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchword.checkpoints.adapter_names import Names
from patchword.checkpoints.layouts import ADAPTER, ADAPTER_WEIGHTS
from patchword.checkpoints.read import Files, Source, Stored, open_path
from patchword.errors import CheckpointError

PREFIX = "base_model.model."  # before every name in what peft writes
MERGE = "merge it with peft's merge_and_unload(), save the model with save_pretrained()"

# A matrix of an adapter: its module, which one it is, the adapter's name in a model that has it
# beside its base, and whether it is a bias. Of embeddings they are parameters, without "weight".
MATRIX = re.compile(
    r"(?P<module>.+?)\.lora_(?P<kind>embedding_)?(?P<side>[AB])"
    r"(?:\.(?P<name>(?!weight$|bias$)[^.]+))?(?:\.(?P<leaf>weight|bias))?"
)
SAVED = re.compile(r"(.+)\.modules_to_save(?:\.[^.]+)?\.([^.]+)")  # a module that was trained whole

# Tensor names by which adapters that are no plain LoRA are recognised.
OTHERS = {
    "lora_magnitude_vector": "DoRA",
    "lora_E": "AdaLoRA",
    "lora_down": "a LoRA as kohya's scripts and diffusers write it",
    "lora.up": "a LoRA as kohya's scripts and diffusers write it",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "ia3_l": "IA3",
    "oft_R": "OFT or BOFT",
    "oft_r": "OFT or BOFT",
    "vera_lambda": "VeRA",
    "prompt_e": "prompt tuning",
    "trainable_tokens": "trainable tokens",
}

# Keys of adapter_config.json about its training, or about what its tensors show anyway. All others
# that are set change the computation.
TRAINING = frozenset(
    {
        "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
        "inference_mode", "target_modules", "exclude_modules", "lora_dropout", "bias", "lora_bias",
        # peft sets this to false for linear layers, whatever it says; other layers are none here
        "fan_in_fan_out", "modules_to_save", "layers_to_transform", "layers_pattern",
        "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
        "qalora_group_size", "ensure_weight_tying", "runtime_config",
    }
)  # fmt: skip
# Initialisations that do not change the base's weights.
BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Lora:
    """The content of a LoRA's adapter_config.json."""

    where: str  # its name in errors
    base: str | None  # a hub id, or a path on the machine that trained
    revision: str | None
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    by_root: bool  # rsLoRA: scaled by alpha / sqrt(rank) (Kalajdzievski 2023)
    saved: tuple[str, ...]  # modules that were trained whole

    def scaling(self, module: str, rank: int) -> float:
        """The factor of one product, whose matrices have this rank. Raises CheckpointError when
        that is not the rank in the config."""
        configured = _pattern(self.rank_pattern, module, self.rank)
        if configured != rank:
            raise CheckpointError(
                f"{self.where} gives {module} the rank {configured}, its A has {rank}"
            )
        alpha: float = _pattern(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.by_root else alpha / rank


def _pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that fits the end of a module's name (peft,
    `get_pattern_key`)."""
    return next(
        (v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default
    )


def found(folder: Path) -> Path | None:
    """The weights of the adapter of a folder; None where there is none."""
    has_config = (folder / ADAPTER).is_file()
    files = (folder / name for name in ADAPTER_WEIGHTS if has_config)
    return next((file for file in files if file.is_file()), None)


def read(folder: Path) -> Lora:
    """The adapter of a folder. Raises CheckpointError for one that is no plain LoRA."""
    return parsed(Files(folder)[ADAPTER], str(folder / ADAPTER))


def parsed(values: Any, where: str) -> Lora:
    """adapter_config.json, parsed."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} is {values!r}, not an object")
    kind = values.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{where} is an adapter of peft_type {kind!r}, not LORA: {MERGE}")
    handled = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"}
    handled |= TRAINING | {"init_lora_weights"}
    if values.get("use_dora"):
        raise CheckpointError(f"{where} is a DoRA (use_dora), not a plain LoRA: {MERGE}")
    if values.get("init_lora_weights") not in BEGINNINGS:
        raise CheckpointError(
            f"{where} says init_lora_weights is {values['init_lora_weights']!r}, which changes the "
            f"base's weights too: {MERGE}"
        )
    for key, value in values.items():
        if key not in handled and value not in (None, False, {}, []):
            raise CheckpointError(
                f"{where} says {key} is {value!r}, which patchword does not compute: {MERGE}"
            )
    rank: Any = values.get("r")
    alpha: Any = values.get("lora_alpha")
    ranks, alphas = values.get("rank_pattern") or {}, values.get("alpha_pattern") or {}
    numbers = [rank, alpha, *_values(ranks, where), *_values(alphas, where)]
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise CheckpointError(f"{where} has no numbers for r, lora_alpha and their patterns")
    base, revision = values.get("base_model_name_or_path"), values.get("revision")
    return Lora(
        where=where,
        base=base if isinstance(base, str) and base else None,
        revision=revision if isinstance(revision, str) else None,
        rank=rank,
        alpha=alpha,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        by_root=bool(values.get("use_rslora")),
        saved=tuple(values.get("modules_to_save") or ()),
    )


def _values(pattern: Any, where: str) -> list[Any]:
    if not isinstance(pattern, dict):
        raise CheckpointError(f"{where}: {pattern!r} is no object of patterns")
    return list(pattern.values())


def merge(base: Source, file: Path) -> Source:
    """`base` with the adapter of `file` merged into its weights. Raises CheckpointError for one of
    another kind, or that does not fit."""
    lora = read(file.parent)
    if _adapted(base.tensors):
        raise CheckpointError(
            f"{base.weights} holds an adapter that is not merged, and {file} is another; {MERGE}"
        )
    tensors = merged(base.tensors, open_path(file, base.name).tensors, lora)
    return replace(base, tensors=tensors, adapter=file)


def unmixed(opened: Source) -> Source:
    """A checkpoint that contains both its base and an adapter, merged; any other as it is."""
    names = opened.tensors
    _refuse_others(names, str(opened.weights))
    if not _adapted(names):
        return opened
    if ADAPTER not in opened.files:
        raise CheckpointError(
            f"{opened.weights} holds a LoRA adapter that is not merged, and nothing says how much "
            f"of it: put its {ADAPTER} beside, which states r and lora_alpha; or {MERGE}"
        )
    lora = parsed(opened.files[ADAPTER], str(opened.folder / ADAPTER))
    base, adapter = {}, {}
    for name, tensor in names.items():
        bare = name.removeprefix(PREFIX)
        if MATRIX.fullmatch(bare) or SAVED.fullmatch(bare):
            adapter[bare] = tensor
        elif ".original_module." in bare:
            base[bare.replace(".original_module.", ".")] = tensor
        else:
            base[bare.replace(".base_layer.", ".")] = tensor
    return replace(opened, tensors=merged(base, adapter, lora), adapter=opened.weights)


def _adapted(names: Mapping[str, Stored]) -> bool:
    return any(".lora_A." in name or ".lora_embedding_A" in name for name in names)


def _refuse_others(names: Mapping[str, Stored], where: str) -> None:
    for name in names:
        for mark, kind in OTHERS.items():
            if mark in name:
                raise CheckpointError(f"{where} holds {name}: {kind}, not a plain LoRA; {MERGE}")


def merged(
    base: Mapping[str, Stored], adapter: Mapping[str, Stored], lora: Lora
) -> dict[str, Stored]:
    """The base's tensors, with those that the adapter changes or replaces in place of its own.

    base: by the names of its file. adapter: by peft's names. Raises CheckpointError when they do
    not fit each other.
    """
    _refuse_others(adapter, lora.where)
    matrices, whole = _sorted(adapter, lora)
    names = Names(base, [*matrices], [*whole], lora.where, lora.saved)
    out = {names.renamed(name): tensor for name, tensor in base.items()}
    for name, tensor in whole.items():
        out[names.tensor(name)] = tensor
    for module, sides in matrices.items():
        weight = names.weight(module)
        scaling = lora.scaling(module, _rank(sides, module, lora)) * (1 + ("twice" in sides))
        out[weight] = _sum(out[weight], sides, scaling, f"{lora.where}: {module}")
        if bias := sides.get("Bbias"):
            place = names.tensor(f"{module}.bias")
            out[place] = _plus(out[place], partial(_scaled, bias, scaling))
    return out


# "A" and "B", or "eA" and "eB" of an embedding; "Bbias" where B has one; "twice": see `INSIDE`.
Sides = dict[str, Stored]
# The output projection of torch's MultiheadAttention, whose product peft adds twice, with and
# without merging (`MultiheadAttention.merge` of its lora/layer.py): in training too.
INSIDE = ".base_layer.out_proj"


def _sorted(
    adapter: Mapping[str, Stored], lora: Lora
) -> tuple[dict[str, Sides], dict[str, Stored]]:
    """The matrices of each module, and the tensors that replace the base's."""
    matrices: dict[str, Sides] = {}
    whole: dict[str, Stored] = {}
    called: set[str] = set()
    for name, tensor in adapter.items():
        bare = name.removeprefix(PREFIX)
        if matrix := MATRIX.fullmatch(bare):
            called.add(matrix["name"] or "")
            module = matrix["module"].replace(".base_layer", "")
            leaf = "bias" if matrix["leaf"] == "bias" else ""
            side = ("e" if matrix["kind"] else "") + matrix["side"] + leaf
            matrices.setdefault(module, {})[side] = tensor
            if matrix["module"].endswith(INSIDE):
                matrices[module]["twice"] = tensor
        elif saved := SAVED.fullmatch(bare):
            whole[f"{saved[1]}.{saved[2]}"] = tensor
        elif ".original_module." not in bare:  # the parameter that modules_to_save replaced
            whole[bare.replace(".base_layer.", ".")] = tensor
    if len(called) > 1:
        raise CheckpointError(
            f"{lora.where}: there are several adapters, {', '.join(sorted(called))}; merge one"
        )
    return matrices, whole


def _rank(sides: Sides, module: str, lora: Lora) -> int:
    for kind in ("", "e"):
        if {f"{kind}A", f"{kind}B"} <= set(sides):
            return sides[f"{kind}A"].shape[0]
    raise CheckpointError(f"{lora.where}: of the adapter of {module} one matrix is missing")


def _sum(weight: Stored, sides: Sides, scaling: float, where: str) -> Stored:
    """A weight plus the scaled product of an adapter's matrices."""
    a, b = (sides.get("A") or sides["eA"], sides.get("B") or sides["eB"])
    # (R, I, ...) and (O, R, ...); of embeddings (N, D) they are (R, N) and (D, R)
    shape = (b.shape[0], *a.shape[1:])
    shape = shape[::-1] if "eA" in sides else shape
    if shape != weight.shape or b.shape[1] != a.shape[0]:
        raise CheckpointError(
            f"{where} is {weight.shape} in the base, but its A is {a.shape} and its B {b.shape}"
        )

    def product() -> Tensor:
        left, right = b.read().float(), a.read().float()
        if "eA" in sides:
            return (left @ right).mT * scaling
        flat = left.flatten(1) @ right.flatten(1)
        return flat.reshape(shape) * scaling

    return _plus(weight, product)


def _scaled(stored: Stored, scaling: float) -> Tensor:
    return stored.read().float() * scaling


def _plus(stored: Stored, more: Callable[[], Tensor]) -> Stored:
    def read() -> Tensor:
        value = stored.read()
        if not value.is_floating_point():
            raise CheckpointError(
                f"an adapter's base holds {value.dtype}; give one in full precision"
            )
        kind = torch.promote_types(value.dtype, torch.float32)
        return value.to(kind) + more().to(kind)

    return Stored(stored.shape, read)
