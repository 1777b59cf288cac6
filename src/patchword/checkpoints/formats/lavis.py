"""BLIP's original files (salesforce/BLIP and LAVIS): a .pth with {"model": ...} and nothing else.

The parts of a model tell its task. `model_base.pth` has all parts, and its decoder shares the text
encoder's weights except self-attention (models/blip_pretrain.py). A captioner has no text encoder.
A model for question answering has two separate text towers. One for retrieval has no decoder. What
that code fixes for every model is noted as assumed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from patchword.checkpoints import bert
from patchword.checkpoints.bert import WORD_EMBEDDINGS
from patchword.checkpoints.config_reader import ConfigReader, depth, shape_of
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Drop, NegativeLog, ReadingRule, Rule, rename_layer
from patchword.checkpoints.timm_names import vit_rules
from patchword.config import BlipConfig, ModelConfig, PreprocessConfig, TextConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "an original BLIP"
EXPECTS = "a .pth file with tensors visual_encoder.* and text_encoder.* or text_decoder.*"
NAMES = ("visual_encoder.blocks.0.attn.qkv.weight", "text_decoder.bert.")

VISION, TEXT, DECODER = "visual_encoder.", "text_encoder.", "text_decoder.bert."
CODE = "as every model of salesforce/BLIP"
HEAD_WIDTH = 64
EPS = 1e-6  # models/vit.py: of the image tower
SEP = 102  # "[SEP]" of bert-base-uncased
SCALE_LIMIT = 1000.0  # the temperature is clamped to 0.001 or more in training
MOMENTUM = "a moving average of the weights, for training"
QUEUES = ("image_queue", "text_queue", "queue_ptr", "idx_queue", "ptr_queue")


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """The original names of an image tower and a BERT."""
    has_text = f"{TEXT}{WORD_EMBEDDINGS}" in keys or f"{DECODER}{WORD_EMBEDDINGS}" in keys
    return has_text and f"{VISION}blocks.0.attn.qkv.weight" in keys


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """The config, from the names and shapes of the tensors."""
    reader = ConfigReader("the file", {})
    vision = _vision(reader, tensors)
    text, decoder = None, None
    if f"{TEXT}{WORD_EMBEDDINGS}" in tensors:
        text = _text(reader, tensors, TEXT)
    if f"{DECODER}{WORD_EMBEDDINGS}" in tensors:
        tower = _text(reader, tensors, DECODER)
        decoder = bert.as_decoder(tower, tower.vocab_size - 2)
        reader.assume("decoder.start_token", decoder.start_token, "[DEC], last but one of all ids")
    if text is not None:
        text = replace(text, start_token=text.vocab_size - 1)
        reader.assume("text.start_token", text.start_token, "[ENC], the last of all ids")
    matching = "itm_head.weight" in tensors
    shared = text is not None and decoder is not None and matching
    if shared and text is not None:
        _check_shared(tensors, text.depth)
    reader.assume("text.end_token", SEP, "[SEP] of bert-base-uncased")
    reader.assume("preprocess", "bicubic to a square, CLIP's mean and std", f"demo.ipynb, {CODE}")
    return ModelConfig(
        vision=vision,
        text=text,
        blip=BlipConfig(
            decoder=decoder,
            writes_captions=decoder is not None and (text is None or shared),
            answers_questions=decoder is not None and text is not None and not shared,
            shared_decoder=shared,
            matching=matching,
        ),
        embed_dim=shape_of(tensors, "vision_proj.weight", 2)[0] if matching else 0,
        preprocess=PreprocessConfig(
            size=vision.image_size,
            resize="squash",
            resize_to=min(vision.image_size),
            crop_rounding="round",
        ),
        scale_limit=SCALE_LIMIT,
        source="lavis",
        assumed=reader.assumed,
    )


def rules(config: ModelConfig) -> Iterator[Rule]:
    """salesforce/BLIP -> patchword."""
    model_rules = list(_rules(config))
    yield from model_rules
    for queue in QUEUES:
        yield Drop(queue, why="features of earlier training batches")
    dropped = [rule.source for rule in model_rules if isinstance(rule, Drop)]
    for name in [*_sources(model_rules), *dropped]:
        module, _, rest = name.partition(".")
        yield Drop(f"{module}_m.{rest}", why=MOMENTUM)


def _sources(rules: Iterable[Rule]) -> list[str]:
    """The tensors that rules read."""
    return [name for rule in rules if isinstance(rule, ReadingRule) for name in rule.sources]


def _rules(config: ModelConfig) -> Iterator[Rule]:
    assert isinstance(config.vision, ViTConfig)
    yield from vit_rules(config.vision, prefix=VISION)
    if config.text is not None:
        yield from bert.tower(TEXT, "text", config.text.depth)
    if config.blip is not None and config.decoder is not None:
        if config.blip.shared_decoder:
            yield from _shared_decoder(config.decoder.depth)
        else:
            yield from bert.tower(DECODER, "decoder", config.decoder.depth)
        yield from bert.language_head("text_decoder.cls.predictions", "decoder.words")
    if config.matching:
        yield NegativeLog("temp", "logit_scale")
        yield from rename_layer("vision_proj", "image.head")
        yield from rename_layer("text_proj", "text.head")
        yield from rename_layer("itm_head", "match_head")


def _shared_decoder(depth: int) -> Iterator[Rule]:
    """The self-attention of a decoder that shares all other weights with the text encoder."""
    for i in range(depth):
        yield from bert.attention(f"{DECODER}encoder.layer.{i}", f"decoder.blocks.{i}")
    for name in _shared_names(depth):
        yield Drop(f"{DECODER}{name}", why="the text encoder's again")
    yield Drop(f"{DECODER}embeddings.position_ids", why="0, 1, 2, ..., which are computed")


def _shared_names(depth: int) -> list[str]:
    """The tensors that a text encoder shares with its decoder, without the prefixes."""
    rules = list(bert.embeddings("", ""))
    for i in range(depth):
        rules += bert.cross_attention(f"encoder.layer.{i}", "")
        rules += bert.mlp(f"encoder.layer.{i}", "")
    return _sources(rules)


def _check_shared(tensors: Mapping[str, LazyTensor], depth: int) -> None:
    """Raise CheckpointError for a decoder whose shared weights differ from its text encoder's."""
    for name in _shared_names(depth):
        encoder, decoder = tensors.get(f"{TEXT}{name}"), tensors.get(f"{DECODER}{name}")
        if encoder and decoder and not torch.equal(encoder.read(), decoder.read()):
            raise CheckpointError(
                f"{DECODER}{name} differs from {TEXT}{name}; the two are one in salesforce/BLIP"
            )


