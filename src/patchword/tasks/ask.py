"""Questions about a photo, answered in a few words or by one of several candidate answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from patchword.bundle import Bundle, Vector
from patchword.errors import ImageError, UnsupportedError
from patchword.images import ImageLike
from patchword.images.one_or_many import Images, is_one, results
from patchword.images.views import Box
from patchword.models.generate import GenerationOptions
from patchword.models.protocols import Writer
from patchword.options import at_least
from patchword.scope import UNKNOWN, Check, Understood, is_possible
from patchword.tasks.caption import Caption, checked_tokens, default_length, packed

MAX_LENGTH = 10  # ids; salesforce/BLIP, models/blip_vqa.py
OPPOSITE = {"yes": "no", "no": "yes"}


@dataclass(frozen=True)
class Choice:
    """A candidate answer.

    log_probability  natural logarithm, of the answer with its end token
    probability      0 to 1: the softmax of the log probabilities of all scored answers
    """

    text: str
    probability: float
    log_probability: float


@dataclass(frozen=True)
class Answer(Caption):
    """A generated answer, with probabilities as in a `Caption`; or the best of the candidates.

    ranking     all candidates that were scored, best first; () for a generated answer
    understood  the question that was asked instead, one of the model's training with the same
                meaning (see `Scope.understood`); "" if the question was asked as it is. If the
                meaning is the opposite, yes and no have changed places here
    box         of the tile that gave the answer, (left, top, right, bottom) in pixels; None without
                tiles
    declined    what the model wrote, where the answer is "does not know"; "" for other answers. The
                probabilities are those of what it wrote. A model that says what it was trained on
                declines a question that it was not trained on if what it wrote cannot answer it, as
                "shoes" to "is there a dog?", and if it learned the question `understood` with other
                kinds of images
    """

    ranking: tuple[Choice, ...] = field(default=(), repr=False)
    understood: str = field(default="", repr=False)
    box: Box | None = field(default=None, repr=False)
    declined: str = field(default="", repr=False)


def ask(
    model: Bundle,
    images: Images,
    questions: str | Sequence[str],
    answers: Sequence[str] | None = None,
    shortlist: int | None = None,
    options: GenerationOptions | None = None,
    batch_size: int = 4,
) -> Answer | list[Answer] | list[list[Answer]]:
    """The answer to a question about an image (Li et al. 2022, section 5.3). Several questions give
    a list with an answer each; several images give a list with the result of each.

    answers    to choose from; None: the model writes its own
    shortlist  with `answers`: score only this many in full, those with the most probable first
               word; None: score all, which is exact
    options    without `answers`: how to generate; None: beam search with 3 beams, at most 10 ids

    Raises UnsupportedError for a model that answers no questions; for a question that is empty or
    longer than the context; for no answers, and for empty, too long or repeated ones; and for an
    option of the other mode. Raises ConfigError for invalid options, and the ImageError of the
    first image that cannot be opened; `ask_each` continues after it.
    """
    question_list = [questions] if isinstance(questions, str) else questions
    rows = list(
        results(ask_each(model, images, question_list, answers, shortlist, options, batch_size))
    )
    answers_of_images = [row[0] for row in rows] if isinstance(questions, str) else rows
    return answers_of_images[0] if is_one(images) else answers_of_images


def ask_each(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    questions: Sequence[str],
    answers: Sequence[str] | None = None,
    shortlist: int | None = None,
    options: GenerationOptions | None = None,
    batch_size: int = 4,
    parts: bool = False,
) -> Iterator[tuple[ImageLike, list[Answer] | ImageError]]:
    """Each image in order with its answers to all questions, or the ImageError it raised.

    An image is encoded once for all questions. parts: the images are a photo and parts of it, which
    may look like other kinds of images than the photo.
    """
    network = answerer(model)
    text = model.config.text
    assert text is not None
    check = Check(model.scope, model.name)
    _check_list("question", questions)
    understood = check.questions(questions, answers)
    fits_image = check.is_asked_of
    if parts:  # a photo outside the scope, as of several wafers side by side, may have parts inside
        fits_image = cache(lambda question: check.outside or check.is_asked_of(question))
    ids = _ids(model, "question", [each.question for each in understood], text.context)
    if answers is not None:
        if options is not None:
            raise UnsupportedError(
                "beams, max_length and the like are of answers that are written, and these are "
                "chosen: leave them out, or answers"
            )
        ranked = _ranked(model, network, check, images, ids, answers, batch_size, shortlist)
        opposites = dict(zip(answers, reversed(answers), strict=True))  # used for yes and no alone
        return _as_asked(ranked, questions, understood, check.knows, fits_image, opposites)
    if shortlist is not None:
        raise UnsupportedError("shortlist is of answers to choose from, and there are none")
    search = options or GenerationOptions(max_length=default_length(model, MAX_LENGTH))

    def run(pixels: Tensor) -> Tensor:
        tokens = checked_tokens(check, network, pixels)
        written = network.answer(tokens, ids.repeat(len(pixels), 1), search)
        rows = packed(written.ids, written.log_probabilities)
        return torch.unflatten(rows, 0, (len(pixels), len(ids), -1))

    def read(row: Vector, question: str) -> Answer:
        answer = Answer.read(model, row, 1)
        if model.scope is None or is_possible(question, answer.text, model.scope.slots):
            return answer
        return _declined(answer)

    rows_each = check.each(model.run_each(images, run, batch_size))
    written = (
        (image, rows)
        if isinstance(rows, ImageError)
        else (image, [read(row, each.question) for row, each in zip(rows, understood, strict=True)])
        for image, rows in rows_each
    )
    return _as_asked(written, questions, understood, check.knows, fits_image)


def _declined(answer: Answer) -> Answer:
    return replace(answer, text=UNKNOWN, declined=answer.declined or answer.text)


def _as_asked(
    answers_each: Iterable[tuple[ImageLike, list[Answer] | ImageError]],
    questions: Sequence[str],
    understood: Sequence[Understood],
    knows: Callable[[str], bool],
    fits_image: Callable[[str], bool],
    opposites: Mapping[str, str] = OPPOSITE,
) -> Iterator[tuple[ImageLike, list[Answer] | ImageError]]:
    """Answers to the questions that were understood, turned into answers to those that were asked.
    A written answer is declined if the model does not know the question, or if the question that
    was asked instead does not fit the image."""
    known = [knows(each.question) for each in understood]

    def as_asked(answer: Answer, number: int) -> Answer:
        is_choice = bool(answer.ranking)
        meant = understood[number]
        if not known[number] and not is_choice:
            return _declined(answer)
        if meant.question == questions[number]:
            return answer
        if is_choice or fits_image(meant.question):
            return _translated(answer, meant, opposites)
        return _declined(answer)

    for image, answers in answers_each:
        if isinstance(answers, ImageError):
            yield image, answers
        else:
            yield image, [as_asked(answer, number) for number, answer in enumerate(answers)]


def _translated(answer: Answer, understood: Understood, opposites: Mapping[str, str]) -> Answer:
    """An answer to the question that was understood as one to the question that was asked."""
    answer = replace(
        answer,
        understood=understood.question,
        others=tuple(_translated(other, understood, opposites) for other in answer.others),
    )
    if not understood.opposite:
        return answer
    ranking = tuple(replace(c, text=opposites.get(c.text, c.text)) for c in answer.ranking)
    return replace(answer, text=opposites.get(answer.text, answer.text), ranking=ranking)


def answerer(model: Bundle) -> Writer:
    """The network of a model that answers questions. Raises UnsupportedError for another model."""
    network = model.own_network
    if not (model.config.answers_questions and isinstance(network, Writer)):
        raise UnsupportedError(
            f"{model.name} answers no questions; load a BLIP made for it, such as "
            'Salesforce/blip-vqa-base, or the embedded "demo-blip"'
        )
    return network


def _ranked(
    model: Bundle,
    network: Writer,
    check: Check,
    images: ImageLike | Iterable[ImageLike],
    ids: Tensor,
    answers: Sequence[str],
    batch_size: int,
    shortlist: int | None,
) -> Iterator[tuple[ImageLike, list[Answer] | ImageError]]:
    """`ask_each` of questions (Q, L) with candidate answers."""
    if shortlist is not None:
        at_least("shortlist", shortlist)
    assert model.config.decoder is not None
    answer_ids = _ids(model, "answer", answers, model.config.decoder.context)
    _check_distinct(answers, answer_ids)

    def run(pixels: Tensor) -> Tensor:
        tokens = checked_tokens(check, network, pixels)
        ranked = network.rank(tokens, ids.repeat(len(pixels), 1), answer_ids, shortlist or 0)
        rows = torch.cat([ranked.chosen[..., None], ranked.log_probabilities], dim=-1)
        return torch.unflatten(rows, 0, (len(pixels), -1))

    lengths = (answer_ids != model.reader().pad_token).sum(dim=1).tolist()
    rows_each = check.each(model.run_each(images, run, batch_size))
    return (
        (image, rows)
        if isinstance(rows, ImageError)
        else (image, [_best(row, answers, lengths) for row in rows])
        for image, rows in rows_each
    )


def _best(row: Vector, answers: Sequence[str], lengths: Sequence[int]) -> Answer:
    """The best answer from a row (K, 1 + L): the numbers of the K answers that were scored, and the
    log probabilities of their ids. lengths: of each answer's ids, the start token included."""
    numbers, log_probabilities = row[:, 0].astype(int).tolist(), row[:, 1:].astype(np.float64)
    total = log_probabilities.sum(axis=1)
    share = np.exp(total - total.max())
    share /= share.sum()
    order = np.argsort(-total, kind="stable").tolist()
    ranking = tuple(Choice(answers[numbers[i]], float(share[i]), float(total[i])) for i in order)
    best = order[0]
    of_ids = tuple(log_probabilities[best, : lengths[numbers[best]] - 1].tolist())
    return Answer(ranking[0].text, ranking[0].log_probability, of_ids, ranking=ranking)


