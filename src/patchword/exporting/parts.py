"""The graphs of a model: what each takes and gives, by the names that transformers gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from patchword.bundle import Bundle
from patchword.config import ModelConfig
from patchword.engines.graph import (
    MOST,
    Given,
    Images,
    Shapes,
    Texts,
    evaluated,
    images,
    texts,
    traced,
)
from patchword.models.blip import Blip
from patchword.models.protocols import ImageNetwork, TextNetwork
from patchword.models.towers import ImageModel
from patchword.nn.taps import Taps
from patchword.nn.transformer import padding_mask

PIXELS, IDS, CONTEXT, MASK = (
    "pixel_values",
    "input_ids",
    "encoder_hidden_states",
    "encoder_attention_mask",
)


@dataclass(frozen=True)
class Part:
    """A graph of a model.

    name      "image", "text", "matching", "question" or "decoder"
    module    what it is the graph of; its `forward` takes `inputs`
    outputs   their names, in order
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Given]
    outputs: tuple[str, ...]

    def traced(self) -> ExportedProgram:
        """The graph itself."""
        return traced(self.module, self.inputs)


def shapes_of(config: ModelConfig) -> Shapes:
    """What a model's vectors are computed from."""
    text = config.text if config.embed_dim or not config.blip else None
    return Shapes(
        size=config.preprocess.size if config.vision else None,
        context=text.context if text else None,
        full=text is not None and text.padding == "attended",
        own=config.preprocess.resize == "patches",
    )


def parts(model: Bundle) -> Iterator[Part]:
    """The graphs of a model, in float32.

    Raises UnsupportedError for a model that takes each image in its own shape.
    """
    config, shapes = model.config, shapes_of(model.config)
    network = evaluated(model.own_network, shapes)
    joint = features_name(config)
    if isinstance(network, Blip):
        yield from _blip(network, shapes)
        return
    if shapes.size is not None and isinstance(network, ImageNetwork):
        pixels = {PIXELS: images(shapes.size)}
        if isinstance(network, ImageModel) and config.classes:
            yield Part("image", Classes(network), pixels, ("logits", "pooler_output"))
        else:
            yield Part("image", Images(network), pixels, (joint or "image_embeds",))
    if shapes.context is not None and isinstance(network, TextNetwork):
        ids = {IDS: texts(shapes.context, shapes.full)}
        yield Part("text", Texts(network), ids, (joint or "text_embeds",))


def features_name(config: ModelConfig) -> str:
    """What the output with the vectors is called where that is not "image_embeds" and
    "text_embeds": in SigLIP, which projects nothing, and in towers without a joint space."""
    return "pooler_output" if config.score == "sigmoid" or not config.embed_dim else ""


def _blip(network: Blip, shapes: Shapes) -> Iterator[Part]:
    """Those of a BLIP: an image is encoded once, and texts take its tokens."""
    config = network.config
    assert shapes.size is not None
    seen = ("last_hidden_state",) + ("image_embeds",) * (config.embed_dim > 0)
    yield Part("image", ImageTokens(network), {PIXELS: images(shapes.size)}, seen)
    if config.embed_dim and config.text:
        yield Part("text", Texts(network), {IDS: texts(config.text.context)}, ("text_embeds",))
    about = {CONTEXT: _tokens(network, shapes.size)}
    if config.text and config.matching:
        ids = {IDS: _asked(config.text.context)}
        yield Part("matching", Matching(network), ids | about, ("logits",))
    if config.text and config.answers_questions:
        ids = {IDS: _asked(config.text.context)}
        yield Part("question", Questions(network), ids | about, ("last_hidden_state",))
        wide = torch.zeros(2, 5, config.text.width)
        longest = config.text.context
        if config.writes_captions:  # the same decoder takes image tokens
            longest = max(longest, about[CONTEXT].example.shape[1])
        axes = {0: ("batch", MOST), 1: ("context", longest)}
        about = {
            CONTEXT: Given(wide, axes),
            MASK: Given(torch.ones(2, 5, dtype=torch.int64), axes),
        }
    if config.decoder:
        ids = {IDS: texts(config.decoder.context, named="words", spare=2)}
        module = Answering(network) if config.answers_questions else Writing(network)
        yield Part("decoder", module, ids | about, ("logits",))


def _asked(context: int) -> Given:
    """Texts (B, L) about an image; one without a word has no graph."""
    return texts(context, named="asked")


def _tokens(network: Blip, size: tuple[int, int]) -> Given:
    with torch.no_grad():
        return Given(network.image_tokens(torch.zeros(2, 3, *size)))


class Classes(nn.Module):
    """pixel_values (B, 3, H, W) -> logits (B, classes), and features (B, D)."""

    def __init__(self, network: ImageModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        taps = Taps(["features"])
        return self.network.image(pixel_values, taps), taps.result()["features"]


class OfBlip(nn.Module):
    """A part of a BLIP."""

    def __init__(self, network: Blip) -> None:
        super().__init__()
        self.network = network


class ImageTokens(OfBlip):
    """pixel_values (B, 3, H, W) -> tokens (B, N, C), and with a joint space features (B, D)."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        tokens = self.network.image_tokens(pixel_values)
        if not self.network.config.embed_dim:
            return (tokens,)
        return tokens, self.network.image.head(tokens[:, 0])


class Matching(OfBlip):
    """Texts (B, L) and image tokens (B, N, C) -> logits (B, 2): no match, match."""

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.network.match(encoder_hidden_states, input_ids)


class Questions(OfBlip):
    """Questions (B, L) and image tokens (B, N, C) -> (B, L, D), which answers are about."""

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.network.cross_attend(input_ids, encoder_hidden_states)


class Writing(OfBlip):
    """Words so far (B, L) and image tokens (B, N, C) -> logits (B, L, V) of the word after each."""

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        seen = self.network.image_mask(encoder_hidden_states)
        return _written(self.network, input_ids, encoder_hidden_states, seen)


class Answering(OfBlip):
    """Words so far (B, L), and a question as `Questions` gives it, or image tokens (B, M, D), with
    1 where they are attended to (B, M) -> logits (B, L, V) of the word after each."""

    def forward(
        self, input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> Tensor:
        mask = padding_mask(encoder_attention_mask > 0, encoder_hidden_states)
        return _written(self.network, input_ids, encoder_hidden_states, mask)


def _written(network: Blip, ids: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    """A word more, which no other attends to: `decode` leaves the causal mask out for a single
    word, and a graph takes one way for every length."""
    longer = torch.cat([ids, ids[:, :1]], dim=1)
    return network.word_logits(network.decode(longer, context, mask)[:, :-1])
