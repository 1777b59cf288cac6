"""What a source of training data gives: samples by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Facts = frozenset[str]


class Words(NamedTuple):
    """What is said of an image, and asked."""

    caption: str  # "" where the source has none
    question: str  # the same
    answer: str  # to the question


@dataclass(frozen=True)
class Sample:
    """One image as the network sees it, with what is known of it."""

    pixels: NDArray[np.float32]  # (3, H, W), normalised as `Preprocess` does it
    caption: str  # "" where the source has none
    label: int  # number of its class; -1 where the source has none
    says: Facts  # the facts that the caption states
    truths: Facts  # the facts that are true of the image
    mix: bool  # may take part in mixup and CutMix
    question: str = ""  # about the image; "" where the source has none
    answer: str = ""  # to the question
    more: tuple[Words, ...] = ()  # drawn at the same visit, where several texts are wanted
    wrong: str = ""  # a caption that is not true of the image; "" for none

    @property
    def words(self) -> list[Words]:
        """All that was drawn."""
        return [Words(self.caption, self.question, self.answer), *self.more]


class Source(Protocol):
    """Samples by number."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names by number; () where it has none."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call sample `index` in a message."""

    def captions(self) -> Iterator[str]:
        """All captions, or one for each image where they are made; no image is opened."""

    def asked(self) -> Iterator[str]:
        """All questions and answers, or one of each for each image where they are made; none where
        they are not read. No image is opened."""

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Sample number `index`; what is random about it comes from `rng`. Raises ImageError for
        one that cannot be used."""


def stated(caption: str) -> str:
    """A caption as the fact it states: lower case, single spaces."""
    return " ".join(caption.lower().split())


def positives(says: Sequence[Facts], truths: Sequence[Facts], first: int = 0) -> NDArray[np.bool_]:
    """(n, N) bool: whether caption j of N is true of image i of n, all its facts being.

    first: the column of the first image's own caption, where the images are a part of a batch.
    An image's own caption always is true.
    """
    holds: dict[str, NDArray[np.bool_]] = {}
    for row, facts in enumerate(truths):
        for fact in facts:
            holds.setdefault(fact, np.zeros(len(truths), np.bool_))[row] = True
    none = np.zeros(len(truths), np.bool_)
    columns: dict[Facts, NDArray[np.bool_]] = {}
    out = np.empty((len(truths), len(says)), np.bool_)
    for number, facts in enumerate(says):
        if facts not in columns:
            column = np.ones(len(truths), np.bool_)
            for fact in facts:
                column &= holds.get(fact, none)
            columns[facts] = column
        out[:, number] = columns[facts]
    rows = np.arange(len(truths))
    out[rows, first + rows] = True
    return out
