"""The text towers that open_clip takes from transformers (open_clip/hf_model.py), if they are BERTs
or RoBERTas: those of multilingual CLIPs and of BiomedCLIP. Their tensors are `text.transformer.*`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from patchword.checkpoints import bert
from patchword.checkpoints.config_reader import ConfigReader, depth, shape_of
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Rename, Rule
from patchword.config import TextConfig

HEAD_WIDTH = 64
WIDTHS = (128, 256, 512, 768, 1024)  # at which published BERTs and RoBERTas have such heads
CONTEXT = 77  # open_clip's CLIPTextCfg default
NEW_KEYS = {"proj": "hf_proj_type", "pooler_type": "hf_pooler_type"}
POOLS = {"mean_pooler": "mean", "cls_last_hidden_state_pooler": "first"}


@dataclass(frozen=True)
class Kind:
    """What the weights do not show: defaults of transformers' RobertaConfig or BertConfig."""

    eps: float
    pad: int  # id of the padding
    first_position: int  # row of the first token's position
    token_types: int
    pooler: str  # in open_clip's hf_configs.py


ROBERTA = Kind(eps=1e-5, pad=1, first_position=2, token_types=1, pooler="mean_pooler")
BERT = Kind(
    eps=bert.EPS, pad=0, first_position=0, token_types=bert.TOKEN_TYPES, pooler="cls_pooler"
)


def with_new_keys(reader: ConfigReader) -> ConfigReader:
    """text_cfg with the names that open_clip has had since 2.21 for two of its keys."""
    values = {NEW_KEYS.get(key, key): value for key, value in reader.values.items()}
    return ConfigReader(reader.where, values, reader.assumed)


def config(reader: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str) -> TextConfig:
    """From text_cfg. Its hf_model_name tells a BERT from a RoBERTa. No file states its heads, eps
    and activation: they are those of the published models of this name.

    prefix: of the tower's tensor names, with its dot. Raises CheckpointError for another kind of
    model, pooling or projection.
    """
    name = reader.optional("hf_model_name", "").lower()
    inner = f"{prefix}transformer."
    words, positions = f"{inner}{bert.WORD_EMBEDDINGS}", f"{inner}{bert.POSITIONS}"
    fc1 = f"{inner}encoder.layer.0.intermediate.dense.weight"  # not in DistilBERT and ALBERT
    if "bert" not in name or not {words, fc1} <= set(tensors):
        reader.fail("hf_model_name", "and patchword computes BERT and RoBERTa alone as text tower")
    kind = ROBERTA if "roberta" in name else BERT
    vocab_size, width = shape_of(tensors, words, 2)
    rows = shape_of(tensors, positions, 2)[0] - kind.first_position
    context = reader.optional("context_length", CONTEXT)
    if not 0 < context <= rows:
        reader.fail("context_length", f"but there are positions for {rows} tokens", context)
    pooler = reader.optional("hf_pooler_type", kind.pooler)
    if pooler not in POOLS:
        reader.fail("hf_pooler_type", f"and patchword computes {' and '.join(POOLS)}", pooler)
    if width not in WIDTHS:
        known = ", ".join(map(str, WIDTHS))
        reason = f"no file says its heads, and patchword knows those of {known} alone"
        reader.fail("hf_model_name", f"but {words} is {width} wide: {reason}")
    why = f"{reader.values['hf_model_name']} has"
    reader.assume("text.heads", width // HEAD_WIDTH, f"heads of {HEAD_WIDTH}, as {why}")
    reader.assume("text.eps", kind.eps, f"as {why}")
    reader.assume("text.activation", "gelu", f"as {why}")
    reader.assume("text.pad_token", kind.pad, f"as {why}")
    return TextConfig(
        vocab_size=vocab_size,
        context=context,
        width=width,
        depth=depth(tensors, f"{inner}encoder.layer."),
        heads=width // HEAD_WIDTH,
        mlp_width=shape_of(tensors, fc1, 2)[0],
        activation="gelu",
        eps=kind.eps,
        causal=False,
        post_norm=True,
        pool=POOLS[pooler],  # type: ignore[arg-type]
        head_hidden=_head_hidden(reader, tensors, prefix),
        end_token=bert.NO_TOKEN,
        pad_token=kind.pad,
    )


def projection(config: TextConfig, prefix: str) -> str:
    """The weight whose outputs are in the joint space."""
    return f"{prefix}proj.2.weight" if config.head_hidden else f"{prefix}proj.weight"


def rules(config: TextConfig, prefix: str) -> Iterator[Rule]:
    """The tower and its projection."""
    kind = ROBERTA if config.pad_token == ROBERTA.pad else BERT
    rows = slice(kind.first_position, kind.first_position + config.context)
    yield from bert.plain_tower(f"{prefix}transformer.", config.depth, kind.token_types, rows)
    if config.head_hidden:
        yield Rename(f"{prefix}proj.0.weight", "text.head.0.weight")
        yield Rename(f"{prefix}proj.2.weight", "text.head.2.weight")
    else:
        yield Rename(f"{prefix}proj.weight", "text.head.weight")


def _head_hidden(reader: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str) -> int:
    """The width between the two layers of the projection; 0 for one layer."""
    kind = reader.values.get("hf_proj_type", "mlp")
    if kind not in ("linear", "mlp"):
        reader.fail("hf_proj_type", "and patchword computes linear and mlp")
    first = f"{prefix}proj.0.weight"
    if (kind == "mlp") != (first in tensors):
        has = "a" if first in tensors else "no"
        reader.fail("hf_proj_type", f"but the weights have {has} {first}", kind)
    return shape_of(tensors, first, 2)[0] if kind == "mlp" else 0
