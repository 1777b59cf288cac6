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
from patchword.checkpoints.bert import WORDS
from patchword.checkpoints.config_reader import ConfigReader
from patchword.checkpoints.huggingface import ACTIVATIONS, config_file, model_type, tower
from patchword.checkpoints.image_processors import BLIP, preprocess
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Const, Rename, Rule
from patchword.config import BlipConfig, ModelConfig, TextConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "a Hugging Face BLIP"
EXPECTS = "config.json with model_type 'blip', tensors vision_model.encoder.layers.*.self_attn.qkv"
NAMES = (
    "vision_model.encoder.layers.0.self_attn.qkv.weight",
    "vision_model.embeddings.class_embedding",
)

VISION, TEXT, DECODER = "vision_model", "text_encoder.", "text_decoder.bert."
HEAD = "text_decoder.cls.predictions"
FIRST = f"{VISION}.encoder.layers.0"
TEXT_DEFAULT = "transformers' BlipTextConfig default"
VISION_DEFAULT = "transformers' BlipVisionConfig default"
SCALE = 1 / 0.07
SCALE_LIMIT = 1000.0  # salesforce/BLIP clamps the temperature to 0.001 or more


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """The fused attention of BLIP's image tower, which BLIP-2 has too."""
    return f"{FIRST}.self_attn.qkv.weight" in keys and model_type(files) in ("blip", "")


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors."""
    reader = config_file(files, "blip")
    vision = _vision(tower(reader, "vision_config"), tensors)
    text_reader = tower(reader, "text_config")
    text = _text(text_reader, tensors, TEXT) if f"{TEXT}{WORDS}" in tensors else None
    decoder = None
    if f"{DECODER}{WORDS}" in tensors:
        words = tensors[DECODER + WORDS]
        start = _id(text_reader, "bos_token_id", 30522, "decoder.start_token", words)
        decoder = bert.writing(_text(text_reader, tensors, DECODER), start)
        if not all(each.optional("tie_word_embeddings", True) for each in (reader, text_reader)):
            _check_tied(tensors)
    if text is None and decoder is None:
        raise CheckpointError(
            "it is neither a BlipForConditionalGeneration, a BlipForQuestionAnswering nor a "
            "BlipForImageTextRetrieval"
        )
    matching = "itm_head.weight" in tensors
    if matching:
        reader.assume("logit_scale", round(SCALE, 4), "BLIP's first temperature, 0.07")
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
        yield from bert.words(HEAD, "decoder.words")
    if config.matching:
        yield Const("logit_scale", math.log(SCALE))
        for kind in bert.KINDS:
            yield Rename(f"vision_proj.{kind}", f"image.head.{kind}")
            yield Rename(f"text_proj.{kind}", f"text.head.{kind}")
            yield Rename(f"itm_head.{kind}", f"match_head.{kind}")


def _vision(reader: ConfigReader, tensors: Mapping[str, Stored]) -> ViTConfig:
    patches = f"{VISION}.embeddings.patch_embedding.weight"
    positions = f"{VISION}.embeddings.position_embedding"
    width = reader.size("hidden_size", tensors, patches)
    patch = reader.size("patch_size", tensors, patches, -1)
    why = VISION_DEFAULT
    return ViTConfig(
        image_size=reader.grid("image_size", tensors, positions, patch),
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{VISION}.encoder.layers."),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{FIRST}.mlp.fc1.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu", "vision.activation", why),
        eps=reader.get("layer_norm_eps", 1e-5, "vision.eps", why),
        antialias=False,
    )


def _text(reader: ConfigReader, tensors: Mapping[str, Stored], part: str) -> TextConfig:
    found = bert.text_config(reader, tensors, part, heads=8, why=TEXT_DEFAULT)
    words = tensors[part + WORDS]
    return replace(
        found,
        end_token=_id(reader, "sep_token_id", 102, "text.end_token", words),
        pad_token=_id(reader, "pad_token_id", 0, "text.pad_token", words),
    )


def _id(reader: ConfigReader, key: str, default: int, name: str, words: Stored) -> int:
    """An id of config.json. Raises CheckpointError for one that is not in the vocabulary."""
    found = reader.get(key, default, name, TEXT_DEFAULT)
    if not 0 <= found < words.shape[0]:
        reader.fail(key, f"but there are only {words.shape[0]} ids", found)
    return found


def _check_tied(tensors: Mapping[str, Stored]) -> None:
    """Raise CheckpointError for a head over the vocabulary with weights of its own."""
    shared = {f"{HEAD}.decoder.weight": DECODER + WORDS, f"{HEAD}.decoder.bias": f"{HEAD}.bias"}
    for own, other in shared.items():
        pair = [tensors.get(name) for name in (own, other)]
        if all(pair) and not torch.equal(*(stored.read() for stored in pair if stored)):
            raise CheckpointError(
                f"{own} differs from {other}; patchword reads a BLIP for which the two are one "
                "(tie_word_embeddings)"
            )


def _vision_rules(vision: ViTConfig) -> Iterator[Rule]:
    embeddings = f"{VISION}.embeddings"
    yield Rename(f"{embeddings}.class_embedding", "image.cls_token")
    yield Rename(f"{embeddings}.position_embedding", "image.pos_embed")
    for kind in bert.KINDS:
        yield Rename(f"{embeddings}.patch_embedding.{kind}", f"image.patch_embed.proj.{kind}")
        yield Rename(f"{VISION}.post_layernorm.{kind}", f"image.norm.{kind}")
        for i in range(vision.depth):
            theirs, ours = f"{VISION}.encoder.layers.{i}", f"image.blocks.{i}"
            yield Rename(f"{theirs}.self_attn.qkv.{kind}", f"{ours}.attn.qkv.{kind}")
            yield Rename(f"{theirs}.self_attn.projection.{kind}", f"{ours}.attn.proj.{kind}")
            yield Rename(f"{theirs}.layer_norm1.{kind}", f"{ours}.norm1.{kind}")
            yield Rename(f"{theirs}.layer_norm2.{kind}", f"{ours}.norm2.{kind}")
            yield Rename(f"{theirs}.mlp.fc1.{kind}", f"{ours}.mlp.fc1.{kind}")
            yield Rename(f"{theirs}.mlp.fc2.{kind}", f"{ours}.mlp.fc2.{kind}")
