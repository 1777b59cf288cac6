"""Hugging Face's SigLIP and SigLIP 2: both towers, one of them, or the image classifier.

SiglipModel (Zhai et al. 2023) squashes images to one square; checkpoints of SigLIP 2 with a fixed
resolution are of this class too. Siglip2Model is NaFlex: images keep their shapes, and a linear map
embeds the patches (Tschannen et al. 2025, section 2.4.2). Defaults are those of transformers'
configs, image processors and tokenizers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader, shape_of
from patchword.checkpoints.huggingface import (
    ACTIVATIONS,
    LAYERS,
    class_score,
    config_file,
    drop_position_ids,
    labels,
    layer,
    model_type,
    text_tower,
    tower,
)
from patchword.checkpoints.image_processors import SIGLIP, preprocess, preprocess_in_patches
from patchword.checkpoints.json_files import json_object
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import (
    Drop,
    PatchKernel,
    Rename,
    Rule,
    Squeeze,
    Unsqueeze,
    rename_layer,
)
from patchword.checkpoints.special_tokens import special_token, vocabulary
from patchword.config import Cleaning, ModelConfig, PreprocessConfig, TextConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "a Hugging Face SiglipModel or Siglip2Model"
EXPECTS = (
    "config.json with model_type 'siglip' or 'siglip2', tensors vision_model.* and text_model.*; "
    "or 'siglip_vision_model', 'siglip_text_model' and the like, and the tensors of that tower"
)
NAMES = ("vision_model.encoder.layers.", "text_model.encoder.layers.", "logit_bias")

BOTH = ("siglip", "siglip2")
VISION_ALONE = ("siglip_vision_model", "siglip2_vision_model")
TEXT_ALONE = ("siglip_text_model", "siglip2_text_model")
VISION, TEXT = "vision_model.", "text_model."
CLASSIFIER = "classifier.weight"

# Names of a tower alone have a prefix in files of transformers 4, and none in those of 5.
SOURCE, WITHOUT_PREFIX = "huggingface", "huggingface, names without prefix"

VISION_DEFAULT = "default of transformers' SiglipVisionConfig and Siglip2VisionConfig"
TEXT_DEFAULT = "default of transformers' SiglipTextConfig and Siglip2TextConfig"

# The special tokens of the two vocabularies, for a checkpoint without a tokenizer. Its config.json
# does not have them: it repeats CLIP's ids, whatever the vocabulary.
GEMMA_VOCABULARY = 256_000
SENTENCEPIECE_TOKENS = {"pad_token": 1, "eos_token": 1}  # both "</s>" (SiglipTokenizer)
GEMMA_TOKENS = {"pad_token": 0, "eos_token": 1}  # "<pad>", "<eos>" (Siglip2Tokenizer)
TOKENIZER_CONFIG = "tokenizer_config.json"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """Layers under Hugging Face's names, and a model_type of SigLIP's."""
    if model_type(files) not in (*BOTH, *VISION_ALONE, *TEXT_ALONE):
        return False
    return any(key.startswith((VISION + LAYERS, TEXT + LAYERS, LAYERS)) for key in keys)


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """config.json, preprocessor_config.json and the tokenizer's files, checked against the
    tensors. The tensors also decide which towers there are."""
    reader = config_file(files, *BOTH, *VISION_ALONE, *TEXT_ALONE)
    without_prefix = any(key.startswith(LAYERS) for key in tensors)
    image_prefix, text_prefix = ("", "") if without_prefix else (VISION, TEXT)
    has_vision = f"{image_prefix}embeddings.patch_embedding.weight" in tensors
    has_text = f"{text_prefix}embeddings.token_embedding.weight" in tensors
    if not has_vision and not has_text:
        raise CheckpointError("it has neither patch nor token embeddings")
    of_both = reader.values["model_type"] in BOTH
    classes = shape_of(tensors, CLASSIFIER, 2)[0] if CLASSIFIER in tensors else 0
    vision, text, preprocessing, embed_dim = None, None, PreprocessConfig(), 0
    if has_vision:
        vision_reader = tower(reader, "vision_config") if of_both else reader
        vision = _vision(vision_reader, tensors, image_prefix, classes > 0)
        preprocessing = _preprocess(files, vision, reader.assumed)
    if has_text:
        text_reader = tower(reader, "text_config") if of_both else reader
        text = _text(text_reader, tensors, files, text_prefix)
        embed_dim = _embed_dim(tensors, vision, f"{text_prefix}head.weight")
    return ModelConfig(
        vision=vision,
        text=text,
        preprocess=preprocessing,
        embed_dim=embed_dim,
        classes=classes,
        labels=labels(reader, classes),
        score="sigmoid" if has_vision and has_text else class_score(reader, classes),
        source=WITHOUT_PREFIX if without_prefix else SOURCE,
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """SiglipModel, Siglip2Model, or one of their towers -> patchword."""
    prefix = config.source != WITHOUT_PREFIX
    if config.vision is not None and config.text is not None:
        yield Squeeze("logit_scale", "logit_scale")
        yield Squeeze("logit_bias", "logit_bias")
    if config.vision is not None:
        yield from _vision_rules(config, VISION if prefix else "")
    if config.text is not None:
        text_prefix = TEXT if prefix else ""
        yield from rename_layer(f"{text_prefix}head", "text.head")
        yield from text_tower(text_prefix, config.text.depth)


def _vision_rules(config: ModelConfig, prefix: str) -> Iterator[Rule]:
    assert isinstance(config.vision, ViTConfig)
    patches = f"{prefix}embeddings.patch_embedding"
    if config.vision.positions == "flexible":
        yield PatchKernel(f"{patches}.weight", "image.patch_embed.proj.weight")
    else:
        yield Rename(f"{patches}.weight", "image.patch_embed.proj.weight")
    yield Rename(f"{patches}.bias", "image.patch_embed.proj.bias")
    yield Unsqueeze(f"{prefix}embeddings.position_embedding.weight", "image.pos_embed")
    yield drop_position_ids(prefix)
    yield from rename_layer(f"{prefix}post_layernorm", "image.norm")
    for i in range(config.vision.depth):
        yield from layer(f"{prefix}{LAYERS}{i}", f"image.blocks.{i}")
    if config.classes:
        yield from rename_layer("classifier", "image.head")
    for rule in _attention_pooling(f"{prefix}head"):
        if config.vision.pool == "map":
            yield rule
        else:
            yield Drop(rule.source, why="a classifier averages the patches instead")


def _attention_pooling(source: str) -> Iterator[Rename]:
    yield Rename(f"{source}.probe", "image.attn_pool.latent")
    for name in ("weight", "bias"):
        yield Rename(f"{source}.attention.in_proj_{name}", f"image.attn_pool.attn.qkv.{name}")
    yield from rename_layer(f"{source}.attention.out_proj", "image.attn_pool.attn.proj")
    yield from rename_layer(f"{source}.layernorm", "image.attn_pool.norm")
    yield from rename_layer(f"{source}.mlp.fc1", "image.attn_pool.mlp.fc1")
    yield from rename_layer(f"{source}.mlp.fc2", "image.attn_pool.mlp.fc2")


def _vision(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str, is_classifier: bool
) -> ViTConfig:
    """The image tower; prefix: of its tensor names."""
    weight = f"{prefix}embeddings.patch_embedding.weight"
    positions = f"{prefix}embeddings.position_embedding.weight"
    linear = len(tensors[weight].shape) == 2
    width = reader.size("hidden_size", tensors, weight)
    if linear:
        size, patch = _naflex_sizes(reader, tensors, weight, positions)
    else:
        reader.size("num_channels", tensors, weight, 1)
        patch = reader.size("patch_size", tensors, weight, -1)
        size = reader.image_size("image_size", tensors, positions, patch, prefix=0)
    has_pooling = f"{prefix}head.probe" in tensors and not is_classifier
    if not has_pooling and not is_classifier:
        why = "the tower has no pooling of its own, so its patches are averaged"
        reader.assume("vision.pool", "norm_avg", why)
    why = VISION_DEFAULT
    return ViTConfig(
        image_size=size,
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{prefix}{LAYERS}"),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{prefix}{LAYERS}0.mlp.fc1.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu_tanh", "vision.activation", why),
        eps=reader.get("layer_norm_eps", 1e-6, "vision.eps", why),
        pool="map" if has_pooling else "norm_avg",
        class_token=False,
        positions="flexible" if linear else "patches",
        antialias=linear,
    )


def _naflex_sizes(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], weight: str, positions: str
) -> tuple[tuple[int, int], int]:
    """The image size (H, W) whose positions are the learned ones, and the patch size."""
    values = shape_of(tensors, weight, 2)[1]
    patch = math.isqrt(values // 3)
    if 3 * patch * patch != values:
        raise CheckpointError(f"{weight} reads {values} values, which are no square RGB patch")
    for key, actual in (("patch_size", patch), ("num_channels", 3)):
        if reader.values.get(key) not in (None, actual):
            reader.fail(key, f"but {weight} makes it {actual}")
    count = reader.size("num_patches", tensors, positions)
    side = math.isqrt(count)
    if side * side != count:
        reader.fail("num_patches", "which makes no square grid of positions", count)
    return (side * patch, side * patch), patch


def _preprocess(
    files: Mapping[str, Any], vision: ViTConfig, assumed: dict[str, str]
) -> PreprocessConfig:
    size = vision.image_size
    if vision.positions == "flexible":
        return preprocess_in_patches(files, size, vision.patch_size, assumed)
    return preprocess(files, size, assumed, SIGLIP)


def _embed_dim(tensors: Mapping[str, LazyTensor], vision: ViTConfig | None, head: str) -> int:
    """The dimension of the joint space: images enter it without a projection."""
    dim = shape_of(tensors, head, 2)[0]
    if vision is not None and vision.pool != "map":
        raise CheckpointError(f"without {VISION}head.* its images have no place beside its texts")
    if vision is not None and vision.width != dim:
        raise CheckpointError(f"its texts have {dim} dimensions, but its images {vision.width}")
    return dim


def _text(
    reader: ConfigReader, tensors: Mapping[str, LazyTensor], files: Mapping[str, Any], prefix: str
) -> TextConfig:
    """The text tower; prefix: of its tensor names."""
    tokens = f"{prefix}embeddings.token_embedding.weight"
    positions = f"{prefix}embeddings.position_embedding.weight"
    width = reader.size("hidden_size", tensors, tokens, 1)
    vocab_size = reader.size("vocab_size", tensors, tokens)
    reader.size("projection_size", tensors, f"{prefix}head.weight")
    is_gemma = _is_gemma(files, vocab_size)
    ids = _special_ids(files, vocab_size, is_gemma, reader.assumed)
    why = TEXT_DEFAULT
    return TextConfig(
        vocab_size=vocab_size,
        context=reader.size("max_position_embeddings", tensors, positions),
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{prefix}{LAYERS}"),
        heads=reader.heads(width, "num_attention_heads", 12, "text.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{prefix}{LAYERS}0.mlp.fc1.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu_tanh", "text.activation", why),
        eps=reader.get("layer_norm_eps", 1e-6, "text.eps", why),
        causal=False,
        pool="last",
        head_bias=True,
        end_token=ids["eos_token"],
        pad_token=ids["pad_token"],
        padding="attended",
        cleaning=_cleaning(files, is_gemma),
    )


def _is_gemma(files: Mapping[str, Any], vocab_size: int) -> bool:
    """Whether the vocabulary is SigLIP 2's, Gemma's byte-pair encoding. SigLIP's has the unigrams
    of SentencePiece."""
    model = json_object(files, "tokenizer.json").get("model")
    if isinstance(model, dict) and "type" in model:
        return bool(model["type"] == "BPE")
    return vocab_size == GEMMA_VOCABULARY or model_type(files).startswith("siglip2")


def _special_ids(
    files: Mapping[str, Any], vocab_size: int, is_gemma: bool, assumed: dict[str, str]
) -> dict[str, int]:
    """The ids of the padding and the end token in the tokenizer's files.

    Padding is attended to, so its id and its side matter. It is on the right (big_vision,
    pp/ops_text.py).
    """
    reader = ConfigReader(TOKENIZER_CONFIG, json_object(files, TOKENIZER_CONFIG), assumed)
    if reader.values.get("padding_side") == "left":
        reader.fail("padding_side", "but SigLIP was trained with padding on the right")
    known_ids = vocabulary(files)
    ids = {}
    for key, default in (GEMMA_TOKENS if is_gemma else SENTENCEPIECE_TOKENS).items():
        token, _ = special_token(files, key)
        if token is not None and known_ids:
            ids[key] = known_ids.get(token, -1)
        else:
            ids[key] = default
            name = "text.end_token" if key == "eos_token" else "text.pad_token"
            vocabulary_name = "Gemma" if is_gemma else "the SentencePiece"
            reader.assume(name, default, f"of {vocabulary_name} vocabulary")
        if not 0 <= ids[key] < vocab_size:
            reader.fail(key, f"which is none of the model's {vocab_size} ids", token)
    return ids


def _cleaning(files: Mapping[str, Any], is_gemma: bool) -> Cleaning:
    """The text cleaning of the training: lower case, and for SigLIP (1) without punctuation.

    If tokenizer.json lowers the case, no further cleaning is needed. If not, transformers'
    Siglip2Tokenizer lowers it outside the file, and SiglipTokenizer also removes punctuation.
    """
    normalizer = json_object(files, "tokenizer.json").get("normalizer")
    if '"Lowercase"' in json.dumps(normalizer):
        return "none"
    if json_object(files, TOKENIZER_CONFIG).get("do_lower_case") is False:
        return "none"
    return "lowercase" if is_gemma else "unpunctuated"
