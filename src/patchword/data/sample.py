"""Training samples, and the protocol of their sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Facts = frozenset[str]


class Texts(NamedTuple):
    """One caption of an image, and one question about it; "" for missing texts."""

    caption: str
    question: str
    answer: str  # to the question


class Region(NamedTuple):
    """Something in an image, and where it is."""

    phrases: tuple[str, ...]  # all that are true of it
    query: str  # one of the phrases, sampled
    # (H, W), as large as the image before it was resized; None: nobody knows where the region is
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Sample:
    """One preprocessed image, with its texts and labels."""

    pixels: NDArray[np.uint8]  # (3, H, W), before they are normalised
    texts: tuple[Texts, ...]  # sampled at random; their number is an option of the source
    label: int  # number of its class; -1 where the source has none
    caption_facts: Facts  # facts of the first caption
    image_facts: Facts  # facts that are true of the image
    mix: bool  # may take part in mixup and CutMix
    wrong_caption: str = ""  # a caption that is false for the image; "" for none
    regions: tuple[Region, ...] = ()  # () if the objective does not read them

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
        """Class names by number; () without classes."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of sample `index` in messages."""

    def captions(self) -> Iterator[str]:
        """All captions; one for each image if they are generated. No image is opened."""

    def questions_and_answers(self) -> Iterator[str]:
        """All questions and answers; one of each for each image if they are generated, and none if
        the objective does not read them. No image is opened."""

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Sample number `index`, with random numbers from `rng`. Raises ImageError for a sample
        that cannot be used."""


def fact(caption: str) -> str:
    """A caption in the form in which captions are compared: lower case, single spaces."""
    return " ".join(caption.lower().split())


def positives(
    caption_facts: Sequence[Facts], image_facts: Sequence[Facts], first: int = 0
) -> NDArray[np.bool_]:
    """(n, N) bool: whether caption j of N is true of image i of n. It is if all its facts are true
    of the image, or it is the image's own caption.

    first: the column of the first image's own caption, if the images are a part of a batch.
    """
    none = np.zeros(len(image_facts), np.bool_)
    true_of: dict[str, NDArray[np.bool_]] = {}  # fact -> the images that it is true of
    for row, facts in enumerate(image_facts):
        for fact_of_image in facts:
            true_of.setdefault(fact_of_image, none.copy())[row] = True
    columns: dict[Facts, NDArray[np.bool_]] = {}
    out = np.empty((len(image_facts), len(caption_facts)), np.bool_)
    for number, facts in enumerate(caption_facts):
        if facts not in columns:
            column = np.ones(len(image_facts), np.bool_)
            for fact_of_caption in facts:
                column &= true_of.get(fact_of_caption, none)
            columns[facts] = column
        out[:, number] = columns[facts]
    rows = np.arange(len(image_facts))
    out[rows, first + rows] = True
    return out
