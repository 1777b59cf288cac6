"""BERT's tensor names and defaults, which the text towers of BLIP and Chinese-CLIP share in every
format (Devlin et al. 2019; salesforce/BLIP, models/med.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from patchword.checkpoints.config_reader import ConfigReader, shape_of
from patchword.checkpoints.huggingface import ACTIVATIONS
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import AddRow, AddRowToSome, Drop, Fuse, Rename, Rule, Unsqueeze
from patchword.config import TextConfig

EPS = 1e-12
KINDS = ("weight", "bias")
WORDS = "embeddings.word_embeddings.weight"
POSITIONS, TYPES = "position_embeddings.weight", "token_type_embeddings.weight"
TOKEN_TYPES = 2  # of a plain tower; a text is all of the first
NO_TOKEN = -1  # as the end token of a text that is pooled at its first


def text_config(
    reader: ConfigReader, tensors: Mapping[str, Stored], part: str, heads: int, why: str
) -> TextConfig:
    """The tower whose tensors begin with `part`, an encoder that may cross-attend to images.

    heads: the default number of heads, for the reason `why`. End and start token are left to the
    format.
    """
    words, first = f"{part}{WORDS}", f"{part}encoder.layer.0."
    positions = f"{part}embeddings.position_embeddings.weight"
    cross = f"{first}crossattention.self.key.weight"
    width = reader.size("hidden_size", tensors, words, 1)
    return TextConfig(
        vocab_size=reader.size("vocab_size", tensors, words),
        context=reader.size("max_position_embeddings", tensors, positions),
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{part}encoder.layer."),
        heads=reader.heads(width, "num_attention_heads", heads, "text.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{first}intermediate.dense.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu", "text.activation", why),
        eps=reader.get("layer_norm_eps", EPS, "text.eps", why),
        causal=False,
        post_norm=True,
        pool="first",
        head_bias=True,
        # Files of transformers may have another value, which it does not read (BlipConfig).
        cross_width=shape_of(tensors, cross, 2)[1] if cross in tensors else 0,
    )


def writing(config: TextConfig, start: int) -> TextConfig:
    """The same as a decoder, whose texts begin with the id `start`."""
    return replace(config, causal=True, pool="end", head_bias=False, start_token=start)


def tower(theirs: str, ours: str, depth: int) -> Iterator[Rule]:
    """A whole tower with cross-attention to images; `theirs` ends in a dot, or is empty."""
    yield from embeddings(theirs, ours)
    for i in range(depth):
        layer, block = f"{theirs}encoder.layer.{i}", f"{ours}.blocks.{i}"
        yield from attention(layer, block)
        yield from cross_and_mlp(layer, block)


def plain_tower(
    theirs: str, depth: int, types: int = TOKEN_TYPES, rows: slice | None = None
) -> Iterator[Rule]:
    """A whole text tower as in Devlin et al. 2019. types: of token. rows: of its positions, where
    not all are used."""
    yield from embeddings(theirs, "text", types, rows)
    for i in range(depth):
        yield from attention(f"{theirs}encoder.layer.{i}", f"text.blocks.{i}")
        yield from mlp(f"{theirs}encoder.layer.{i}", f"text.blocks.{i}")
    for kind in KINDS:
        yield Drop(f"{theirs}pooler.dense.{kind}", why="features are without this layer")


def embeddings(theirs: str, ours: str, types: int = 0, rows: slice | None = None) -> Iterator[Rule]:
    """Words, positions, types of token (0: it has none) and the norm after them; rows: as for
    `plain_tower`."""
    yield Rename(f"{theirs}{WORDS}", f"{ours}.token_embed.weight")
    positions, type_ = (f"{theirs}embeddings.{name}" for name in (POSITIONS, TYPES))
    if types:
        first = (positions, type_, types, f"{ours}.pos_embed")
        yield AddRowToSome(*first, rows.start, rows.stop - rows.start) if rows else AddRow(*first)
        yield Drop(f"{theirs}embeddings.token_type_ids", why="0, 0, 0, ...: the first type")
    else:
        yield Unsqueeze(positions, f"{ours}.pos_embed")
    yield Drop(f"{theirs}embeddings.position_ids", why="0, 1, 2, ...: counted anew")
    for kind in KINDS:
        yield Rename(f"{theirs}embeddings.LayerNorm.{kind}", f"{ours}.norm_pre.{kind}")


def attention(theirs: str, ours: str) -> Iterator[Rule]:
    """Self-attention of one layer, and its norm."""
    for kind in KINDS:
        qkv = tuple(f"{theirs}.attention.self.{part}.{kind}" for part in ("query", "key", "value"))
        yield Fuse(qkv, f"{ours}.attn.qkv.{kind}")
        yield Rename(f"{theirs}.attention.output.dense.{kind}", f"{ours}.attn.proj.{kind}")
        yield Rename(f"{theirs}.attention.output.LayerNorm.{kind}", f"{ours}.norm1.{kind}")


def cross_and_mlp(theirs: str, ours: str) -> Iterator[Rule]:
    """The rest of a layer with cross-attention."""
    cross = f"{theirs}.crossattention"
    for kind in KINDS:
        yield Rename(f"{cross}.self.query.{kind}", f"{ours}.cross.q.{kind}")
        pair = (f"{cross}.self.key.{kind}", f"{cross}.self.value.{kind}")
        yield Fuse(pair, f"{ours}.cross.kv.{kind}")
        yield Rename(f"{cross}.output.dense.{kind}", f"{ours}.cross.proj.{kind}")
        yield Rename(f"{cross}.output.LayerNorm.{kind}", f"{ours}.norm_cross.{kind}")
    yield from mlp(theirs, ours)


def mlp(theirs: str, ours: str) -> Iterator[Rule]:
    """The MLP of one layer, and its norm."""
    for kind in KINDS:
        yield Rename(f"{theirs}.intermediate.dense.{kind}", f"{ours}.mlp.fc1.{kind}")
        yield Rename(f"{theirs}.output.dense.{kind}", f"{ours}.mlp.fc2.{kind}")
        yield Rename(f"{theirs}.output.LayerNorm.{kind}", f"{ours}.norm2.{kind}")


def words(theirs: str, ours: str) -> Iterator[Rule]:
    """The language modelling head."""
    for kind in KINDS:
        yield Rename(f"{theirs}.transform.dense.{kind}", f"{ours}.fc.{kind}")
        yield Rename(f"{theirs}.transform.LayerNorm.{kind}", f"{ours}.norm.{kind}")
    yield Rename(f"{theirs}.bias", f"{ours}.bias")
    yield Drop(f"{theirs}.decoder.weight", why="the word embeddings again")
    yield Drop(f"{theirs}.decoder.bias", why=f"{theirs}.bias again")
