"""Hugging Face's CLIPModel: config.json, safetensors or .bin, preprocessor_config.json.

Defaults are those of transformers' CLIPTextConfig, CLIPVisionConfig and CLIPImageProcessor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.huggingface import ACTIVATIONS, config_file, layer, preprocess, tower
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Drop, Rename, Rule, Unsqueeze
from patchword.checkpoints.stated import Stated, highest_id, scale_limit
from patchword.config import ModelConfig, TextConfig, VisionConfig

TITLE = "a Hugging Face CLIPModel"
EXPECTS = "config.json with model_type 'clip', tensors text_model.* and vision_model.*"

VISION, TEXT = "vision_model", "text_model"
TEXT_DEFAULT = "transformers' CLIPTextConfig default"
VISION_DEFAULT = "transformers' CLIPVisionConfig default"

# Before transformers 4.32 every configuration said 2, whatever the tokenizer, and the text was
# pooled at its highest id; transformers still reads 2 so (modeling_clip.py, CLIPTextModel).
LEGACY_END = 2


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """CLIP's two projections under Hugging Face's names."""
    return {"visual_projection.weight", "text_projection.weight"} <= set(keys)


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json and preprocessor_config.json, checked against the tensors."""
    stated = config_file(files, "clip")
    vision = _vision(tower(stated, "vision_config"), tensors)
    return ModelConfig(
        vision=vision,
        text=_text(tower(stated, "text_config"), tensors, files),
        preprocess=preprocess(files, vision.image_size, stated.assumed),
        embed_dim=stated.size("projection_dim", tensors, "visual_projection.weight"),
        scale_limit=scale_limit(tensors),
        source="huggingface",
        assumed=stated.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """CLIPModel -> patchword."""
    assert config.text is not None
    yield Rename("logit_scale", "logit_scale")
    yield Rename("visual_projection.weight", "image.head.weight")
    yield Rename("text_projection.weight", "text.head.weight")
    yield Unsqueeze(f"{VISION}.embeddings.class_embedding", "image.cls_token", 2)
    yield Rename(f"{VISION}.embeddings.patch_embedding.weight", "image.patch_embed.proj.weight")
    yield Unsqueeze(f"{VISION}.embeddings.position_embedding.weight", "image.pos_embed")
    yield Rename(f"{TEXT}.embeddings.token_embedding.weight", "text.token_embed.weight")
    yield Unsqueeze(f"{TEXT}.embeddings.position_embedding.weight", "text.pos_embed")
    for part in (VISION, TEXT):
        yield Drop(f"{part}.embeddings.position_ids", why="0, 1, 2, ...: counted anew")
    for kind in ("weight", "bias"):
        yield Rename(f"{VISION}.pre_layrnorm.{kind}", f"image.norm_pre.{kind}")  # their spelling
        yield Rename(f"{VISION}.post_layernorm.{kind}", f"image.norm.{kind}")
        yield Rename(f"{TEXT}.final_layer_norm.{kind}", f"text.norm.{kind}")
        for i in range(config.vision.depth):
            yield from layer(f"{VISION}.encoder.layers.{i}", f"image.blocks.{i}", kind)
        for i in range(config.text.depth):
            yield from layer(f"{TEXT}.encoder.layers.{i}", f"text.blocks.{i}", kind)


def _vision(stated: Stated, tensors: Mapping[str, Stored]) -> VisionConfig:
    embeddings, first = f"{VISION}.embeddings", f"{VISION}.encoder.layers.0"
    patches = f"{embeddings}.patch_embedding.weight"
    positions = f"{embeddings}.position_embedding.weight"
    stated.size("num_channels", tensors, patches, 1)
    width = stated.size("hidden_size", tensors, patches)
    patch = stated.size("patch_size", tensors, patches, -1)
    why = VISION_DEFAULT
    return VisionConfig(
        image_size=stated.grid("image_size", tensors, positions, patch),
        patch_size=patch,
        width=width,
        depth=stated.depth("num_hidden_layers", tensors, f"{VISION}.encoder.layers."),
        heads=stated.heads(width, "num_attention_heads", 12, "vision.heads", why),
        mlp_width=stated.size("intermediate_size", tensors, f"{first}.mlp.fc1.weight"),
        activation=stated.choice("hidden_act", ACTIVATIONS, "quick_gelu", "vision.activation", why),
        eps=stated.get("layer_norm_eps", 1e-5, "vision.eps", why),
        pre_norm=True,
        patch_bias=False,
    )


def _text(stated: Stated, tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> TextConfig:
    embeddings, first = f"{TEXT}.embeddings", f"{TEXT}.encoder.layers.0"
    tokens, positions = f"{embeddings}.token_embedding.weight", "position_embedding.weight"
    width = stated.size("hidden_size", tensors, tokens, 1)
    vocab_size = stated.size("vocab_size", tensors, tokens)
    why = TEXT_DEFAULT
    end = stated.get("eos_token_id", 49407, "text.end_token", why)
    if end == LEGACY_END:
        end = highest_id(files, vocab_size)
        stated.assumed["text.end_token"] = f"{end}: eos_token_id 2 stands for the highest id"
    if not 0 <= end < vocab_size:
        stated.fail("eos_token_id", f"but there are only {vocab_size} ids")
    return TextConfig(
        vocab_size=vocab_size,
        context=stated.size("max_position_embeddings", tensors, f"{embeddings}.{positions}"),
        width=width,
        depth=stated.depth("num_hidden_layers", tensors, f"{TEXT}.encoder.layers."),
        heads=stated.heads(width, "num_attention_heads", 8, "text.heads", why),
        mlp_width=stated.size("intermediate_size", tensors, f"{first}.mlp.fc1.weight"),
        activation=stated.choice("hidden_act", ACTIVATIONS, "quick_gelu", "text.activation", why),
        eps=stated.get("layer_norm_eps", 1e-5, "text.eps", why),
        end_token=end,
        pad_token=end,  # CLIP's tokenizers pad so; what follows the end token changes nothing
    )
