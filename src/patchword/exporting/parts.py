"""The graphs of a model, with inputs and outputs that have transformers' names."""

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
    GraphInput,
    ImageGraph,
    Shapes,
    TextGraph,
    export_graph,
    float32_copy,
    image_input,
    text_input,
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
    """A part of a model that becomes a graph.

    name      "image", "text", "matching", "question" or "decoder"
    module    its `forward` takes `inputs`
    outputs   names of the outputs, in order
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, GraphInput]
    outputs: tuple[str, ...]

    def export(self) -> ExportedProgram:
        """The graph."""
        return export_graph(self.module, self.inputs)


def shapes_of(config: ModelConfig) -> Shapes:
    """The shapes of the inputs from which a model's vectors are computed."""
    text = config.text if config.embed_dim or not config.blip else None
    return Shapes(
        size=config.preprocess.size if config.vision else None,
        context=text.context if text else None,
        padded=text is not None and text.padding == "attended",
        variable_size=config.preprocess.resize == "patches",
    )


def parts(model: Bundle) -> Iterator[Part]:
    """The parts of a model in float32.

    Raises UnsupportedError for a model whose images have sizes of their own.
    """
    config, shapes = model.config, shapes_of(model.config)
    network = float32_copy(model.own_network, shapes)
    if isinstance(network, Blip):
        yield from _blip(network, shapes)
        return
    if shapes.size is not None and isinstance(network, ImageNetwork):
        pixels = {PIXELS: image_input(shapes.size)}
        if isinstance(network, ImageModel) and config.classes:
            yield Part("image", Classes(network), pixels, ("logits", "pooler_output"))
        else:
            yield Part("image", ImageGraph(network), pixels, (features_name(config, "image"),))
    if shapes.context is not None and isinstance(network, TextNetwork):
        ids = {IDS: text_input(shapes.context, shapes.padded)}
        yield Part("text", TextGraph(network), ids, (features_name(config, "text"),))


def features_name(config: ModelConfig, part: str) -> str:
    """The name of the output with the vectors of the part "image" or "text". It is "pooler_output"
    in SigLIP, which has no projection, and in towers without a joint space."""
    if config.score == "sigmoid" or not config.embed_dim:
        return "pooler_output"
    return f"{part}_embeds"


def _blip(network: Blip, shapes: Shapes) -> Iterator[Part]:
    """The parts of a BLIP: an image is encoded once, and the parts for texts take its tokens."""
    config = network.config
    assert shapes.size is not None
    outputs: tuple[str, ...] = ("last_hidden_state",)
    if config.embed_dim:
        outputs = ("last_hidden_state", "image_embeds")
    yield Part("image", ImageTokens(network), {PIXELS: image_input(shapes.size)}, outputs)
    if config.embed_dim and config.text:
        ids = {IDS: text_input(config.text.context)}
        yield Part("text", TextGraph(network), ids, ("text_embeds",))
    context = {CONTEXT: _image_tokens_input(network, shapes.size)}
    if config.text and config.matching:
        ids = {IDS: _question_input(config.text.context)}
        yield Part("matching", Matching(network), ids | context, ("logits",))
    if config.text and config.answers_questions:
        ids = {IDS: _question_input(config.text.context)}
        yield Part("question", Questions(network), ids | context, ("last_hidden_state",))
        states = torch.zeros(2, 5, config.text.width)
        longest = config.text.context
        if config.writes_captions:  # the same decoder takes image tokens
            longest = max(longest, context[CONTEXT].example.shape[1])
        axes = {0: ("batch", MOST), 1: ("context", longest)}
        context = {
            CONTEXT: GraphInput(states, axes),
            MASK: GraphInput(torch.ones(2, 5, dtype=torch.int64), axes),
        }
    if config.decoder:
        ids = {IDS: text_input(config.decoder.context, axis="words", reserved=2)}
        module = Answering(network) if config.answers_questions else Writing(network)
        yield Part("decoder", module, ids | context, ("logits",))


def _question_input(context: int) -> GraphInput:
    """Texts (B, L) about an image, of at least one word."""
    return text_input(context, axis="question_length")


def _image_tokens_input(network: Blip, size: tuple[int, int]) -> GraphInput:
    with torch.no_grad():
        return GraphInput(network.image_tokens(torch.zeros(2, 3, *size)))


class Classes(nn.Module):
    """pixel_values (B, 3, H, W) -> logits (B, classes), and features (B, D)."""

    def __init__(self, network: ImageModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        taps = Taps(["features"])
        return self.network.image(pixel_values, taps), taps.result()["features"]


class BlipPart(nn.Module):
    """Base class of the parts of a BLIP."""

    def __init__(self, network: Blip) -> None:
        super().__init__()
        self.network = network


class ImageTokens(BlipPart):
    """pixel_values (B, 3, H, W) -> tokens (B, N, C), and features (B, D) with a joint space."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        tokens = self.network.image_tokens(pixel_values)
        if not self.network.config.embed_dim:
            return (tokens,)
        return tokens, self.network.image.head(tokens[:, 0])


class Matching(BlipPart):
    """Texts (B, L) and image tokens (B, N, C) -> logits (B, 2): no match, match."""

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.network.match(encoder_hidden_states, input_ids)


class Questions(BlipPart):
    """Questions (B, L) and image tokens (B, N, C) -> states (B, L, D), to which the decoder of
    answers cross-attends."""

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return self.network.cross_attend(input_ids, encoder_hidden_states)


class Writing(BlipPart):
    """Ids so far (B, L) and image tokens (B, N, C) -> logits (B, L, V) of the id after each."""

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        mask = self.network.image_mask(encoder_hidden_states)
        return _logits(self.network, input_ids, encoder_hidden_states, mask)


class Answering(BlipPart):
    """Ids so far (B, L), and the output of `Questions` or image tokens (B, M, D), with a mask
    (B, M) that is 1 where they are attended to -> logits (B, L, V) of the id after each."""

    def forward(
        self, input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> Tensor:
        mask = padding_mask(encoder_attention_mask > 0, encoder_hidden_states)
        return _logits(self.network, input_ids, encoder_hidden_states, mask)


def _logits(network: Blip, ids: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    """The decoder's logits (B, L, V). One id is appended, to which no other attends: `decode` omits
    the causal mask for a single id, and a graph must be the same for every length."""
    longer = torch.cat([ids, ids[:, :1]], dim=1)
    return network.word_logits(network.decode(longer, context, mask)[:, :-1])
