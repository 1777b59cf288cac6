"""Batches of training samples, one type for each kind of data that an objective needs.

Each has its `collate` function beside it: samples and a list of the broken ones -> a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.data.sample import Facts, Sample
from patchword.errors import ImageError
from patchword.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Batch:
    """Images alone, and the base of all other batches: n rows, one for each image."""

    pixels: Tensor  # (n, 3, H, W), uint8, or float32 as the network takes them
    broken: list[ImageError]  # samples that were skipped while this batch was made

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device | str) -> Self:
        """The same batch with its tensors on `device`. Where they are in pinned memory, the copy to
        a GPU goes on while the program does."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The same batch in memory that a GPU copies from by itself; a DataLoader calls it."""
        return self._each(Tensor.pin_memory)

    def share_memory(self) -> Self:
        """The same batch in memory that processes share. Raises RuntimeError where there is no room
        in it."""
        return self._each(Tensor.share_memory_)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {each.name: getattr(self, each.name) for each in fields(self)}
        made: dict[str, Any] = {n: change(t) for n, t in tensors.items() if isinstance(t, Tensor)}
        return replace(self, **made)


BatchT = TypeVar("BatchT", bound=Batch)
Collate = Callable[[Sequence[Sample], list[ImageError]], BatchT]


@dataclass(frozen=True)
class ClassBatch(Batch):
    """Images and their classes."""

    labels: Tensor  # (n,) int64
    mix: Tensor  # (n,) bool: may take part in mixup and CutMix


@dataclass(frozen=True)
class PairBatch(Batch):
    """Images with one caption each."""

    ids: Tensor  # (n, L) int64, padded to the longest caption
    caption_facts: list[Facts]  # the facts of each caption
    image_facts: list[Facts]  # all facts that are true of each image
    mix: Tensor  # (n,) bool: may take part in mixup and CutMix


@dataclass(frozen=True)
class TextBatch(Batch):
    """Images with K captions and K questions each. A text that a sample does not have is "", and
    the `has_...` fields say which ones exist."""

    captions: Tensor  # (n, K, L) int64
    caption_facts: list[Facts]  # the facts of each image's first caption
    image_facts: list[Facts]  # what is true of each image
    wrong_captions: Tensor  # (n, L) int64: captions that are false for their image
    has_wrong_caption: Tensor  # (n,) bool
    questions: Tensor  # (n, K, L) int64
    answers: Tensor  # (n, K, L) int64, to the questions
    has_question: Tensor  # (n, K) bool

    @property
    def ids(self) -> Tensor:
        """The first caption of each image, (n, L)."""
        return self.captions[:, 0]


@dataclass(frozen=True)
class RegionBatch(Batch):
    """Images and R regions of them."""

    rows: list[int]  # the image of each region
    phrases: list[tuple[str, ...]]  # what is true of each
    asked: list[str]  # one of them
    covers: Tensor  # (R, h, w) float32: the share of each place that it covers
    placed: list[bool]  # False: nobody knows where it is, and it covers nothing


def collate_images(samples: Sequence[Sample], broken: list[ImageError]) -> Batch:
    """A batch of images alone."""
    return Batch(_pixels(samples), broken)


def collate_classes(samples: Sequence[Sample], broken: list[ImageError]) -> ClassBatch:
    """A batch of images and classes."""
    labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
    return ClassBatch(_pixels(samples), broken, labels, _mix(samples))


def collate_pairs(
    tokenizer: Tokenizer, samples: Sequence[Sample], broken: list[ImageError]
) -> PairBatch:
    """A batch of images and captions."""
    return PairBatch(
        pixels=_pixels(samples),
        broken=broken,
        ids=_ids(tokenizer, [[sample.caption] for sample in samples])[:, 0],
        caption_facts=[sample.caption_facts for sample in samples],
        image_facts=[sample.image_facts for sample in samples],
        mix=_mix(samples),
    )


def collate_texts(
    tokenizer: Tokenizer, samples: Sequence[Sample], broken: list[ImageError]
) -> TextBatch:
    """A batch of images, each with all its captions, questions and answers."""
    texts = [sample.texts for sample in samples]
    return TextBatch(
        pixels=_pixels(samples),
        broken=broken,
        captions=_ids(tokenizer, [[each.caption for each in some] for some in texts]),
        caption_facts=[sample.caption_facts for sample in samples],
        image_facts=[sample.image_facts for sample in samples],
        wrong_captions=_ids(tokenizer, [[sample.wrong_caption] for sample in samples])[:, 0],
        has_wrong_caption=torch.tensor([bool(sample.wrong_caption) for sample in samples]),
        questions=_ids(tokenizer, [[each.question for each in some] for some in texts]),
        answers=_ids(tokenizer, [[each.answer for each in some] for some in texts]),
        has_question=torch.tensor([[bool(each.question) for each in some] for some in texts]),
    )


def collate_regions(
    stride: int, samples: Sequence[Sample], broken: list[ImageError]
) -> RegionBatch:
    """A batch of images and regions; stride: pixels a side of a place."""
    pixels = _pixels(samples)
    grid = (pixels.shape[-2] // stride, pixels.shape[-1] // stride)
    found = [(row, region) for row, sample in enumerate(samples) for region in sample.regions]
    covers = torch.zeros(len(found), *grid)
    for cover, (_, region) in zip(covers, found, strict=True):
        if region.mask is not None:
            mask = torch.from_numpy(region.mask).float()[None, None]
            cover.copy_(F.interpolate(mask, grid, mode="area")[0, 0])
    return RegionBatch(
        pixels,
        broken,
        [row for row, _ in found],
        [region.phrases for _, region in found],
        [region.asked for _, region in found],
        covers,
        [region.mask is not None for _, region in found],
    )


def _pixels(samples: Sequence[Sample]) -> Tensor:
    return torch.from_numpy(np.stack([sample.pixels for sample in samples]))


def _mix(samples: Sequence[Sample]) -> Tensor:
    return torch.tensor([sample.mix for sample in samples])


def _ids(tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> Tensor:
    """(n, K, L) int64 of K texts for each of n images."""
    ids = torch.from_numpy(tokenizer([text for some in texts for text in some]))
    return ids.view(len(texts), -1, ids.shape[1])
