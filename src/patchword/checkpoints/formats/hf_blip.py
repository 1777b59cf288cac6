"""Hugging Face's BLIP: for captions, questions, or retrieval, each with the parts that it needs.

Defaults are those of transformers' BlipTextConfig, BlipVisionConfig and BlipImageProcessor.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from patchword.checkpoints import bert
from patchword.checkpoints.bert import WORD_EMBEDDINGS
from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.huggingface import ACTIVATIONS, config_file, model_type, tower
from patchword.checkpoints.image_processors import BLIP, preprocess
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Const, Rename, Rule, rename_layer
from patchword.config import BlipConfig, ModelConfig, TextConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "a Hugging Face BLIP"
EXPECTS = "config.json with model_type 'blip', tensors vision_model.encoder.layers.*.self_attn.qkv"
NAMES = (
    "vision_model.encoder.layers.0.self_attn.qkv.weight",
    "vision_model.embeddings.class_embedding",
)

VISION, TEXT, DECODER = "vision_model.", "text_encoder.", "text_decoder.bert."
HEAD = "text_decoder.cls.predictions"
LAYERS = f"{VISION}encoder.layers."
TEXT_DEFAULT = "transformers' BlipTextConfig default"
VISION_DEFAULT = "transformers' BlipVisionConfig default"
FIRST_SCALE = 1 / 0.07  # that training begins with; the files have none
SCALE_LIMIT = 1000.0  # salesforce/BLIP clamps the temperature to 0.001 or more


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """The fused attention of BLIP's image tower. BLIP-2 has it too, so the model_type counts."""
    return f"{LAYERS}0.self_attn.qkv.weight" in keys and model_type(files) in ("blip", "")


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors."""
    reader = config_file(files, "blip")
    vision = _vision(tower(reader, "vision_config"), tensors)
    text_reader = tower(reader, "text_config")
    text, decoder = None, None
    if f"{TEXT}{WORD_EMBEDDINGS}" in tensors:
        text = _text(text_reader, tensors, TEXT)
    if f"{DECODER}{WORD_EMBEDDINGS}" in tensors:
        words = tensors[f"{DECODER}{WORD_EMBEDDINGS}"]
        start = _id(text_reader, "bos_token_id", 30522, "decoder.start_token", words)
        decoder = bert.as_decoder(_text(text_reader, tensors, DECODER), start)
        tied = reader.optional("tie_word_embeddings", True)
        if not tied or not text_reader.optional("tie_word_embeddings", True):
            _check_tied(tensors)
    if text is None and decoder is None:
        raise CheckpointError(
            "it is neither a BlipForConditionalGeneration, a BlipForQuestionAnswering nor a "
            "BlipForImageTextRetrieval"
        )
    matching = "itm_head.weight" in tensors
    if matching:
        reader.assume("logit_scale", round(FIRST_SCALE, 4), "BLIP's first temperature, 0.07")
    key = "image_text_hidden_size"
    return ModelConfig(
        vision=vision,
        text=text,
        blip=BlipConfig(
            decoder=decoder,
            writes_captions=decoder is not None and text is None,
            answers_questions=decoder is not None and text is not None,
            matching=matching,
        ),
        embed_dim=reader.size(key, tensors, "vision_proj.weight") if matching else 0,
        preprocess=preprocess(files, vision.image_size, reader.assumed, BLIP),
        scale_limit=SCALE_LIMIT,
        source="huggingface",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """BlipForConditionalGeneration, -QuestionAnswering, -ImageTextRetrieval -> patchword."""
    assert isinstance(config.vision, ViTConfig)
    yield from _vision_rules(config.vision)
    if config.text is not None:
        yield from bert.tower(TEXT, "text", config.text.depth)
    if config.decoder is not None:
        yield from bert.tower(DECODER, "decoder", config.decoder.depth)
        yield from bert.language_head(HEAD, "decoder.words")
    if config.matching:
        yield Const("logit_scale", math.log(FIRST_SCALE))
        yield from rename_layer("vision_proj", "image.head")
        yield from rename_layer("text_proj", "text.head")
        yield from rename_layer("itm_head", "match_head")


def _vision(reader: ConfigReader, tensors: Mapping[str, LazyTensor]) -> ViTConfig:
    patches = f"{VISION}embeddings.patch_embedding.weight"
    positions = f"{VISION}embeddings.position_embedding"
    width = reader.size("hidden_size", tensors, patches)
    patch = reader.size("patch_size", tensors, patches, -1)
    why = VISION_DEFAULT
    return ViTConfig(
        image_size=reader.image_size("image_size", tensors, positions, patch),
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, LAYERS),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{LAYERS}0.mlp.fc1.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu", "vision.activation", why),
        eps=reader.get("layer_norm_eps", 1e-5, "vision.eps", why),
        antialias=False,
    )


def _text(reader: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str) -> TextConfig:
    """A text encoder, or the decoder as an encoder; prefix: of its tensor names."""
    words = tensors[f"{prefix}{WORD_EMBEDDINGS}"]
    return replace(
        bert.text_config(reader, tensors, prefix, heads=8, why=TEXT_DEFAULT),
        end_token=_id(reader, "sep_token_id", 102, "text.end_token", words),
        pad_token=_id(reader, "pad_token_id", 0, "text.pad_token", words),
    )


def _id(reader: ConfigReader, key: str, default: int, name: str, words: LazyTensor) -> int:
    """An id in config.json. Raises CheckpointError for one that is not in the vocabulary."""
    id_ = reader.get(key, default, name, TEXT_DEFAULT)
    if not 0 <= id_ < words.shape[0]:
        reader.fail(key, f"but there are only {words.shape[0]} ids", id_)
    return id_


def _check_tied(tensors: Mapping[str, LazyTensor]) -> None:
    """Raise CheckpointError for a language head whose weights are not the word embeddings."""
    for name, shared in (
        (f"{HEAD}.decoder.weight", f"{DECODER}{WORD_EMBEDDINGS}"),
        (f"{HEAD}.decoder.bias", f"{HEAD}.bias"),
    ):
        if name not in tensors or shared not in tensors:
            continue
        if not torch.equal(tensors[name].read(), tensors[shared].read()):
            raise CheckpointError(
                f"{name} differs from {shared}; patchword reads a BLIP for which the two are one "
                "(tie_word_embeddings)"
            )


def _vision_rules(vision: ViTConfig) -> Iterator[Rule]:
    yield Rename(f"{VISION}embeddings.class_embedding", "image.cls_token")
    yield Rename(f"{VISION}embeddings.position_embedding", "image.pos_embed")
    yield from rename_layer(f"{VISION}embeddings.patch_embedding", "image.patch_embed.proj")
    yield from rename_layer(f"{VISION}post_layernorm", "image.norm")
    for i in range(vision.depth):
        source, target = f"{LAYERS}{i}", f"image.blocks.{i}"
        yield from rename_layer(f"{source}.self_attn.qkv", f"{target}.attn.qkv")
        yield from rename_layer(f"{source}.self_attn.projection", f"{target}.attn.proj")
        yield from rename_layer(f"{source}.layer_norm1", f"{target}.norm1")
        yield from rename_layer(f"{source}.layer_norm2", f"{target}.norm2")
        yield from rename_layer(f"{source}.mlp.fc1", f"{target}.mlp.fc1")
        yield from rename_layer(f"{source}.mlp.fc2", f"{target}.mlp.fc2")
