"""What the formats of Hugging Face's transformers share: configurations, names, layers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.rules import Drop, Fuse, Rename, Rule, Unsqueeze
from patchword.config import ModelConfig
from patchword.errors import CheckpointError

CONFIG_FILE = "config.json"

ACTIVATIONS = {  # transformers.activations.ACT2FN
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# What transformers 5 calls in memory, and in its state_dict(), otherwise than in its files.
OUT_IN_MEMORY = {"attention.o_proj.": "attention.output.dense."}
PARTS_IN_MEMORY = {
    **OUT_IN_MEMORY,
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}
SWIN_IN_MEMORY = {
    "attention.q_proj.": "attention.self.query.",
    "attention.k_proj.": "attention.self.key.",
    "attention.v_proj.": "attention.self.value.",
    "attention.relative_position_bias.": "attention.self.",
    **PARTS_IN_MEMORY,
}
QKV_IN_MEMORY = {
    "attention.q_proj.": "attention.attention.query.",
    "attention.k_proj.": "attention.attention.key.",
    "attention.v_proj.": "attention.attention.value.",
}
VIT_IN_MEMORY = QKV_IN_MEMORY | PARTS_IN_MEMORY
DINOV2_IN_MEMORY = QKV_IN_MEMORY | OUT_IN_MEMORY
IN_MEMORY = {"vit": VIT_IN_MEMORY, "deit": VIT_IN_MEMORY, "vit_mae": VIT_IN_MEMORY}
IN_MEMORY |= {"swin": SWIN_IN_MEMORY}
IN_MEMORY |= {"dinov2": DINOV2_IN_MEMORY, "dinov2_with_registers": DINOV2_IN_MEMORY}
LAYER_IN_MEMORY = re.compile(r"(^|\.)layers\.(\d+)\.")
LAYERS = "encoder.layers."  # of CLIP and SigLIP

# `ModelConfig.source` of a classifier that was saved without its head (num_labels 0): its tower
# carries the prefix that a tower alone does not.
HEADLESS = "huggingface, a classifier without head"


def as_saved(names: Collection[str], files: Mapping[str, Any]) -> dict[str, str]:
    """Each name of a ViT, DeiT, MAE, Swin or DINOv2, and what `save_pretrained` calls it:
    accelerate, DeepSpeed and Lightning write the state dict, with the names of transformers 5 in
    memory."""
    kind = model_type(files)
    parts = IN_MEMORY.get(kind, {})
    if not parts or not any(".attention.k_proj." in name for name in names):
        return {name: name for name in names}
    saved = {}
    for name in names:
        found = name if kind == "swin" else LAYER_IN_MEMORY.sub(r"\1encoder.layer.\2.", name)
        for part, other in parts.items():
            found = found.replace(f".{part}", f".{other}")
        saved[name] = found
    return saved


def model_type(files: Mapping[str, Any]) -> str:
    """ "model_type" of config.json, "" where there is none."""
    content = files.get(CONFIG_FILE)
    return str(content.get("model_type", "")) if isinstance(content, dict) else ""


@contextmanager
def quantised_named(files: Mapping[str, Any]) -> Iterator[None]:
    """Names the quantisation that config.json states in a CheckpointError that is raised
    meanwhile: quantised weights have other shapes, and more tensors."""
    try:
        yield
    except CheckpointError as error:
        content = files.get(CONFIG_FILE)
        stated = content.get("quantization_config") if isinstance(content, dict) else None
        if not isinstance(stated, dict):
            raise
        raise CheckpointError(
            f"{error}\n  {CONFIG_FILE} says that the weights are quantised, by "
            f"{stated.get('quant_method')!r}: in transformers, dequantize() the model and "
            "save_pretrained() it again"
        ) from error


def config_file(files: Mapping[str, Any], *types: str) -> ConfigReader:
    """config.json, whose model_type must be one of `types`."""
    if CONFIG_FILE not in files:
        raise CheckpointError("config.json, with its heads and activation, is missing")
    reader = ConfigReader(CONFIG_FILE, files[CONFIG_FILE])
    if reader.values.get("model_type") not in types:
        known = " or ".join(f'"{name}"' for name in types)
        reader.fail("model_type", f"and only {known} has these tensors")
    return reader


def tower(reader: ConfigReader, key: str) -> ConfigReader:
    """The object of one tower. In old files it is also under `key`_dict, which is then used."""
    return reader.part(f"{key}_dict" if reader.values.get(f"{key}_dict") is not None else key)


def prefixed(config: ModelConfig) -> bool:
    """Whether the tensors of an image tower carry the prefix that they have in a classifier."""
    return config.classes > 0 or config.source == HEADLESS


def labels(reader: ConfigReader, classes: int) -> tuple[str, ...]:
    """Names of the classes from id2label; none when they are not as many, or only numbered."""
    names = reader.values.get("id2label")
    if not isinstance(names, dict) or len(names) != classes:
        return ()
    words = tuple(str(names.get(str(i), f"LABEL_{i}")) for i in range(classes))
    return () if words == tuple(f"LABEL_{i}" for i in range(classes)) else words


def check_qkv_bias(reader: ConfigReader, names: Collection[str], query: str) -> None:
    """Raise CheckpointError where "qkv_bias" contradicts whether there is the bias `query`."""
    if reader.optional("qkv_bias", True) != (query in names):
        has = "a" if query in names else "no"
        reader.fail("qkv_bias", f"but the weights have {has} {query}")


def class_score(reader: ConfigReader, classes: int) -> Literal["softmax", "sigmoid"]:
    """How a classifier's outputs become probabilities, as in transformers' pipeline. Raises
    CheckpointError for one that gives no classes but numbers."""
    kind = reader.optional("problem_type", "")
    if classes and kind == "regression":
        reader.fail("problem_type", "whose outputs are no classes, and patchword knows no others")
    several = kind == "multi_label_classification" or classes == 1
    return "sigmoid" if classes and several else "softmax"


def layer(theirs: str, ours: str, kind: str) -> Iterator[Rule]:
    """One Transformer block of CLIP or SigLIP; kind: "weight" or "bias"."""
    qkv = tuple(f"{theirs}.self_attn.{part}_proj.{kind}" for part in "qkv")
    yield Fuse(qkv, f"{ours}.attn.qkv.{kind}")
    yield Rename(f"{theirs}.self_attn.out_proj.{kind}", f"{ours}.attn.proj.{kind}")
    yield Rename(f"{theirs}.layer_norm1.{kind}", f"{ours}.norm1.{kind}")
    yield Rename(f"{theirs}.layer_norm2.{kind}", f"{ours}.norm2.{kind}")
    yield Rename(f"{theirs}.mlp.fc1.{kind}", f"{ours}.mlp.fc1.{kind}")
    yield Rename(f"{theirs}.mlp.fc2.{kind}", f"{ours}.mlp.fc2.{kind}")


def text_tower(part: str, depth: int) -> Iterator[Rule]:
    """The text tower of CLIP or SigLIP without its head; part: the prefix of its names."""
    yield Rename(f"{part}embeddings.token_embedding.weight", "text.token_embed.weight")
    yield Unsqueeze(f"{part}embeddings.position_embedding.weight", "text.pos_embed")
    yield position_ids(part)
    for kind in ("weight", "bias"):
        yield Rename(f"{part}final_layer_norm.{kind}", f"text.norm.{kind}")
        for i in range(depth):
            yield from layer(f"{part}{LAYERS}{i}", f"text.blocks.{i}", kind)


def position_ids(part: str) -> Drop:
    """What files of older versions of transformers have in a tower."""
    return Drop(f"{part}embeddings.position_ids", why="0, 1, 2, ...: counted anew")


def vit_attention(
    theirs: str, ours: str, kind: str, inner: str = "attention"
) -> Iterator[Fuse | Rename]:
    """The attention of one Transformer block of ViT, DeiT, MAE or DINOv2; kind, inner: as for
    `vit_layer`."""
    attention = f"{theirs}.attention"
    qkv = tuple(f"{attention}.{inner}.{part}.{kind}" for part in ("query", "key", "value"))
    yield Fuse(qkv, f"{ours}.attn.qkv.{kind}")
    yield Rename(f"{attention}.output.dense.{kind}", f"{ours}.attn.proj.{kind}")


def vit_layer(
    theirs: str, ours: str, kind: str, inner: str = "attention"
) -> Iterator[Fuse | Rename]:
    """One Transformer block of ViT, DeiT or MAE, and with `inner` "self" of Swin; kind: "weight" or
    "bias"."""
    yield from vit_attention(theirs, ours, kind, inner)
    yield Rename(f"{theirs}.layernorm_before.{kind}", f"{ours}.norm1.{kind}")
    yield Rename(f"{theirs}.layernorm_after.{kind}", f"{ours}.norm2.{kind}")
    yield Rename(f"{theirs}.intermediate.dense.{kind}", f"{ours}.mlp.fc1.{kind}")
    yield Rename(f"{theirs}.output.dense.{kind}", f"{ours}.mlp.fc2.{kind}")
