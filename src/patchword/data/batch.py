"""Batches of training samples, one type for each kind of data that an objective needs.

Each type has a `collate` function: samples, and the errors of broken ones -> a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.data.sample import Facts, Region, Sample
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
        """The same batch with its tensors on `device`. Tensors in pinned memory are copied to a GPU
        while the program goes on."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The same batch in pinned memory, from which a GPU copies by itself; a DataLoader calls
        this."""
        return self._with_tensors(Tensor.pin_memory)

    def share_memory(self) -> Self:
        """The same batch in shared memory. Raises RuntimeError where that is full."""
        return self._with_tensors(Tensor.share_memory_)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same batch with each tensor changed."""
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = change(value)
        return replace(self, **changed)


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
    caption_facts: list[Facts]  # what each caption says
    image_facts: list[Facts]  # all facts that are true of each image
    mix: Tensor  # (n,) bool: may take part in mixup and CutMix


@dataclass(frozen=True)
class TextBatch(Batch):
    """Images with K captions and K questions each. A text that a sample does not have is "", and
    the `has_...` fields say which ones exist."""

    captions: Tensor  # (n, K, L) int64
    caption_facts: list[Facts]  # what each image's first caption says
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
    """Images, and R regions in them."""

    rows: list[int]  # the image of each region
    phrases: list[tuple[str, ...]]  # the phrases that are true of each region
    queries: list[str]  # one of the phrases of each region
    coverage: Tensor  # (R, h, w) float32: the share of each place that the region covers
    has_mask: list[bool]  # False: nobody knows where the region is, and its coverage is 0


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
        captions=_ids(tokenizer, [[text.caption for text in row] for row in texts]),
        caption_facts=[sample.caption_facts for sample in samples],
        image_facts=[sample.image_facts for sample in samples],
        wrong_captions=_ids(tokenizer, [[sample.wrong_caption] for sample in samples])[:, 0],
        has_wrong_caption=torch.tensor([bool(sample.wrong_caption) for sample in samples]),
        questions=_ids(tokenizer, [[text.question for text in row] for row in texts]),
        answers=_ids(tokenizer, [[text.answer for text in row] for row in texts]),
        has_question=torch.tensor([[bool(text.question) for text in row] for row in texts]),
    )


def collate_regions(
    stride: int, samples: Sequence[Sample], broken: list[ImageError]
) -> RegionBatch:
    """A batch of images and regions. stride: the side of a place, in pixels."""
    pixels = _pixels(samples)
    grid = (pixels.shape[-2] // stride, pixels.shape[-1] // stride)
    rows: list[int] = []
    regions: list[Region] = []
    for row, sample in enumerate(samples):
        rows += [row] * len(sample.regions)
        regions += sample.regions
    coverage = torch.zeros(len(regions), *grid)
    for number, region in enumerate(regions):
        if region.mask is not None:
            mask = torch.from_numpy(region.mask).float()[None, None]
            coverage[number] = F.interpolate(mask, grid, mode="area")[0, 0]
    return RegionBatch(
        pixels=pixels,
        broken=broken,
        rows=rows,
        phrases=[region.phrases for region in regions],
        queries=[region.query for region in regions],
        coverage=coverage,
        has_mask=[region.mask is not None for region in regions],
    )


def _pixels(samples: Sequence[Sample]) -> Tensor:
    return torch.from_numpy(np.stack([sample.pixels for sample in samples]))


def _mix(samples: Sequence[Sample]) -> Tensor:
    return torch.tensor([sample.mix for sample in samples])


def _ids(tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> Tensor:
    """The ids (n, K, L) int64 of K texts for each of n images."""
    ids = torch.from_numpy(tokenizer([text for row in texts for text in row]))
    return ids.view(len(texts), -1, ids.shape[1])
