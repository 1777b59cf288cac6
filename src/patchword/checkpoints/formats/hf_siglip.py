"""Hugging Face's SigLIP and SigLIP 2: both towers, each of them alone, and the image classifier.

SiglipModel (Zhai et al. 2023) squashes images to one square; SigLIP 2's checkpoints of a fixed
resolution are that too. Siglip2Model is NaFlex: images in their own shapes, patches embedded by a
linear map (Tschannen et al. 2025, section 2.4.2). Defaults are those of transformers' configs,
image processors and tokenizers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.config_reader import ConfigReader, shape_of, special_word, vocabulary
from patchword.checkpoints.huggingface import (
    ACTIVATIONS,
    LAYERS,
    class_score,
    config_file,
    labels,
    layer,
    model_type,
    position_ids,
    text_tower,
    tower,
)
from patchword.checkpoints.image_processors import SIGLIP, in_patches, preprocess
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Drop, Patches, Rename, Rule, Squeeze, Unsqueeze
from patchword.config import Cleaning, ModelConfig, PreprocessConfig, TextConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "a Hugging Face SiglipModel or Siglip2Model"
EXPECTS = (
    "config.json with model_type 'siglip' or 'siglip2', tensors vision_model.* and text_model.*; "
    "or 'siglip_vision_model', 'siglip_text_model' and the like, and the tensors of that tower"
)
NAMES = ("vision_model.encoder.layers.", "text_model.encoder.layers.", "logit_bias")

WHOLE = ("siglip", "siglip2")
VISION_ALONE = ("siglip_vision_model", "siglip2_vision_model")
TEXT_ALONE = ("siglip_text_model", "siglip2_text_model")
VISION, TEXT = "vision_model.", "text_model."
CLASSIFIER = "classifier.weight"

# A tower alone carries its prefix in files of transformers 4, and none in those of 5.
SOURCE, BARE = "huggingface", "huggingface, names without prefix"

VISION_DEFAULT = "default of transformers' SiglipVisionConfig and Siglip2VisionConfig"
TEXT_DEFAULT = "default of transformers' SiglipTextConfig and Siglip2TextConfig"

# The special tokens of the two vocabularies, for a checkpoint without a tokenizer. They are not in
# its config.json, which repeats CLIP's ids, whatever the vocabulary.
GEMMA_VOCABULARY = 256_000
SENTENCEPIECE_TOKENS = {"pad_token": 1, "eos_token": 1}  # both "</s>" (SiglipTokenizer)
GEMMA_TOKENS = {"pad_token": 0, "eos_token": 1}  # "<pad>", "<eos>" (Siglip2Tokenizer)
TOKENIZER_CONFIG = "tokenizer_config.json"


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """Layers under Hugging Face's names, and a type of SigLIP's."""
    if model_type(files) not in (*WHOLE, *VISION_ALONE, *TEXT_ALONE):
        return False
    return any(key.startswith((VISION + LAYERS, TEXT + LAYERS, LAYERS)) for key in keys)


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """config.json, preprocessor_config.json and the tokenizer's files, checked against the
    tensors, which also decide which towers there are."""
    reader = config_file(files, *WHOLE, *VISION_ALONE, *TEXT_ALONE)
    bare = any(key.startswith(LAYERS) for key in tensors)
    whole = reader.values["model_type"] in WHOLE
    image_prefix, text_prefix = ("", "") if bare else (VISION, TEXT)
    seeing = f"{image_prefix}embeddings.patch_embedding.weight" in tensors
    reading = f"{text_prefix}embeddings.token_embedding.weight" in tensors
    if not seeing and not reading:
        raise CheckpointError("it has neither patch nor token embeddings")
    vision, text, pixels = None, None, PreprocessConfig()
    classes = shape_of(tensors, CLASSIFIER, 2)[0] if CLASSIFIER in tensors else 0
    if seeing:
        part = tower(reader, "vision_config") if whole else reader
        vision = _vision(part, tensors, image_prefix, classes > 0)
        pixels = _pixels(files, vision, reader.assumed)
    if reading:
        part = tower(reader, "text_config") if whole else reader
        text = _text(part, tensors, files, text_prefix)
    return ModelConfig(
        vision=vision,
        text=text,
        preprocess=pixels,
        embed_dim=_joint(tensors, vision, f"{text_prefix}head.weight") if reading else 0,
        classes=classes,
        labels=labels(reader, classes),
        score="sigmoid" if seeing and reading else class_score(reader, classes),
        source=BARE if bare else SOURCE,
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """SiglipModel, Siglip2Model, or one of their towers -> patchword."""
    bare, seeing = config.source == BARE, config.vision is not None
    if seeing and config.text is not None:
        yield Squeeze("logit_scale", "logit_scale")
        yield Squeeze("logit_bias", "logit_bias")
    if seeing:
        yield from _vision_rules(config, "" if bare else VISION)
    if config.text is not None:
        part = "" if bare else TEXT
        for kind in ("weight", "bias"):
            yield Rename(f"{part}head.{kind}", f"text.head.{kind}")
        yield from text_tower(part, config.text.depth)


def _vision_rules(config: ModelConfig, part: str) -> Iterator[Rule]:
    assert isinstance(config.vision, ViTConfig)
    patches = f"{part}embeddings.patch_embedding"
    linear = config.vision.positions == "flexible"
    yield (Patches if linear else Rename)(f"{patches}.weight", "image.patch_embed.proj.weight")
    yield Rename(f"{patches}.bias", "image.patch_embed.proj.bias")
    yield Unsqueeze(f"{part}embeddings.position_embedding.weight", "image.pos_embed")
    yield position_ids(part)
    for kind in ("weight", "bias"):
        yield Rename(f"{part}post_layernorm.{kind}", f"image.norm.{kind}")
        for i in range(config.vision.depth):
            yield from layer(f"{part}{LAYERS}{i}", f"image.blocks.{i}", kind)
        if config.classes:
            yield Rename(f"classifier.{kind}", f"image.head.{kind}")
    for theirs, ours in _head(f"{part}head"):
        if config.vision.pool == "map":
            yield Rename(theirs, f"image.attn_pool.{ours}")
        else:
            yield Drop(theirs, why="a classifier averages the patches instead")


def _head(part: str) -> Iterator[tuple[str, str]]:
    """Their names and ours of the attention pooling."""
    yield f"{part}.probe", "latent"
    for kind in ("weight", "bias"):
        yield f"{part}.attention.in_proj_{kind}", f"attn.qkv.{kind}"
        yield f"{part}.attention.out_proj.{kind}", f"attn.proj.{kind}"
        yield f"{part}.layernorm.{kind}", f"norm.{kind}"
        yield f"{part}.mlp.fc1.{kind}", f"mlp.fc1.{kind}"
        yield f"{part}.mlp.fc2.{kind}", f"mlp.fc2.{kind}"


def _vision(
    reader: ConfigReader, tensors: Mapping[str, Stored], part: str, classifies: bool
) -> ViTConfig:
    weight = f"{part}embeddings.patch_embedding.weight"
    positions = f"{part}embeddings.position_embedding.weight"
    linear = len(tensors[weight].shape) == 2
    width = reader.size("hidden_size", tensors, weight)
    if linear:
        size, patch = _square(reader, tensors, weight, positions)
    else:
        reader.size("num_channels", tensors, weight, 1)
        patch = reader.size("patch_size", tensors, weight, -1)
        size = reader.grid("image_size", tensors, positions, patch, extra=0)
    pooled = f"{part}head.probe" in tensors and not classifies
    if not pooled and not classifies:
        why = "the tower has no pooling of its own, so its patches are averaged"
        reader.assume("vision.pool", "norm_avg", why)
    why = VISION_DEFAULT
    return ViTConfig(
        image_size=size,
        patch_size=patch,
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{part}{LAYERS}"),
        heads=reader.heads(width, "num_attention_heads", 12, "vision.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{part}{LAYERS}0.mlp.fc1.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu_tanh", "vision.activation", why),
        eps=reader.get("layer_norm_eps", 1e-6, "vision.eps", why),
        pool="map" if pooled else "norm_avg",
        class_token=False,
        positions="flexible" if linear else "patches",
        antialias=linear,
    )


def _square(
    reader: ConfigReader, tensors: Mapping[str, Stored], weight: str, positions: str
) -> tuple[tuple[int, int], int]:
    """NaFlex: the image size (H, W) at which positions are as learned, and the patch size."""
    values = shape_of(tensors, weight, 2)[1]
    patch = math.isqrt(values // 3)
    if 3 * patch * patch != values:
        raise CheckpointError(f"{weight} reads {values} values, which are no square RGB patch")
    for key, found in (("patch_size", patch), ("num_channels", 3)):
        if reader.values.get(key) not in (None, found):
            reader.fail(key, f"but {weight} makes it {found}")
    count = reader.size("num_patches", tensors, positions)
    side = math.isqrt(count)
    if side * side != count:
        reader.fail("num_patches", "which makes no square grid of positions", count)
    return (side * patch, side * patch), patch


def _pixels(
    files: Mapping[str, Any], vision: ViTConfig, assumed: dict[str, str]
) -> PreprocessConfig:
    size = vision.image_size
    if vision.positions == "flexible":
        return in_patches(files, size, vision.patch_size, assumed)
    return preprocess(files, size, assumed, SIGLIP)


def _joint(tensors: Mapping[str, Stored], vision: ViTConfig | None, head: str) -> int:
    """The dimension of the joint space, in which pooled images are used without a projection."""
    dim = shape_of(tensors, head, 2)[0]
    if vision is not None and vision.pool != "map":
        raise CheckpointError(f"without {VISION}head.* its images have no place beside its texts")
    if vision is not None and vision.width != dim:
        raise CheckpointError(f"its texts have {dim} dimensions, but its images {vision.width}")
    return dim


def _text(
    reader: ConfigReader, tensors: Mapping[str, Stored], files: Mapping[str, Any], part: str
) -> TextConfig:
    tokens = f"{part}embeddings.token_embedding.weight"
    positions = f"{part}embeddings.position_embedding.weight"
    width = reader.size("hidden_size", tensors, tokens, 1)
    vocab_size = reader.size("vocab_size", tensors, tokens)
    reader.size("projection_size", tensors, f"{part}head.weight")
    gemma = _gemma(files, vocab_size)
    ids = _special_ids(files, vocab_size, gemma, reader.assumed)
    why = TEXT_DEFAULT
    return TextConfig(
        vocab_size=vocab_size,
        context=reader.size("max_position_embeddings", tensors, positions),
        width=width,
        depth=reader.depth("num_hidden_layers", tensors, f"{part}{LAYERS}"),
        heads=reader.heads(width, "num_attention_heads", 12, "text.heads", why),
        mlp_width=reader.size("intermediate_size", tensors, f"{part}{LAYERS}0.mlp.fc1.weight"),
        activation=reader.choice("hidden_act", ACTIVATIONS, "gelu_tanh", "text.activation", why),
        eps=reader.get("layer_norm_eps", 1e-6, "text.eps", why),
        causal=False,
        pool="last",
        head_bias=True,
        end_token=ids["eos_token"],
        pad_token=ids["pad_token"],
        padding="attended",
        cleaning=_cleaning(files, gemma),
    )


def _gemma(files: Mapping[str, Any], vocab_size: int) -> bool:
    """Whether texts are in SigLIP 2's vocabulary, Gemma's byte-pair encoding, or in SigLIP's
    SentencePiece unigrams."""
    model = _part(files, "tokenizer.json").get("model")
    if isinstance(model, dict) and "type" in model:
        return bool(model["type"] == "BPE")
    return vocab_size == GEMMA_VOCABULARY or model_type(files).startswith("siglip2")


def _special_ids(
    files: Mapping[str, Any], vocab_size: int, gemma: bool, assumed: dict[str, str]
) -> dict[str, int]:
    """Ids of the padding and the end token, as the tokenizer's files have them.

    Padding is attended to, so its id and its side count: the right one (big_vision,
    pp/ops_text.py).
    """
    reader = ConfigReader(TOKENIZER_CONFIG, _part(files, TOKENIZER_CONFIG), assumed)
    if reader.values.get("padding_side") == "left":
        reader.fail("padding_side", "but SigLIP was trained with padding on the right")
    known = vocabulary(files)
    ids = {}
    for key, default in (GEMMA_TOKENS if gemma else SENTENCEPIECE_TOKENS).items():
        word, _ = special_word(files, key)
        if word is None or not known:
            name = "text.end_token" if key == "eos_token" else "text.pad_token"
            vocabulary_of = "Gemma" if gemma else "the SentencePiece"
            reader.assume(name, default, f"of {vocabulary_of} vocabulary")
        ids[key] = known.get(word, -1) if word is not None and known else default
        if not 0 <= ids[key] < vocab_size:
            reader.fail(key, f"which is none of the model's {vocab_size} ids", word)
    return ids


def _cleaning(files: Mapping[str, Any], gemma: bool) -> Cleaning:
    """The text cleaning of SigLIP's training: lower case, the first also without punctuation.

    A tokenizer.json that lowers case needs no further cleaning. For one that does not,
    transformers' Siglip2Tokenizer lowers case outside the file, and its SiglipTokenizer also
    removes punctuation.
    """
    normalizer = _part(files, "tokenizer.json").get("normalizer")
    if '"Lowercase"' in json.dumps(normalizer):
        return "none"
    if _part(files, TOKENIZER_CONFIG).get("do_lower_case") is False:
        return "none"
    return "lowercase" if gemma else "unpunctuated"


def _part(files: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object of a JSON file; an empty one when there is none."""
    whole = files.get(name)
    return whole if isinstance(whole, dict) else {}
