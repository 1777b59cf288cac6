"""Merges low-rank adapters (Hu et al. 2022), as peft writes them, into the weights of their base.

An adapter is a folder with adapter_config.json and adapter_model.safetensors, or it is in the file
of the weights, beside a "base_layer". The result is that of peft's `merge_and_unload`. Adapters of
any other kind are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchword.checkpoints.adapter_names import Names
from patchword.checkpoints.json_files import Files
from patchword.checkpoints.layouts import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from patchword.checkpoints.read import Checkpoint, LazyTensor, open_path
from patchword.errors import CheckpointError

PREFIX = "base_model.model."  # before every name in what peft writes
MERGE = "merge it with peft's merge_and_unload(), save the model with save_pretrained()"

# A matrix of an adapter: its module; A or B; the adapter's name, if it is beside its base; and
# "weight" or "bias". The matrices of embeddings are parameters, without "weight".
MATRIX = re.compile(
    r"(?P<module>.+?)\.lora_(?P<kind>embedding_)?(?P<side>[AB])"
    r"(?:\.(?P<name>(?!weight$|bias$)[^.]+))?(?:\.(?P<leaf>weight|bias))?"
)
SAVED = re.compile(r"(.+)\.modules_to_save(?:\.[^.]+)?\.([^.]+)")  # a module that was trained whole

# Parts of tensor names that only other kinds of adapters have.
OTHER_KINDS = {
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

# Keys of adapter_config.json that matter in training only, or that the tensors show. All other keys
# that are set change the computation.
IGNORED = frozenset(
    {
        "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
        "inference_mode", "target_modules", "exclude_modules", "lora_dropout", "bias", "lora_bias",
        # peft ignores fan_in_fan_out for linear layers, and here are no other layers that have it
        "fan_in_fan_out", "modules_to_save", "layers_to_transform", "layers_pattern",
        "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
        "qalora_group_size", "ensure_weight_tying", "runtime_config",
    }
)  # fmt: skip
# Values of init_lora_weights that do not change the base's weights.
INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")


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
    rank_stabilised: bool  # rsLoRA: scaled by alpha / sqrt(rank) (Kalajdzievski 2023)
    saved_modules: tuple[str, ...]  # trained whole

    def scaling(self, module: str, rank: int) -> float:
        """The factor of the product B @ A of a module. rank: of its matrices. Raises
        CheckpointError if it is not the rank in the config."""
        configured = _pattern(self.rank_pattern, module, self.rank)
        if configured != rank:
            raise CheckpointError(
                f"{self.where} gives {module} the rank {configured}, its A has {rank}"
            )
        alpha: float = _pattern(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank


def _pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name (peft,
    `get_pattern_key`)."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def find(folder: Path) -> Path | None:
    """The weights of the adapter in a folder; None if there is no adapter."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    files = [folder / name for name in ADAPTER_WEIGHTS]
    return next((file for file in files if file.is_file()), None)


def read_config(folder: Path) -> Lora:
    """The config of the adapter in a folder. Raises CheckpointError if it is not a plain LoRA."""
    return _parse_config(Files(folder)[ADAPTER_CONFIG], str(folder / ADAPTER_CONFIG))


def _parse_config(values: Any, where: str) -> Lora:
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} is {values!r}, not an object")
    kind = values.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{where} is an adapter of peft_type {kind!r}, not LORA: {MERGE}")
    if values.get("use_dora"):
        raise CheckpointError(f"{where} is a DoRA (use_dora), not a plain LoRA: {MERGE}")
    if values.get("init_lora_weights") not in INITIALISATIONS:
        raise CheckpointError(
            f"{where} says init_lora_weights is {values['init_lora_weights']!r}, which changes the "
            f"base's weights too: {MERGE}"
        )
    read = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"}
    known = read | IGNORED | {"init_lora_weights"}
    for key, value in values.items():
        if key not in known and value not in (None, False, {}, []):
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
        rank_stabilised=bool(values.get("use_rslora")),
        saved_modules=tuple(values.get("modules_to_save") or ()),
    )


def _values(pattern: Any, where: str) -> list[Any]:
    if not isinstance(pattern, dict):
        raise CheckpointError(f"{where}: {pattern!r} is no object of patterns")
    return list(pattern.values())


def merge(base: Checkpoint, file: Path) -> Checkpoint:
    """`base` with the adapter of `file` merged into its weights. Raises CheckpointError for an
    adapter of another kind, or that does not fit."""
    lora = read_config(file.parent)
    if _has_adapter(base.tensors):
        raise CheckpointError(
            f"{base.weights} holds an adapter that is not merged, and {file} is another; {MERGE}"
        )
    tensors = _merged(base.tensors, open_path(file, base.name).tensors, lora)
    return replace(base, tensors=tensors, adapter=file)


def merge_inside(opened: Checkpoint) -> Checkpoint:
    """A checkpoint whose file holds a base and an adapter, with the two merged; any other as it
    is."""
    _refuse_other_kinds(opened.tensors, str(opened.weights))
    if not _has_adapter(opened.tensors):
        return opened
    if ADAPTER_CONFIG not in opened.files:
        raise CheckpointError(
            f"{opened.weights} holds a LoRA adapter that is not merged, and nothing says how much "
            f"of it: put its {ADAPTER_CONFIG} beside, which states r and lora_alpha; or {MERGE}"
        )
    lora = _parse_config(opened.files[ADAPTER_CONFIG], str(opened.folder / ADAPTER_CONFIG))
    base, adapter = {}, {}
    for name, tensor in opened.tensors.items():
        bare = name.removeprefix(PREFIX)
        if MATRIX.fullmatch(bare) or SAVED.fullmatch(bare):
            adapter[bare] = tensor
        elif ".original_module." in bare:
            base[bare.replace(".original_module.", ".")] = tensor
        else:
            base[bare.replace(".base_layer.", ".")] = tensor
    return replace(opened, tensors=_merged(base, adapter, lora), adapter=opened.weights)


