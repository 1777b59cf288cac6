"""The text towers that open_clip borrows from transformers (open_clip/hf_model.py), as far as they
are BERTs and RoBERTas: those of multilingual CLIPs and of BiomedCLIP. Their tensors are
`text.transformer.*`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from patchword.checkpoints import bert
from patchword.checkpoints.config_reader import ConfigReader, depth, shape_of
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Rename, Rule
from patchword.config import TextConfig

HEAD_WIDTH = 64
WIDTHS = (128, 256, 512, 768, 1024)  # at which published BERTs and RoBERTas have such heads
CONTEXT = 77  # open_clip's CLIPTextCfg default
OLD_KEYS = {"proj": "hf_proj_type", "pooler_type": "hf_pooler_type"}
POOLS = {"mean_pooler": "mean", "cls_last_hidden_state_pooler": "first"}


@dataclass(frozen=True)
class Kind:
    """What the weights do not show; defaults of its Config in transformers.

    pad: the id of the padding. first: the row of the first token's position. types: of token.
    pooler: that of open_clip's hf_configs.py.
    """

    eps: float
    pad: int
    first: int
    types: int
    pooler: str


ROBERTA = Kind(1e-5, 1, 2, 1, "mean_pooler")
BERT = Kind(bert.EPS, 0, 0, bert.TOKEN_TYPES, "cls_pooler")


def renamed(reader: ConfigReader) -> ConfigReader:
    """text_cfg with the names that open_clip has had since 2.21 for two of its keys."""
    values = {OLD_KEYS.get(key, key): value for key, value in reader.values.items()}
    return ConfigReader(reader.where, values, reader.assumed)


def config(reader: ConfigReader, tensors: Mapping[str, Stored], theirs: str) -> TextConfig:
    """From text_cfg, whose hf_model_name says whether it is a BERT or a RoBERTa. No file has its
    heads, eps and activation: they are those of the models of these names.

    theirs: the prefix of the tower's names, its dot included. Raises CheckpointError for another
    kind of model, pooling or projection.
    """
    name = reader.optional("hf_model_name", "").lower()
    part = f"{theirs}transformer."
    words, positions = f"{part}{bert.WORDS}", f"{part}embeddings.{bert.POSITIONS}"
    mlp = f"{part}encoder.layer.0.intermediate.dense.weight"  # a DistilBERT and an ALBERT have none
    if "bert" not in name or not {words, mlp} <= set(tensors):
        reader.fail("hf_model_name", "and patchword computes BERT and RoBERTa alone as text tower")
    kind = ROBERTA if "roberta" in name else BERT
    vocab_size, width = shape_of(tensors, words, 2)
    rows = shape_of(tensors, positions, 2)[0] - kind.first
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
        depth=depth(tensors, f"{part}encoder.layer."),
        heads=width // HEAD_WIDTH,
        mlp_width=shape_of(tensors, mlp, 2)[0],
        activation="gelu",
        eps=kind.eps,
        causal=False,
        post_norm=True,
        pool=POOLS[pooler],  # type: ignore[arg-type]
        head_hidden=_hidden(reader, tensors, theirs),
        end_token=bert.NO_TOKEN,
        pad_token=kind.pad,
    )


def last(config: TextConfig, theirs: str) -> str:
    """The name of the layer that ends in the joint space."""
    return f"{theirs}proj{'.2' * bool(config.head_hidden)}.weight"


def rules(config: TextConfig, theirs: str) -> Iterator[Rule]:
    """The tower and its projection."""
    kind = ROBERTA if config.pad_token == ROBERTA.pad else BERT
    rows = slice(kind.first, kind.first + config.context)
    yield from bert.plain_tower(f"{theirs}transformer.", config.depth, kind.types, rows)
    for layer in (".0", ".2") if config.head_hidden else ("",):
        yield Rename(f"{theirs}proj{layer}.weight", f"text.head{layer}.weight")


def _hidden(reader: ConfigReader, tensors: Mapping[str, Stored], theirs: str) -> int:
    """The width between the two layers of the projection; 0 for one layer."""
    kind = reader.values.get("hf_proj_type", "mlp")
    if kind not in ("linear", "mlp"):
        reader.fail("hf_proj_type", "and patchword computes linear and mlp")
    first = f"{theirs}proj.0.weight"
    if (kind == "mlp") != (first in tensors):
        has = "a" if first in tensors else "no"
        reader.fail("hf_proj_type", f"but the weights have {has} {first}", kind)
    return shape_of(tensors, first, 2)[0] if kind == "mlp" else 0
