"""Captions: what is in a photo, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from patchword.bundle import Bundle, Vector
from patchword.errors import ImageError, UnsupportedError
from patchword.images import ImageLike

MAX_LENGTH = 20  # ids; salesforce/BLIP, configs/caption_coco.yaml


@dataclass(frozen=True)
class Caption:
    """A text that a model wrote, the prompt before it included.

    log_probability: of what it wrote, natural logarithm, and of each id of that in
    `token_log_probabilities`, the end of the text among them if it came to one. Both are the
    network's own, whatever penalties, temperature or shortlist chose the text. `others`: the next
    best texts, or the next drawn, where a `count` of them was asked for.
    """

    text: str
    log_probability: float
    token_log_probabilities: tuple[float, ...]
    others: tuple[Self, ...] = ()

    @property
    def probability(self) -> float:
        """Of the whole text, 0 to 1."""
        return math.exp(self.log_probability)

    @classmethod
    def read(cls, model: Bundle, rows: Vector, prompt: int) -> Self:
        """From rows (count, L, 2) of `packed`, of which the first `prompt` ids were given."""
        first, *others = (cls._one(model, row, prompt) for row in rows)
        return replace(first, others=tuple(others))

    @classmethod
    def _one(cls, model: Bundle, row: Vector, prompt: int) -> Self:
        tokenizer = model.reader()
        ids = row[:, 0].astype(int).tolist()
        ends = [place for place in range(prompt, len(ids)) if ids[place] == tokenizer.end_token]
        end = ends[0] + 1 if ends else len(ids)
        said = tuple(float(value) for value in row[prompt:end, 1])
        return cls(tokenizer.decode(ids[1:end]), sum(said), said)


def caption(
    model: Bundle, images: Iterable[ImageLike], prompt: str = "", **options: Any
) -> list[Caption]:
    """A caption for each image (Li et al. 2022, section 5.2).

    prompt   the caption's first words, to go on from; BLIP learned "a picture of"
    options  `beams` 3, `max_length` 20, `min_length` 0 (in ids, start, prompt and end included),
             `length_penalty` 1.0, `repetition_penalty` 1.0, `early_stopping` False, as in
             transformers' `generate`; `count` 1, see `Caption.others`; `top_p`, `top_k` or
             `temperature`: the text is drawn, not searched for, always the same for the same image
             and `seed` 0; `batch_size` 16 images

    Raises UnsupportedError for a model that does not caption, ConfigError for options that cannot
    be, and the ImageError of the first image that cannot be opened; `caption_each` never stops.
    """
    captions = []
    for _, found in caption_each(model, images, prompt, **options):
        if isinstance(found, ImageError):
            raise found
        captions.append(found)
    return captions


def caption_each(
    model: Bundle,
    images: Iterable[ImageLike],
    prompt: str = "",
    batch_size: int = 16,
    **options: Any,
) -> Iterator[tuple[ImageLike, Caption | ImageError]]:
    """Each image in order with its caption, or the ImageError it raised."""
    if not model.config.writes_captions:
        raise UnsupportedError(
            f"{model.name} does not caption images; load a BLIP captioner, such as "
            'Salesforce/blip-image-captioning-base, or the embedded "demo-blip"'
        )
    assert model.config.decoder is not None
    tokenizer = model.reader()
    start = torch.from_numpy(tokenizer([prompt])[0, :-1])  # without the end token
    options = {"max_length": min(MAX_LENGTH, model.config.decoder.context)} | options

    def run(pixels: Tensor) -> Tensor:
        written = model.network.caption(pixels, start, **options)  # type: ignore[operator]
        rows = packed(written.ids, written.log_probabilities)
        return torch.unflatten(rows, 0, (len(pixels), -1))

    for image, rows in model.run_each(images, run, batch_size):
        if isinstance(rows, ImageError):
            yield image, rows
        else:
            yield image, Caption.read(model, rows, len(start))


def packed(ids: Tensor, log_probabilities: Tensor) -> Tensor:
    """Both (..., L) as one float32 (..., L, 2), in which ids are exact."""
    return torch.stack([ids.float(), log_probabilities], dim=-1)
