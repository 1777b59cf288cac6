"""Captions: a sentence about a photo."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from patchword.bundle import Bundle, Vector, to_numpy
from patchword.embedding import summary
from patchword.errors import ImageError, UnsupportedError
from patchword.images import ImageLike
from patchword.images.one_or_many import results
from patchword.models.generate import GenerationOptions
from patchword.models.protocols import Matcher, Writer
from patchword.nn.taps import Taps
from patchword.scope import Check
from patchword.text.spacing import spaced

MAX_LENGTH = 20  # ids; salesforce/BLIP, configs/caption_coco.yaml


@dataclass(frozen=True)
class Caption:
    """A generated text, which begins with the prompt. The spaces that BERT's tokenizer puts around
    punctuation are removed.

    log_probability          natural logarithm, of the text after the prompt; by the network alone,
                             without penalties and temperature
    token_log_probabilities  of each id after the prompt, and of the end token if there is one
    others                   the next best texts, or the other samples, if `count` is above 1
    ended                    False for a text that was cut at the maximum length
    """

    text: str
    log_probability: float
    token_log_probabilities: tuple[float, ...] = field(repr=False)
    others: tuple[Self, ...] = field(default=(), repr=False)
    ended: bool = field(default=True, repr=False)

    @property
    def probability(self) -> float:
        """Of the text after the prompt, 0 to 1."""
        return math.exp(self.log_probability)

    @classmethod
    def read(cls, model: Bundle, rows: Vector, prompt: int) -> Self:
        """The first of `count` texts, with the others, from rows (count, L, 2) of `packed` whose
        first `prompt` ids are the prompt's."""
        first, *others = (cls._read_row(model, row, prompt) for row in rows)
        return replace(first, others=tuple(others))

    @classmethod
    def _read_row(cls, model: Bundle, row: Vector, prompt: int) -> Self:
        tokenizer = model.reader()
        ids = row[:, 0].astype(int).tolist()
        ends = [place for place in range(prompt, len(ids)) if ids[place] == tokenizer.end_token]
        end = ends[0] + 1 if ends else len(ids)
        log_probabilities = tuple(float(value) for value in row[prompt:end, 1])
        text = spaced(tokenizer.decode(ids[1:end]))
        return cls(text, sum(log_probabilities), log_probabilities, ended=bool(ends))


def caption(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    prompt: str = "",
    options: GenerationOptions | None = None,
    batch_size: int = 16,
) -> list[Caption]:
    """A caption for each image (Li et al. 2022, section 5.2).

    prompt   the caption's first words, which the model continues; BLIP is trained with "a picture
             of"
    options  how to generate; None: beam search with 3 beams, at most 20 ids

    Raises UnsupportedError for a model that does not caption, ConfigError for invalid options, and
    the ImageError of the first image that cannot be opened; `caption_each` continues after it.
    """
    return list(results(caption_each(model, images, prompt, options, batch_size)))


def caption_each(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    prompt: str = "",
    options: GenerationOptions | None = None,
    batch_size: int = 16,
) -> Iterator[tuple[ImageLike, Caption | ImageError]]:
    """Each image in order with its caption, or the ImageError it raised."""
    network = writer(model)
    search = options or GenerationOptions(max_length=default_length(model, MAX_LENGTH))
    start = torch.from_numpy(model.reader()([prompt])[0, :-1])  # without the end token
    check = Check(model.scope, model.name)
    check.texts([prompt])

    def run(pixels: Tensor) -> Tensor:
        tokens = checked_tokens(check, network, pixels)
        written = network.write(tokens, start, search, pixels)
        rows = packed(written.ids, written.log_probabilities)
        return torch.unflatten(rows, 0, (len(pixels), -1))

    results_each = check.each(model.run_each(images, run, batch_size))
    return (
        (image, rows if isinstance(rows, ImageError) else Caption.read(model, rows, len(start)))
        for image, rows in results_each
    )


def checked_tokens(check: Check, network: Writer | Matcher, pixels: Tensor) -> Tensor:
    """The tokens (B, N, C) of images (B, 3, H, W). Their vectors are given to the check of the
    model's scope."""
    tap = f"image.{check.layer}"
    taps = Taps([tap] if check.layer else [])
    tokens = network.image_tokens(pixels, taps)
    if check.scope is not None and isinstance(network, Matcher):
        summaries = to_numpy(summary(taps.tensors[tap])) if check.layer else None
        check.vectors(to_numpy(network.image_features(tokens)), summaries)
    return tokens


def writer(model: Bundle) -> Writer:
    """The network of a model that captions. Raises UnsupportedError for another model."""
    network = model.own_network
    if not (model.config.writes_captions and isinstance(network, Writer)):
        raise UnsupportedError(
            f"{model.name} does not caption images; load a BLIP captioner, such as "
            'Salesforce/blip-image-captioning-base, or the embedded "demo-blip"'
        )
    return network


def default_length(model: Bundle, default: int) -> int:
    """The default maximum length in ids, or the model's context if that is shorter."""
    decoder = model.config.decoder
    return default if decoder is None else min(default, decoder.context)


def packed(ids: Tensor, log_probabilities: Tensor) -> Tensor:
    """Ids and log probabilities (..., L) as one float32 tensor (..., L, 2), which holds ids
    exactly."""
    return torch.stack([ids.float(), log_probabilities], dim=-1)
