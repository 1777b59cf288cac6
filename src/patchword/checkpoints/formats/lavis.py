"""BLIP's original files (salesforce/BLIP and LAVIS): a .pth with {"model": ...} and nothing else.

The task of a model follows from its parts: `model_base.pth` has them all, its decoder sharing the
text encoder's weights except self-attention (models/blip_pretrain.py); captioners have no text
encoder; models for question answering have two separate text towers; those for retrieval no
decoder. What that code fixes for every model is noted as assumed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from patchword.checkpoints import bert
from patchword.checkpoints.bert import WORDS
from patchword.checkpoints.config_reader import ConfigReader, depth, shape_of
from patchword.checkpoints.read import Stored
from patchword.checkpoints.rules import Drop, NegativeLog, Rename, Rule
from patchword.checkpoints.timm_names import vit_rules
from patchword.config import BlipConfig, ModelConfig, PreprocessConfig, TextConfig, ViTConfig
from patchword.errors import CheckpointError

TITLE = "an original BLIP"
EXPECTS = "a .pth file with tensors visual_encoder.* and text_encoder.* or text_decoder.*"
NAMES = ("visual_encoder.blocks.0.attn.qkv.weight", "text_decoder.bert.")

VISION, TEXT, DECODER = "visual_encoder", "text_encoder.", "text_decoder.bert."
CODE = "as every model of salesforce/BLIP"
HEAD_WIDTH = 64
EPS = 1e-6  # models/vit.py: of the image tower
SEP = 102  # "[SEP]" of bert-base-uncased
SCALE_LIMIT = 1000.0  # the temperature is clamped to 0.001 or more in training
MOMENTUM = "a copy that follows the weights in training"
QUEUES = ("image_queue", "text_queue", "queue_ptr", "idx_queue", "ptr_queue")


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """The original names of an image tower and a BERT."""
    texts = f"{TEXT}{WORDS}" in keys or f"{DECODER}{WORDS}" in keys
    return texts and f"{VISION}.blocks.0.attn.qkv.weight" in keys


def config(tensors: Mapping[str, Stored], files: Mapping[str, Any]) -> ModelConfig:
    """From shapes alone."""
    reader = ConfigReader("the file", {})
    vision = _vision(reader, tensors)
    text = _text(reader, tensors, TEXT) if f"{TEXT}{WORDS}" in tensors else None
    decoder = None
    if f"{DECODER}{WORDS}" in tensors:
        found = _text(reader, tensors, DECODER)
        decoder = bert.writing(found, found.vocab_size - 2)
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
    kept = list(_rules(config))
    yield from kept
    for queue in QUEUES:
        yield Drop(queue, why="features of earlier training batches")
    for rule in kept:
        for name in (rule.theirs,) if isinstance(rule, Drop) else _sources(rule):
            module, _, rest = name.partition(".")
            yield Drop(f"{module}_m.{rest}", why=MOMENTUM)


def _sources(rule: Rule) -> tuple[str, ...]:
    return tuple(getattr(rule, "sources", ()))


def _rules(config: ModelConfig) -> Iterator[Rule]:
    assert isinstance(config.vision, ViTConfig)
    yield from vit_rules(config.vision, theirs=f"{VISION}.")
    if config.text is not None:
        yield from bert.tower(TEXT, "text", config.text.depth)
    if config.blip is not None and config.decoder is not None:
        tower = _shared if config.blip.shared_decoder else bert.tower
        yield from tower(DECODER, "decoder", config.decoder.depth)
        yield from bert.words("text_decoder.cls.predictions", "decoder.words")
    if config.matching:
        yield NegativeLog("temp", "logit_scale")
        for kind in bert.KINDS:
            yield Rename(f"vision_proj.{kind}", f"image.head.{kind}")
            yield Rename(f"text_proj.{kind}", f"text.head.{kind}")
            yield Rename(f"itm_head.{kind}", f"match_head.{kind}")


def _shared(theirs: str, ours: str, depth: int) -> Iterator[Rule]:
    """A decoder's own self-attention; the rest is the text encoder's."""
    for i in range(depth):
        yield from bert.attention(f"{theirs}encoder.layer.{i}", f"{ours}.blocks.{i}")
    for name in _lent(depth):
        yield Drop(f"{theirs}{name}", why="the text encoder's again")
    yield Drop(f"{theirs}embeddings.position_ids", why="0, 1, 2, ...: counted anew")


def _lent(depth: int) -> Iterator[str]:
    """The tensors that a text encoder shares with its decoder, by the original names."""
    rules = list(bert.embeddings("", ""))
    for i in range(depth):
        rules += bert.cross_and_mlp(f"encoder.layer.{i}", "")
    for rule in rules:
        yield from _sources(rule)


def _check_shared(tensors: Mapping[str, Stored], depth: int) -> None:
    """Raise CheckpointError for a decoder whose shared weights differ from its text encoder's."""
    for name in _lent(depth):
        pair = [tensors.get(part + name) for part in (TEXT, DECODER)]
        if all(pair) and not torch.equal(*(stored.read() for stored in pair if stored)):
            raise CheckpointError(
                f"{DECODER}{name} differs from {TEXT}{name}; the two are one in salesforce/BLIP"
            )


def _vision(reader: ConfigReader, tensors: Mapping[str, Stored]) -> ViTConfig:
    width, _, patch, _ = shape_of(tensors, f"{VISION}.patch_embed.proj.weight", 4)
    heads = _heads(width)
    reader.assume("vision.heads", heads, f"{CODE}, width / {HEAD_WIDTH}")
    reader.assume("vision.eps", EPS, CODE)
    reader.assume("vision.activation", "gelu", CODE)
    return ViTConfig(
        image_size=reader.grid("image_size", tensors, f"{VISION}.pos_embed", patch),
        patch_size=patch,
        width=width,
        depth=depth(tensors, f"{VISION}.blocks."),
        heads=heads,
        mlp_width=shape_of(tensors, f"{VISION}.blocks.0.mlp.fc1.weight", 2)[0],
        eps=EPS,
        antialias=False,
    )


def _text(reader: ConfigReader, tensors: Mapping[str, Stored], part: str) -> TextConfig:
    heads = _heads(shape_of(tensors, f"{part}{WORDS}", 2)[1])
    found = bert.text_config(reader, tensors, part, heads, f"{CODE}, configs/med_config.json")
    if found.vocab_size <= SEP + 2:
        raise CheckpointError(f"{part}{WORDS} has {found.vocab_size} ids; [SEP] alone is {SEP}")
    return replace(found, end_token=SEP)


def _heads(width: int) -> int:
    if not width or width % HEAD_WIDTH:
        raise CheckpointError(f"a width of {width} is not a multiple of {HEAD_WIDTH} a head")
    return width // HEAD_WIDTH
