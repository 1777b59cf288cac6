"""Questions about a photo, answered in a few words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import ImageError, UnsupportedError
from patchword.images import ImageLike
from patchword.tasks.caption import Caption, packed

MAX_LENGTH = 10  # ids; salesforce/BLIP, models/blip_vqa.py


class Answer(Caption):
    """An answer that a model wrote, with its probabilities as those of a `Caption`."""


@overload
def ask(model: Bundle, image: ImageLike, questions: str, **options: Any) -> Answer: ...
@overload
def ask(
    model: Bundle, image: ImageLike, questions: Sequence[str], **options: Any
) -> list[Answer]: ...
def ask(
    model: Bundle, image: ImageLike, questions: str | Sequence[str], **options: Any
) -> Answer | list[Answer]:
    """The answer to a question about an image, or to each of several (Li et al. 2022, 5.3).

    options: as for `caption`, with a `max_length` of 10.

    Raises UnsupportedError for a model that answers no questions, and ImageError.
    """
    several = [questions] if isinstance(questions, str) else questions
    ((_, found),) = ask_each(model, [image], several, **options)
    if isinstance(found, ImageError):
        raise found
    return found[0] if isinstance(questions, str) else found


def ask_each(
    model: Bundle,
    images: Iterable[ImageLike],
    questions: Sequence[str],
    batch_size: int = 4,
    **options: Any,
) -> Iterator[tuple[ImageLike, list[Answer] | ImageError]]:
    """Each image in order with its answers to all questions, or the ImageError it raised.

    An image is looked at once, by all questions together.
    """
    if not model.config.asks:
        raise UnsupportedError(
            f"{model.name} answers no questions; load a BLIP made for it, such as "
            "Salesforce/blip-vqa-base"
        )
    if isinstance(questions, str) or not questions:
        raise UnsupportedError(f"questions must be a list of one or more: {questions!r}")
    ids = torch.from_numpy(model.reader()(questions)).to(model.device)  # (Q, L)
    options = {"max_length": MAX_LENGTH} | options

    def run(pixels: Tensor) -> Tensor:
        tokens = model.network.image_tokens(pixels)  # type: ignore[operator]
        written = model.network.answer(tokens, ids.repeat(len(pixels), 1), **options)  # type: ignore[operator]
        rows = packed(written.ids, written.log_probabilities)
        return torch.unflatten(rows, 0, (len(pixels), len(questions)))

    for image, rows in model.run_each(images, run, batch_size):
        if isinstance(rows, ImageError):
            yield image, rows
        else:
            yield image, [Answer.read(model, row, 1) for row in rows]