def _ids(model: Bundle, kind: str, texts: Sequence[str], context: int) -> Tensor:
    """Ids (N, L) of questions or answers. Raises UnsupportedError for a text that is empty or
    longer than the context."""
    _check_list(kind, texts)
    tokenizer = model.reader()
    rows = tokenizer.rows(texts)
    for number, (text, row) in enumerate(zip(texts, rows, strict=True), start=1):
        if len(row) <= tokenizer.specials:
            raise UnsupportedError(f"{kind} {number} of {len(texts)} has no words: {text!r}")
        if len(row) > context:
            raise UnsupportedError(
                f"{kind} {number} of {len(texts)} has {len(row)} tokens, and {model.name} reads "
                f"{context}; shorten it: {text[:60]!r}..."
            )
    return torch.from_numpy(tokenizer.pad(rows)).to(model.device)


def _check_list(kind: str, texts: Sequence[str]) -> None:
    """Raise UnsupportedError for a string, and for an empty list."""
    if isinstance(texts, str) or not texts:
        raise UnsupportedError(f"{kind}s must be a list of one or more: {texts!r}")


def _check_distinct(answers: Sequence[str], ids: Tensor) -> None:
    """Raise UnsupportedError unless all answers (A, L) differ as ids."""
    first: dict[tuple[int, ...], int] = {}
    for number, row in enumerate(ids.tolist()):
        before = first.setdefault(tuple(row), number)
        if before != number:
            same, answer = answers[before], answers[number]
            pair = repr(same) if same == answer else f"{same!r} and {answer!r}, read as the same"
            raise UnsupportedError(
                f"answers must differ from each other; twice there: {pair}. Leave one out"
            )
