"""The cross-attention of a captioner for each word that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from patchword.bundle import Bundle
from patchword.finite import check_image
from patchword.images import ImageLike
from patchword.images.preprocess import Geometry
from patchword.models.generate import GenerationOptions
from patchword.nn.inference_mode import inference
from patchword.options import checked
from patchword.scope import Check
from patchword.show import plots
from patchword.show.colours import MAP, ends_of, known, scale_of
from patchword.tasks.attention_layers import layers_of, of_heads
from patchword.tasks.caption import (
    MAX_LENGTH,
    Caption,
    checked_tokens,
    default_length,
    packed,
    writer,
)
from patchword.tasks.grid_maps import GridMaps
from patchword.text.words import words_of
from patchword.visible_area import Sight, noted


@dataclass(frozen=True, eq=False, repr=False)
class CaptionAttention(GridMaps):
    """How much a captioner attends to each patch as it writes each word.

    words    the W words after the prompt
    titles   of the K layers: "layer 11", "layer 3, head 0"
    weights  (K, W, N), over all image tokens; rows sum to 1. For a word of several tokens the mean
    grid     (K, W, h, w) float32: the weights over the patches
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    caption: Caption
    words: tuple[str, ...]
    titles: tuple[str, ...]
    weights: NDArray[np.float32]
    grid: NDArray[np.float32]
    geometry: Geometry
    cell: int | None

    @checked
    def picture(
        self,
        each: bool = True,
        title: str = "",
        colours: str = MAP,
        scale: Sequence[float] | None = None,
    ) -> Image.Image:
        """A filmstrip: the photo, and each word's map over it; a row for each layer. each: every
        map has its own colour scale, printed under it; else all share one. colours, scale: see
        `Heatmap.picture`."""
        known(colours)
        photo, values = self._drawn
        ends = scale_of(scale) or (None if each else ends_of(self.grid))
        strips = []
        for number, (layer, maps) in enumerate(zip(self.titles, values, strict=True)):
            heading = layer
            if title and number == 0:
                name, newline, remark = title.partition("\n")
                heading = f"{name} · {layer}{newline}{remark}"
            strips.append(plots.maps_panel(photo, maps, self.words, heading, ends, colours, True))
        return plots.stacked(strips)


def caption_attention(
    model: Bundle,
    image: ImageLike,
    prompt: str = "",
    layer: int | None = None,
    head: int | None = None,
    all_layers: bool = False,
) -> CaptionAttention:
    """The cross-attention of a captioner for each word of the caption that it writes with beam
    search, taken at the token before the word, which predicts it.

    layer, head, all_layers: as in `attention`; the mean over heads if no head is named. Raises
    UnsupportedError for a model that does not caption and for an unknown layer, and ImageError.
    """
    network, tower, tokenizer = writer(model), model.image_tower, model.reader()
    assert model.config.decoder is not None
    names = [f"decoder.blocks.{i}.cross.attn" for i in range(model.config.decoder.depth)]
    shown = layers_of(names, model.name, layer, head, False, all_layers)
    photo = model.opener(image, exact=True)
    pixels, geometry = model.preprocess(photo)
    with noted() as sights:
        sights.note(Sight.of(image, geometry, photo))
    start = torch.from_numpy(tokenizer([prompt])[0, :-1])  # without the end token
    check = Check(model.scope, model.name, image)
    check.texts([prompt])
    options = GenerationOptions(max_length=default_length(model, MAX_LENGTH))
    with inference(model.own_network):
        tokens = checked_tokens(check, network, model.tensor(pixels)[None])
        list(check.each([(image, photo)]))
        written = network.write(tokens, start, options)
        taps = network.decoder_taps(tokens, written.ids, shown)
    check_image(image, written.log_probabilities, model.no_vector)
    rows = packed(written.ids, written.log_probabilities).cpu().numpy()
    text = Caption.read(model, rows, len(start))
    end = len(start) + len(text.token_log_probabilities)
    ids = written.ids[0].tolist()[len(start) : end]
    words = words_of(tokenizer, [id_ for id_ in ids if id_ != tokenizer.end_token])
    layers = [of_words(taps[name][0].float(), head, len(start) - 1, words) for name in shown]
    maps, size = torch.stack(layers), geometry.size
    grid = torch.unflatten(maps[..., tower.patches(size)], -1, tower.grid(size))
    titles = [f"layer {names.index(name)}" for name in shown]
    if head is not None:
        titles = [f"{title}, head {head}" for title in titles]
    return CaptionAttention(
        photo,
        text,
        tuple(word for word, _ in words),
        tuple(titles),
        maps.cpu().numpy(),
        grid.cpu().numpy(),
        geometry,
        model.config.image_tower.patch_size,
    )


def of_words(
    attention: Tensor, head: int | None, first: int, words: Sequence[tuple[str, slice]]
) -> Tensor:
    """Cross-attention (heads, L, N) -> that of each word (W, N): the mean over heads, or one head,
    and the mean over the word's tokens. first: the place that predicts the first token."""
    rows, _ = of_heads(attention, head)
    predicted = rows.mean(dim=0)[first:]
    means = [predicted[place].mean(dim=0) for _, place in words]
    return torch.stack(means) if means else predicted[:0]
