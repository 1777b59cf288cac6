"""BERT's tensor names and defaults, which the text towers of BLIP and Chinese-CLIP share in every
format (Devlin et al. 2019; salesforce/BLIP, models/med.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from patchword.checkpoints.config_reader import ConfigReader, shape_of
from patchword.checkpoints.huggingface import ACTIVATIONS
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import (
    AddFirstRow,
    AddFirstRowToSlice,
    Drop,
    Rename,
    Rule,
    Unsqueeze,
    drop_layer,
    fuse_layers,
    rename_layer,
)
from patchword.config import TextConfig

EPS = 1e-12
WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TOKEN_TYPES = 2  # rows of the type embeddings; all tokens of a text are of the first type
NO_TOKEN = -1  # as the end token of a text that is pooled at its first token


def text_config(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str, heads: int, why: str
) -> TextConfig:
    """An encoder of texts, which may cross-attend to images; prefix: of its tensor names.

    heads: the default number of heads, for the reason `why`. The format sets the end and the start
    token.
    """
    words, first = f"{prefix}{WORD_EMBEDDINGS}", f"{prefix}encoder.layer.0."
    positions = f"{prefix}{POSITIONS}"
    cross = f"{first}crossattention.self.key.weight"
    width = reader.size("hidden_size", tensors, words, 1)
    return TextConfig(
        vocab_size=reader.size("vocab_size", tensors, words),
        context=reader.size("max_position_embeddings", tensors, positions),
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{prefix}encoder.layer."),
        heads=reader.heads(width, "num_attention_heads", heads, "text.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{first}intermediate.dense.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu", "text.activation", why),
        eps=reader.get("layer_norm_eps", EPS, "text.eps", why),
        causal=False,
        post_norm=True,
        pool="first",
        head_bias=True,
        # From the tensor: the value in transformers' files may be wrong, and it is not read there
        # (BlipConfig).
        cross_width=shape_of(tensors, cross, 2)[1] if cross in tensors else 0,
    )


def as_decoder(config: TextConfig, start: int) -> TextConfig:
    """The same tower as a decoder, whose texts begin with the id `start`."""
    return replace(config, causal=True, pool="end", head_bias=False, start_token=start)


def tower(source: str, target: str, depth: int) -> Iterator[Rule]:
    """A tower with cross-attention to images; `source` ends in a dot, or is empty."""
    yield from embeddings(source, target)
    for i in range(depth):
        layer, block = f"{source}encoder.layer.{i}", f"{target}.blocks.{i}"
        yield from attention(layer, block)
        yield from cross_attention(layer, block)
        yield from mlp(layer, block)


def plain_tower(
    prefix: str, depth: int, token_types: int = TOKEN_TYPES, rows: slice | None = None
) -> Iterator[Rule]:
    """A text tower as in Devlin et al. 2019, without cross-attention.

    prefix: of its tensor names. rows: of its positions; None for all of them.
    """
    yield from embeddings(prefix, "text", token_types, rows)
    for i in range(depth):
        yield from attention(f"{prefix}encoder.layer.{i}", f"text.blocks.{i}")
        yield from mlp(f"{prefix}encoder.layer.{i}", f"text.blocks.{i}")
    yield from drop_layer(f"{prefix}pooler.dense", why="features are without this layer")


def embeddings(
    source: str, target: str, token_types: int = 0, rows: slice | None = None
) -> Iterator[Rule]:
    """Embeddings of words, positions and token types (0 of them: none), and the norm after them;
    rows: as for `plain_tower`."""
    yield Rename(f"{source}{WORD_EMBEDDINGS}", f"{target}.token_embed.weight")
    positions, pos_embed = f"{source}{POSITIONS}", f"{target}.pos_embed"
    if token_types:
        types = f"{source}embeddings.token_type_embeddings.weight"
        if rows is None:
            yield AddFirstRow(positions, types, token_types, pos_embed)
        else:
            count = rows.stop - rows.start
            yield AddFirstRowToSlice(positions, types, token_types, pos_embed, rows.start, count)
        yield Drop(f"{source}embeddings.token_type_ids", why="0, 0, 0, ...: the first type")
    else:
        yield Unsqueeze(positions, pos_embed)
    yield Drop(f"{source}embeddings.position_ids", why="0, 1, 2, ..., which are computed")
    yield from rename_layer(f"{source}embeddings.LayerNorm", f"{target}.norm_pre")


def attention(source: str, target: str) -> Iterator[Rule]:
    """The self-attention of one layer, and its norm."""
    qkv = [f"{source}.attention.self.{part}" for part in ("query", "key", "value")]
    yield from fuse_layers(qkv, f"{target}.attn.qkv")
    yield from rename_layer(f"{source}.attention.output.dense", f"{target}.attn.proj")
    yield from rename_layer(f"{source}.attention.output.LayerNorm", f"{target}.norm1")


def cross_attention(source: str, target: str) -> Iterator[Rule]:
    """The cross-attention of one layer, and its norm."""
    cross = f"{source}.crossattention"
    yield from rename_layer(f"{cross}.self.query", f"{target}.cross.q")
    yield from fuse_layers([f"{cross}.self.key", f"{cross}.self.value"], f"{target}.cross.kv")
    yield from rename_layer(f"{cross}.output.dense", f"{target}.cross.proj")
    yield from rename_layer(f"{cross}.output.LayerNorm", f"{target}.norm_cross")


def mlp(source: str, target: str) -> Iterator[Rule]:
    """The MLP of one layer, and its norm."""
    yield from rename_layer(f"{source}.intermediate.dense", f"{target}.mlp.fc1")
    yield from rename_layer(f"{source}.output.dense", f"{target}.mlp.fc2")
    yield from rename_layer(f"{source}.output.LayerNorm", f"{target}.norm2")


def language_head(source: str, target: str) -> Iterator[Rule]:
    """The head that gives a logit for each word."""
    yield from rename_layer(f"{source}.transform.dense", f"{target}.fc")
    yield from rename_layer(f"{source}.transform.LayerNorm", f"{target}.norm")
    yield Rename(f"{source}.bias", f"{target}.bias")
    yield Drop(f"{source}.decoder.weight", why="the word embeddings again")
    yield Drop(f"{source}.decoder.bias", why=f"{source}.bias again")