def _has_adapter(names: Iterable[str]) -> bool:
    return any(".lora_A." in name or ".lora_embedding_A" in name for name in names)


def _refuse_other_kinds(names: Iterable[str], where: str) -> None:
    for name in names:
        for part, kind in OTHER_KINDS.items():
            if part in name:
                raise CheckpointError(f"{where} holds {name}: {kind}, not a plain LoRA; {MERGE}")


# The output projection of torch's MultiheadAttention in a model with an adapter. peft adds its
# product twice, in training and when it merges (`MultiheadAttention.merge` of its lora/layer.py).
ADDED_TWICE = ".base_layer.out_proj"


@dataclass
class Matrices:
    """The matrices of one module, A (R, I, ...) and B (O, R, ...), and the bias of B.

    Those of an embedding (N, D) are A (R, N) and B (D, R).
    """

    a: LazyTensor | None = None
    b: LazyTensor | None = None
    bias: LazyTensor | None = None
    is_embedding: bool = False
    added_twice: bool = False


def _merged(
    base: Mapping[str, LazyTensor], adapter: Mapping[str, LazyTensor], lora: Lora
) -> dict[str, LazyTensor]:
    """The base's tensors, changed or replaced by those of the adapter.

    base: by the names of its file. adapter: by peft's names. Raises CheckpointError if they do not
    fit each other.
    """
    _refuse_other_kinds(adapter, lora.where)
    modules, replacements = _by_module(adapter, lora)
    names = Names(base, list(modules), list(replacements), lora.where, lora.saved_modules)
    out = {names.renamed(name): tensor for name, tensor in base.items()}
    for name, tensor in replacements.items():
        out[names.tensor(name)] = tensor
    for module, matrices in modules.items():
        a, b = matrices.a, matrices.b
        if a is None or b is None:
            raise CheckpointError(f"{lora.where}: of the adapter of {module} one matrix is missing")
        scaling = lora.scaling(module, rank=a.shape[0])
        if matrices.added_twice:
            scaling *= 2
        name = names.weight(module)
        product = _product(a, b, scaling, matrices.is_embedding)
        if product.shape != out[name].shape or b.shape[1] != a.shape[0]:
            raise CheckpointError(
                f"{lora.where}: {module} is {out[name].shape} in the base, but its A is {a.shape} "
                f"and its B {b.shape}"
            )
        out[name] = _sum(out[name], product)
        if matrices.bias is not None:
            name = names.tensor(f"{module}.bias")
            out[name] = _sum(out[name], _scaled(matrices.bias, scaling))
    return out


def _by_module(
    adapter: Mapping[str, LazyTensor], lora: Lora
) -> tuple[dict[str, Matrices], dict[str, LazyTensor]]:
    """The matrices of each module, and the tensors that replace the base's."""
    modules: dict[str, Matrices] = {}
    replacements: dict[str, LazyTensor] = {}
    adapter_names: set[str] = set()
    for name, tensor in adapter.items():
        bare = name.removeprefix(PREFIX)
        if match := MATRIX.fullmatch(bare):
            adapter_names.add(match["name"] or "")
            matrices = modules.setdefault(match["module"].replace(".base_layer", ""), Matrices())
            matrices.is_embedding = match["kind"] is not None
            matrices.added_twice = match["module"].endswith(ADDED_TWICE)
            if match["leaf"] == "bias":
                matrices.bias = tensor
            elif match["side"] == "A":
                matrices.a = tensor
            else:
                matrices.b = tensor
        elif saved := SAVED.fullmatch(bare):
            replacements[f"{saved[1]}.{saved[2]}"] = tensor
        elif ".original_module." not in bare:  # the base's, which modules_to_save replaced
            replacements[bare.replace(".base_layer.", ".")] = tensor
    if len(adapter_names) > 1:
        raise CheckpointError(
            f"{lora.where}: there are several adapters, {', '.join(sorted(adapter_names))}; merge "
            "one"
        )
    return modules, replacements


def _product(a: LazyTensor, b: LazyTensor, scaling: float, is_embedding: bool) -> LazyTensor:
    """scaling * B @ A, of an embedding transposed; see `Matrices` for their shapes."""
    shape = (b.shape[0], *a.shape[1:])

    def read() -> Tensor:
        product = b.read().float().flatten(1) @ a.read().float().flatten(1)
        if is_embedding:
            return product.mT * scaling
        return product.reshape(shape) * scaling

    return LazyTensor(shape[::-1] if is_embedding else shape, read)


def _scaled(tensor: LazyTensor, scaling: float) -> LazyTensor:
    return LazyTensor(tensor.shape, lambda: tensor.read().float() * scaling)


def _sum(stored: LazyTensor, change: LazyTensor) -> LazyTensor:
    """A tensor of the base plus its change, in float32 or more."""

    def read() -> Tensor:
        value = stored.read()
        if not value.is_floating_point():
            raise CheckpointError(
                f"an adapter's base holds {value.dtype}; give one in full precision"
            )
        kind = torch.promote_types(value.dtype, torch.float32)
        return value.to(kind) + change.read().to(kind)

    return LazyTensor(stored.shape, read)
