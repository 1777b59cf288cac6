"""What the formats of Hugging Face's transformers share: configurations, names, layers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.json_files import json_object
from patchword.checkpoints.rules import (
    Drop,
    ReadingRule,
    Rename,
    Rule,
    Unsqueeze,
    ZerosIfMissing,
    fuse_layers,
    rename_layer,
)
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
LAYERS = "encoder.layers."  # of CLIP and SigLIP

# `ModelConfig.source` of a classifier that was saved without its head (num_labels 0): its tensor
# names have the prefix of a classifier's, and those of a tower alone have not.
HEADLESS = "huggingface, a classifier without head"


def model_type(files: Mapping[str, Any]) -> str:
    """The model_type of config.json; "" without one."""
    return str(json_object(files, CONFIG_FILE).get("model_type", ""))


@contextmanager
def naming_quantisation(files: Mapping[str, Any]) -> Iterator[None]:
    """In this context, a CheckpointError also names the quantisation that config.json states.
    Quantised weights have other shapes, and more tensors, so that they do not fit."""
    try:
        yield
    except CheckpointError as error:
        quantisation = json_object(files, CONFIG_FILE).get("quantization_config")
        if not isinstance(quantisation, dict):
            raise
        raise CheckpointError(
            f"{error}\n  {CONFIG_FILE} says that the weights are quantised, by "
            f"{quantisation.get('quant_method')!r}: in transformers, dequantize() the model and "
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
    """The object of one tower. Old files also have one under `key`_dict, which comes first."""
    if reader.values.get(f"{key}_dict") is not None:
        return reader.section(f"{key}_dict")
    return reader.section(key)


def has_prefix(config: ModelConfig) -> bool:
    """Whether the tensor names of an image tower have the prefix of a classifier's."""
    return config.classes > 0 or config.source == HEADLESS


def labels(reader: ConfigReader, classes: int) -> tuple[str, ...]:
    """Names of the classes from id2label; none if their number is another, or they are the default
    names, LABEL_0, LABEL_1 and so on."""
    id2label = reader.values.get("id2label")
    if not isinstance(id2label, dict) or len(id2label) != classes:
        return ()
    defaults = tuple(f"LABEL_{i}" for i in range(classes))
    names = tuple(str(id2label.get(str(i), default)) for i, default in enumerate(defaults))
    return () if names == defaults else names


def check_qkv_bias(reader: ConfigReader, names: Collection[str], query: str) -> None:
    """Raise CheckpointError if "qkv_bias" contradicts whether there is a tensor `query`, a bias."""
    if reader.optional("qkv_bias", True) != (query in names):
        has = "a" if query in names else "no"
        reader.fail("qkv_bias", f"but the weights have {has} {query}")


def class_score(reader: ConfigReader, classes: int) -> Literal["softmax", "sigmoid"]:
    """The function from a classifier's outputs to probabilities, as in transformers' pipeline.
    Raises CheckpointError for a regression, whose outputs are numbers and not classes."""
    problem = reader.optional("problem_type", "")
    if not classes:
        return "softmax"
    if problem == "regression":
        reader.fail("problem_type", "whose outputs are no classes, and patchword knows no others")
    if problem == "multi_label_classification" or classes == 1:
        return "sigmoid"
    return "softmax"


def layer(source: str, target: str) -> Iterator[Rule]:
    """One Transformer block of CLIP or SigLIP."""
    qkv = [f"{source}.self_attn.{part}_proj" for part in "qkv"]
    yield from fuse_layers(qkv, f"{target}.attn.qkv")
    yield from rename_layer(f"{source}.self_attn.out_proj", f"{target}.attn.proj")
    yield from rename_layer(f"{source}.layer_norm1", f"{target}.norm1")
    yield from rename_layer(f"{source}.layer_norm2", f"{target}.norm2")
    yield from rename_layer(f"{source}.mlp.fc1", f"{target}.mlp.fc1")
    yield from rename_layer(f"{source}.mlp.fc2", f"{target}.mlp.fc2")


def text_tower(prefix: str, depth: int) -> Iterator[Rule]:
    """The text tower of CLIP or SigLIP without its head; prefix: of its tensor names."""
    yield Rename(f"{prefix}embeddings.token_embedding.weight", "text.token_embed.weight")
    yield Unsqueeze(f"{prefix}embeddings.position_embedding.weight", "text.pos_embed")
    yield drop_position_ids(prefix)
    yield from rename_layer(f"{prefix}final_layer_norm", "text.norm")
    for i in range(depth):
        yield from layer(f"{prefix}{LAYERS}{i}", f"text.blocks.{i}")


def drop_position_ids(prefix: str) -> Drop:
    """A tensor that files of older versions of transformers have in a tower."""
    return Drop(f"{prefix}embeddings.position_ids", why="0, 1, 2, ..., which are computed")


def vit_attention(source: str, target: str, inner: str = "attention") -> Iterator[ReadingRule]:
    """The attention of one Transformer block of ViT, DeiT, MAE, DINOv2 or Swin.

    inner: the module of queries, keys and values, in Swin "self".
    """
    qkv = [f"{source}.attention.{inner}.{part}" for part in ("query", "key", "value")]
    yield from fuse_layers(qkv, f"{target}.attn.qkv")
    yield from rename_layer(f"{source}.attention.output.dense", f"{target}.attn.proj")


def vit_layer(source: str, target: str, inner: str = "attention") -> Iterator[ReadingRule]:
    """One Transformer block of ViT, DeiT, MAE or Swin; inner: as for `vit_attention`."""
    yield from vit_attention(source, target, inner)
    yield from rename_layer(f"{source}.layernorm_before", f"{target}.norm1")
    yield from rename_layer(f"{source}.layernorm_after", f"{target}.norm2")
    yield from rename_layer(f"{source}.intermediate.dense", f"{target}.mlp.fc1")
    yield from rename_layer(f"{source}.output.dense", f"{target}.mlp.fc2")


def may_lack_qkv_bias(rules: Iterable[ReadingRule]) -> Iterator[Rule]:
    """The same rules for blocks whose queries, keys and values may have no bias ("qkv_bias" is
    false)."""
    for rule in rules:
        yield ZerosIfMissing(rule) if rule.target.endswith(".attn.qkv.bias") else rule
