"""Matching: does a text belong to a photo? Slower than comparing vectors, and more exact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from patchword.bundle import Bundle, Vector
from patchword.errors import ImageError, UnsupportedError
from patchword.images import ImageLike

PAIRS = 64  # of an image and a text, run together


def match(
    model: Bundle, images: Iterable[ImageLike], texts: Sequence[str], batch_size: int = 8
) -> Vector:
    """Probabilities (I, T), float32, that image and text belong together: those of BLIP's matching
    head, whose text looks at the image (Li et al. 2022, section 3.2).

    The probabilities of a row are independent of each other. Raises UnsupportedError for a model
    without such a head, and the ImageError of the first image that cannot be opened; `match_each`
    never stops.
    """
    rows = []
    for _, row in match_each(model, images, texts, batch_size):
        if isinstance(row, ImageError):
            raise row
        rows.append(row)
    return np.stack(rows) if rows else np.empty((0, len(texts)), np.float32)


def match_each(
    model: Bundle, images: Iterable[ImageLike], texts: Sequence[str], batch_size: int = 8
) -> Iterator[tuple[ImageLike, Vector | ImageError]]:
    """Each image in order with its probabilities (T,), or the ImageError it raised."""
    if not model.config.matching:
        raise UnsupportedError(
            f"{model.name} has no head that matches images with texts; load a BLIP for retrieval, "
            "such as Salesforce/blip-itm-base-coco"
        )
    if isinstance(texts, str) or not texts:
        raise UnsupportedError(f"texts must be a list of one or more: {texts!r}")
    tokenizer = model.reader()
    ids = tokenizer(texts)  # (T, L)
    lengths = tokenizer.lengths(ids)
    order = np.argsort(lengths, kind="stable")

    def run(pixels: Tensor) -> Tensor:
        tokens = model.network.image_tokens(pixels)  # type: ignore[operator]
        out = torch.empty(len(pixels), len(texts), device=pixels.device)
        count = max(PAIRS // len(pixels), 1)
        for start in range(0, len(order), count):
            rows = order[start : start + count]
            some = torch.from_numpy(ids[rows, : lengths[rows].max()]).to(pixels.device)
            logits = model.network.match(tokens, some.repeat(len(pixels), 1))  # type: ignore[operator]
            together = logits.float().softmax(dim=-1)[:, 1]
            out[:, torch.from_numpy(rows)] = torch.unflatten(together, 0, (len(pixels), -1))
        return out

    yield from model.run_each(images, run, batch_size)
