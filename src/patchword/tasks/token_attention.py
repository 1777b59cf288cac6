"""Attention of all tokens to all tokens, of an image or of a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.finite import check_finite
from patchword.models.protocols import TextNetwork
from patchword.nn.inference_mode import inference
from patchword.options import checked
from patchword.scope import Check
from patchword.show.colours import MATRIX, known
from patchword.show.result import Pictured
from patchword.show.token_matrix import View, token_matrices
from patchword.tasks.attention_layers import chosen, layers_of, mean_of
from patchword.text import long_text


@dataclass(frozen=True, eq=False, repr=False)
class TokenAttention(Pictured):
    """The attention of all tokens to all tokens.

    tokens   the N names: for an image "class" and "2,5", the patch in row 2 and column 5; for a
             text the text of each token, "猫 1/3" for a part of a character
    weights  (K, N, N): how much the token of the row attends to that of the column; rows sum to 1
    titles   of the K matrices: "mean" over heads, "head 0"; "layer 0"; "rollout"
    view     for an image: the network's input and its grid of patches
    """

    tokens: tuple[str, ...]
    weights: NDArray[np.float32]
    titles: tuple[str, ...]
    view: View | None = None

    def most(self, title: str) -> tuple[str, float]:
        """The token with the largest mean attention over all rows, and that mean. Raises
        UnsupportedError for an unknown title."""
        if title not in self.titles:
            raise UnsupportedError(f"no title {title!r}; there are {', '.join(self.titles)}")
        columns = self.weights[self.titles.index(title)].mean(axis=0)
        place = int(columns.argmax())
        return self.tokens[place], float(columns[place])

    @checked
    def picture(self, title: str = "", colours: str = MATRIX) -> Image.Image:
        """A coloured matrix for each title, on one scale, with the tokens or their patches on both
        axes. Of an image with many patches, neighbours are merged: summed over columns, averaged
        over rows. colours: see `Heatmap.picture`."""
        return token_matrices(
            self.weights, self.titles, self.tokens, self.view, title, known(colours)
        )


def text_attention(
    model: Bundle,
    text: str,
    layer: int | None = None,
    head: int | None = None,
    rollout: bool = False,
    all_layers: bool = False,
) -> TokenAttention:
    """The attention of the tokens of a text in the text tower, with the options of `attention`;
    with a head the mean over heads comes before it. In a causal tower tokens do not attend to later
    ones. Raises UnsupportedError for a model without a text tower and for a text without words."""
    tokenizer, network, config = model.reader(), model.own_network, model.config.text
    if config is None or not isinstance(network, TextNetwork):
        raise UnsupportedError(
            f"{model.name} reads texts only as it writes captions; caption_attention shows where "
            "in an image it looks for each word"
        )
    if not text.strip():
        raise UnsupportedError(f"a text without words has no attention: {text!r}")
    names = [f"text.blocks.{i}.attn" for i in range(config.depth)]
    shown = layers_of(names, model.name, layer, head, rollout, all_layers)
    Check(model.scope, model.name).texts([text])
    long_text.warn_of_long(tokenizer, tokenizer.rows([text]))
    ids, tokens = tokenizer.named(text)
    with inference(network):
        _, taps = network.encode_text(model.tensor(ids), taps=shown)
        layers = [taps[name][0].float() for name in shown]
        weights, titles = chosen(layers, head, rollout, all_layers)
        mean = mean_of(layers, rollout or all_layers)
    check_finite(weights, lambda: model.no_vector("a text"))
    if head is not None and not all_layers:
        titles = ["mean", *titles]
    return TokenAttention(tuple(tokens), torch.cat([mean, weights]).cpu().numpy(), tuple(titles))
