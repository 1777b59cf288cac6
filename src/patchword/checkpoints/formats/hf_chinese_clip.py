"""Hugging Face's ChineseCLIPModel: CLIP's image tower and a Chinese RoBERTa, which is a BERT.

Defaults are those of transformers' ChineseCLIPTextConfig, ChineseCLIPVisionConfig and
ChineseCLIPImageProcessor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from patchword.checkpoints import bert
from patchword.checkpoints.config_reader import ConfigReader, scale_limit
from patchword.checkpoints.formats import hf_clip
from patchword.checkpoints.huggingface import config_file, model_type, tower
from patchword.checkpoints.image_processors import CHINESE_CLIP, preprocess
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Rename, Rule
from patchword.config import ModelConfig, TextConfig

TITLE = "a Hugging Face ChineseCLIPModel"
EXPECTS = "config.json with model_type 'chinese_clip', tensors vision_model.* and text_model.*"
NAMES = (
    "visual_projection.weight",
    "text_projection.weight",
    "text_model.embeddings.word_embeddings.weight",
)

KIND = "chinese_clip"
TEXT = "text_model."
DEFAULT = "transformers' ChineseCLIPTextConfig default"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """CLIP's two projections and a BERT's embeddings, and its model_type, or none."""
    names = {hf_clip.VISUAL_HEAD, hf_clip.TEXT_HEAD, f"{TEXT}{bert.WORD_EMBEDDINGS}"}
    return names <= set(keys) and model_type(files) in (KIND, "")


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors."""
    reader = config_file(files, KIND)
    vision = hf_clip.vision_config(tower(reader, "vision_config"), tensors, hf_clip.VISION)
    return ModelConfig(
        vision=vision,
        text=_text(tower(reader, "text_config"), tensors),
        preprocess=preprocess(files, vision.image_size, reader.assumed, CHINESE_CLIP),
        embed_dim=reader.size("projection_dim", tensors, hf_clip.VISUAL_HEAD),
        scale_limit=scale_limit(tensors),
        source="huggingface",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """ChineseCLIPModel -> patchword."""
    assert config.text is not None
    yield Rename("logit_scale", "logit_scale")
    yield Rename(hf_clip.TEXT_HEAD, "text.head.weight")
    yield from hf_clip.vision_rules(config, hf_clip.VISION)
    yield from bert.plain_tower(TEXT, config.text.depth)


def _text(reader: ConfigReader, tensors: Mapping[str, LazyTensor]) -> TextConfig:
    if reader.optional("position_embedding_type", "absolute") != "absolute":
        reader.fail("position_embedding_type", "which patchword does not support")
    if reader.optional("type_vocab_size", bert.TOKEN_TYPES) != bert.TOKEN_TYPES:
        reader.fail("type_vocab_size", f"and only {bert.TOKEN_TYPES} are supported")
    text = bert.text_config(reader, tensors, TEXT, 12, DEFAULT)
    pad = reader.get("pad_token_id", 0, "text.pad_token", DEFAULT)
    if not 0 <= pad < text.vocab_size:
        reader.fail("pad_token_id", f"but there are only {text.vocab_size} ids", pad)
    return replace(text, head_bias=False, pad_token=pad, end_token=bert.NO_TOKEN)