def _vision(reader: ConfigReader, tensors: Mapping[str, LazyTensor]) -> ViTConfig:
    width, _, patch, _ = shape_of(tensors, f"{VISION}patch_embed.proj.weight", 4)
    heads = _heads(width)
    reader.assume("vision.heads", heads, f"{CODE}, width / {HEAD_WIDTH}")
    reader.assume("vision.eps", EPS, CODE)
    reader.assume("vision.activation", "gelu", CODE)
    return ViTConfig(
        image_size=reader.image_size("image_size", tensors, f"{VISION}pos_embed", patch),
        patch_size=patch,
        width=width,
        depth=depth(tensors, f"{VISION}blocks."),
        heads=heads,
        mlp_width=shape_of(tensors, f"{VISION}blocks.0.mlp.fc1.weight", 2)[0],
        eps=EPS,
        antialias=False,
    )


def _text(reader: ConfigReader, tensors: Mapping[str, LazyTensor], prefix: str) -> TextConfig:
    """A text encoder, or the decoder as an encoder; prefix: of its tensor names."""
    words = f"{prefix}{WORD_EMBEDDINGS}"
    heads = _heads(shape_of(tensors, words, 2)[1])
    text = bert.text_config(reader, tensors, prefix, heads, f"{CODE}, configs/med_config.json")
    if text.vocab_size <= SEP + 2:
        raise CheckpointError(f"{words} has {text.vocab_size} ids; [SEP] alone is {SEP}")
    return replace(text, end_token=SEP)


def _heads(width: int) -> int:
    if not width or width % HEAD_WIDTH:
        raise CheckpointError(f"a width of {width} is not a multiple of {HEAD_WIDTH} a head")
    return width // HEAD_WIDTH
