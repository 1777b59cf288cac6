"""Image-text matching (ITM): does a text belong to a photo? Slower than comparing vectors, and more
exact."""

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
from patchword.tasks.caption import seen
from patchword.text import long_text

STARTS = ("enc", "cls")
PAIRS = 64  # of an image and a text, run together


@dataclass(frozen=True, eq=False, repr=False)
class Match(Brief):
    """How well images and texts fit, by BLIP's two objectives; each float32 (I, T), or (T,) of one
    image.

    probabilities  that they belong together, of the matching head, whose text cross-attends to
                   the image (ITM; Li et al. 2022, section 3.2). Those of a row are independent
    cosines        of their vectors in the joint space, as `similarity` gives them (ITC); NaN for a
                   model without one
    boxes          of the tiles where they are so, (left, top, right, bottom) in pixels, int (I, T,
                   4), or (T, 4); None unless photos were looked at in tiles
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
    """How well each image (I) fits each text (T); an image is encoded once.

    start: what a text begins with, "enc", the token that BLIP is trained with, or "cls", as
    transformers begins it; None: as the checkpoint's own library.

    A text beyond the context is cut, with a LongTextWarning. Raises UnsupportedError for a model
    without a matching head, and the ImageError of the first image that cannot be opened;
    `match_each` never stops.
    """
    texts = text_list(texts)
    rows = list(results(match_each(model, images, texts, batch_size, start)))
    return stacked(rows, len(texts))


def stacked(rows: Sequence[Match], texts: int) -> Match:
    """Matches (T,) of one image each as one (I, T)."""
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
    words = None
    if model.config.embed_dim:
        words = torch.from_numpy(model.embed_rows(rows)).to(model.device)  # (T, D)

    def run(pixels: Tensor) -> Tensor:
        tokens = seen(check, network, pixels)
        out = torch.empty(len(pixels), len(texts), dtype=torch.float32, device=pixels.device)
        count = max(PAIRS // len(pixels), 1)
        for start in range(0, len(order), count):
            part = order[start : start + count]
            some = torch.from_numpy(ids[part, : lengths[part].max()]).to(pixels.device)
            logits = network.match(tokens, some.repeat(len(pixels), 1), start=first)
            together = logits.float().softmax(dim=-1)[:, 1]
            out[:, torch.from_numpy(part)] = torch.unflatten(together, 0, (len(pixels), -1))
        both = [out] if words is None else [out, network.image_features(tokens) @ words.T]
        return torch.stack(both, dim=1)  # (B, 1 or 2, T)

    found = check.each(model.run_each(images, run, batch_size))
    none = np.full(len(texts), np.nan, np.float32)  # cosines, without a joint space
    return (
        (image, row if isinstance(row, ImageError) else Match(row[0], next(iter(row[1:]), none)))
        for image, row in found
    )


def read(model: Bundle, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text; a LongTextWarning names those beyond the context, which padding cuts."""
    tokenizer = model.reader()
    rows = tokenizer.rows(texts)
    long_text.warn_of_long(tokenizer, rows)
    return rows


def first_id(model: Bundle, start: str) -> int:
    """The id of what texts to be matched begin with: "enc" or "cls".

    [ENC] is the last of a BLIP's ids (salesforce/BLIP, models/blip.py `init_tokenizer`). Raises
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
    """The network of a model that matches. Raises UnsupportedError for another one."""
    network = model.own_network
    if not (model.config.matching and isinstance(network, Matcher)):
        raise UnsupportedError(
            f"{model.name} has no head that matches images with texts; load a BLIP for retrieval, "
            'such as Salesforce/blip-itm-base-coco, or the embedded "demo-blip"'
        )
    return network


@runtime_checkable
class Found(Protocol):
    """What a search found: an `index.Hit`, or anything else with a path and a score."""

    @property
    def path(self) -> str: ...
    @property
    def score(self) -> float: ...


F = TypeVar("F", bound=Found)


@dataclass(frozen=True)
class Reranked(Generic[F]):
    """A hit and the probability that the text belongs to it; None where it was not computed, and
    then `error` is why if the image could not be opened."""

    hit: F
    probability: float | None
    error: ImageError | None = None


def rerank(
    model: Bundle, hits: Sequence[F], text: str, top: int | None = None, batch_size: int = 8
) -> list[Reranked[F]]:
    """The first `top` hits of a search, by default all, reranked by the probability that `text`
    belongs to them, equal ones as they were; behind them those that cannot be opened, and the rest.

    Raises UnsupportedError for a model without a matching head.
    """
    matcher(model)
    chosen = list(hits[:top])
    pairs = match_each(model, [hit.path for hit in chosen], [text], batch_size) if chosen else []
    good: list[Reranked[F]] = []
    bad: list[Reranked[F]] = []
    for hit, (_, found) in zip(chosen, pairs, strict=True):
        if isinstance(found, ImageError):
            bad.append(Reranked(hit, None, found))
        else:
            good.append(Reranked(hit, float(found.probabilities[0])))
    good.sort(key=lambda each: -(each.probability or 0.0))
    return [*good, *bad, *(Reranked(hit, None) for hit in hits[len(chosen) :])]
