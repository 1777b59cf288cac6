"""Image-text matching (ITM): the probability that a text belongs to a photo. Slower than comparing
vectors, and more exact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchword.bundle import Bundle, Vector
from patchword.errors import ImageError, UnsupportedError
from patchword.images import ImageLike
from patchword.images.one_or_many import results
from patchword.models.protocols import Matcher
from patchword.options import nearest, text_list
from patchword.scope import Check
from patchword.show.result import Brief
from patchword.tasks.caption import checked_tokens
from patchword.text import long_text

STARTS = ("enc", "cls")
PAIRS = 64  # of an image and a text in one pass of the network


@dataclass(frozen=True, eq=False, repr=False)
class Match(Brief):
    """How well images and texts fit, by BLIP's two objectives; float32 (I, T), or (T,) for one
    image.

    probabilities  that image and text belong together, by the matching head, in which the text
                   cross-attends to the image (ITM; Li et al. 2022, section 3.2). The texts of an
                   image are independent of each other
    cosines        in the joint space, as in `similarity` (ITC); NaN for a model without one
    boxes          of the tiles with these values, (left, top, right, bottom) in pixels, int (I, T,
                   4), or (T, 4); None without tiles
    """

    probabilities: Vector
    cosines: Vector
    boxes: NDArray[np.int64] | None = None


def match(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    texts: str | Sequence[str],
    batch_size: int = 8,
    start: str | None = None,
) -> Match:
    """How well each image (I) fits each text (T). An image is encoded once.

    start: the first token of a text, "enc", as in BLIP's training, or "cls", as in transformers;
    None: as in the library of the checkpoint.

    A text longer than the context is cut, with a LongTextWarning. Raises UnsupportedError for a
    model without a matching head, and the ImageError of the first image that cannot be opened;
    `match_each` continues after it.
    """
    texts = text_list(texts)
    rows = list(results(match_each(model, images, texts, batch_size, start)))
    return stacked(rows, len(texts))


def stacked(rows: Sequence[Match], texts: int) -> Match:
    """The matches (T,) of I images as one (I, T)."""
    if not rows:
        return Match(*np.empty((2, 0, texts), np.float32))
    boxes = [row.boxes for row in rows if row.boxes is not None]
    return Match(
        np.stack([row.probabilities for row in rows]),
        np.stack([row.cosines for row in rows]),
        np.stack(boxes) if boxes else None,
    )


def match_each(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    texts: str | Sequence[str],
    batch_size: int = 8,
    start: str | None = None,
) -> Iterator[tuple[ImageLike, Match | ImageError]]:
    """Each image in order with its match (T,), or the ImageError it raised; start: see `match`."""
    network = matcher(model)
    first = None if start is None else first_id(model, start)
    texts = text_list(texts)
    if not texts:
        raise UnsupportedError("texts must be a list of one or more, and is empty")
    check = Check(model.scope, model.name)
    check.texts(texts)
    rows = read(model, texts)
    ids = model.reader().pad(rows)  # (T, L)
    lengths = model.reader().lengths(ids)
    order = np.argsort(lengths, kind="stable")
    vectors = None  # (T, D) of the texts
    if model.config.embed_dim:
        vectors = torch.from_numpy(model.embed_rows(rows)).to(model.device)

    def run(pixels: Tensor) -> Tensor:
        tokens = checked_tokens(check, network, pixels)
        out = torch.empty(len(pixels), len(texts), dtype=torch.float32, device=pixels.device)
        count = max(PAIRS // len(pixels), 1)
        for start in range(0, len(order), count):
            part = order[start : start + count]  # texts of similar length
            part_ids = torch.from_numpy(ids[part, : lengths[part].max()]).to(pixels.device)
            logits = network.match(tokens, part_ids.repeat(len(pixels), 1), start=first)
            probabilities = logits.float().softmax(dim=-1)[:, 1]
            out[:, torch.from_numpy(part)] = torch.unflatten(probabilities, 0, (len(pixels), -1))
        values = [out]
        if vectors is not None:
            values.append(network.image_features(tokens) @ vectors.T)
        return torch.stack(values, dim=1)  # (B, 1 or 2, T)

    def read_row(row: Vector) -> Match:
        no_cosines = np.full(len(texts), np.nan, np.float32)
        return Match(row[0], row[1] if len(row) == 2 else no_cosines)

    rows_each = check.each(model.run_each(images, run, batch_size))
    return (
        (image, row if isinstance(row, ImageError) else read_row(row)) for image, row in rows_each
    )


def read(model: Bundle, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text. Gives a LongTextWarning for texts longer than the context, which
    padding cuts."""
    tokenizer = model.reader()
    rows = tokenizer.rows(texts)
    long_text.warn_of_long(tokenizer, rows)
    return rows


def first_id(model: Bundle, start: str) -> int:
    """The id of the first token of texts to be matched, for "enc" or "cls".

    [ENC] is the last of BLIP's ids (salesforce/BLIP, models/blip.py `init_tokenizer`). Raises
    UnsupportedError for another start, and for a model without that token.
    """
    text, tokenizer = model.config.text, model.reader()
    assert text is not None
    if start == "cls":
        return tokenizer.rows([""])[0][0]
    if start != "enc":
        raise UnsupportedError(
            f'start is {start!r}{nearest(start, STARTS)}; give "enc", as BLIP is trained, or '
            '"cls", as transformers begins a text'
        )
    if text.start_token >= 0:
        return text.start_token
    if tokenizer.vocab_size >= text.vocab_size and '"[ENC]"' not in tokenizer.to_json():
        raise UnsupportedError(f"{model.name} has no token [ENC], with which a text could begin")
    return text.vocab_size - 1


def matcher(model: Bundle) -> Matcher:
    """The network of a model that matches. Raises UnsupportedError for another model."""
    network = model.own_network
    if not (model.config.matching and isinstance(network, Matcher)):
        raise UnsupportedError(
            f"{model.name} has no head that matches images with texts; load a BLIP for retrieval, "
            'such as Salesforce/blip-itm-base-coco, or the embedded "demo-blip"'
        )
    return network


@runtime_checkable
class Found(Protocol):
    """A result of a search: an `index.Hit`, or anything else with a path and a score."""

    @property
    def path(self) -> str: ...
    @property
    def score(self) -> float: ...


F = TypeVar("F", bound=Found)


@dataclass(frozen=True)
class Reranked(Generic[F]):
    """A hit and the probability that the text belongs to it; None if it was not computed. error: of
    an image that could not be opened."""

    hit: F
    probability: float | None
    error: ImageError | None = None


def rerank(
    model: Bundle, hits: Sequence[F], text: str, top: int | None = None, batch_size: int = 8
) -> list[Reranked[F]]:
    """The first `top` hits of a search, by default all, sorted by the probability that `text`
    belongs to them; equal ones keep their order. After them come those of `top` that cannot be
    opened, then the other hits.

    Raises UnsupportedError for a model without a matching head.
    """
    matcher(model)
    chosen = list(hits[:top])
    pairs = match_each(model, [hit.path for hit in chosen], [text], batch_size) if chosen else []
    matched: list[Reranked[F]] = []
    failed: list[Reranked[F]] = []
    for hit, (_, result) in zip(chosen, pairs, strict=True):
        if isinstance(result, ImageError):
            failed.append(Reranked(hit, None, result))
        else:
            matched.append(Reranked(hit, float(result.probabilities[0])))
    matched.sort(key=lambda each: -(each.probability or 0.0))
    rest = [Reranked(hit, None) for hit in hits[len(chosen) :]]
    return [*matched, *failed, *rest]
