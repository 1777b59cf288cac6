"""Sources of training data, and the samples that they give by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Facts = frozenset[str]


class Texts(NamedTuple):
    """One caption of an image, and one question about it; "" for what the source does not have."""

    caption: str
    question: str
    answer: str  # to the question


class Region(NamedTuple):
    """Something in an image, and where it is."""

    phrases: tuple[str, ...]  # all that are true of it
    query: str  # one of the phrases, sampled
    # (H, W) of the image before it was resized, of the same shape; None: nobody knows where it is
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Sample:
    """One preprocessed image, with its texts and labels."""

    pixels: NDArray[np.uint8]  # (3, H, W), before they are normalised
    texts: tuple[Texts, ...]  # as many as the source is set to give, sampled at random
    label: int  # number of its class; -1 where the source has none
    caption_facts: Facts  # facts of the first caption
    image_facts: Facts  # facts that are true of the image
    mix: bool  # may take part in mixup and CutMix
    wrong_caption: str = ""  # a caption that is false for the image; "" for none
    regions: tuple[Region, ...] = ()  # where they are read

    @property
    def caption(self) -> str:
        """The first caption."""
        return self.texts[0].caption

    @property
    def question(self) -> str:
        """The first question."""
        return self.texts[0].question

    @property
    def answer(self) -> str:
        """The answer to the first question."""
        return self.texts[0].answer


class Source(Protocol):
    """Samples by number."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names by number; () where it has none."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of sample `index` in messages."""

    def captions(self) -> Iterator[str]:
        """All captions, or one for each image where they are made; no image is opened."""

    def questions_and_answers(self) -> Iterator[str]:
        """All questions and answers, or one of each for each image where they are made; none where
        they are not read. No image is opened."""

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Sample number `index`; what is random about it comes from `rng`. Raises ImageError for
        one that cannot be used."""


def fact(caption: str) -> str:
    """A caption as a fact, for comparison: lower case, single spaces."""
    return " ".join(caption.lower().split())


def positives(
    caption_facts: Sequence[Facts], image_facts: Sequence[Facts], first: int = 0
) -> NDArray[np.bool_]:
    """(n, N) bool: whether caption j of N is true of image i of n, that is, all its facts are.

    first: the column of the first image's own caption, where the images are a part of a batch.
    An image's own caption is always true.
    """
    holds: dict[str, NDArray[np.bool_]] = {}
    for row, facts in enumerate(image_facts):
        for each in facts:
            holds.setdefault(each, np.zeros(len(image_facts), np.bool_))[row] = True
    none = np.zeros(len(image_facts), np.bool_)
    columns: dict[Facts, NDArray[np.bool_]] = {}
    out = np.empty((len(image_facts), len(caption_facts)), np.bool_)
    for number, facts in enumerate(caption_facts):
        if facts not in columns:
            column = np.ones(len(image_facts), np.bool_)
            for each in facts:
                column &= holds.get(each, none)
            columns[facts] = column
        out[:, number] = columns[facts]
    rows = np.arange(len(image_facts))
    out[rows, first + rows] = True
    return out
