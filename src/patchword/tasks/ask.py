"""Questions about a photo, answered in a few words, or by choosing among given answers."""

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
from patchword.scope import UNKNOWN, Check, Scope, Understood, is_possible
from patchword.tasks.caption import Caption, longest, packed, seen

MAX_LENGTH = 10  # ids; salesforce/BLIP, models/blip_vqa.py
OPPOSITE = {"yes": "no", "no": "yes"}


@dataclass(frozen=True)
class Choice:
    """One of the candidate answers.

    log_probability  of the answer and the end after it, natural logarithm
    probability      0 to 1: the softmax of the log probabilities of all answers that were scored
    """

    text: str
    probability: float
    log_probability: float


@dataclass(frozen=True)
class Answer(Caption):
    """A generated answer, with its probabilities as in a `Caption`; or the best of the candidates,
    with all that were scored, best first, in `ranking`.

    understood: the question that the model was asked instead, one of those of its training that
    means the same (see `Scope.understood`); empty where it was asked as it is. If it means the
    opposite, yes and no have changed places here. box: of the tile whose answer it is, (left, top,
    right, bottom) in pixels, if the photo was looked at in tiles. declined: what the model wrote
    to a question that is none of those of its training, where that cannot be an answer to the
    question, as "shoes" to "is there a dog?", or where it learned the question `understood` of
    other kinds of images; the text is then "does not know", and the probabilities are of what was
    written. Of models that say what they were trained on.
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
    """The answer to a question about an image (Li et al. 2022, 5.3). Of several questions it is a
    list, an answer each; of several images too, an item for each, which is what one image would
    give.

    answers    to choose from; None: the model writes its own
    shortlist  with `answers`: only so many are read in full, those whose first word is the most
               probable; None: all are, which is exact
    options    without `answers`: how to choose among texts; None: beam search with 3 beams, at
               most 10 ids

    Raises UnsupportedError for a model that answers no questions, for a question that is empty or
    longer than the context, for answers that are none, empty, too long or twice the same, and for
    an option of the other way; ConfigError for options that cannot be; and the ImageError of the
    first image that cannot be opened; `ask_each` never stops.
    """
    several = [questions] if isinstance(questions, str) else questions
    found = ask_each(model, images, several, answers, shortlist, options, batch_size)
    rows = list(results(found))
    each = [row[0] for row in rows] if isinstance(questions, str) else rows
    return each[0] if is_one(images) else each


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
    may look like another kind of image than the whole.
    """
    network = answerer(model)
    text = model.config.text
    assert text is not None
    check = Check(model.scope, model.name)
    _check_list("question", questions)
    asked = check.questions(questions, answers)
    of_image = check.is_asked_of
    if parts:  # an unlike whole, as of several wafers side by side, says nothing of its parts
        of_image = cache(lambda question: check.outside or check.is_asked_of(question))
    ids = _ids(model, "question", [each.question for each in asked], text.context)
    if answers is not None:
        if options is not None:
            raise UnsupportedError(
                "beams, max_length and the like are of answers that are written, and these are "
                "chosen: leave them out, or answers"
            )
        ranked = _ranked(model, network, check, images, ids, answers, batch_size, shortlist)
        opposites = dict(zip(answers, reversed(answers), strict=True))  # of yes and no, as written
        return _said(ranked, questions, asked, check.knows, of_image, opposites)
    if shortlist is not None:
        raise UnsupportedError("shortlist is of answers to choose from, and there are none")
    search = options or GenerationOptions(max_length=longest(model, MAX_LENGTH))

    def run(pixels: Tensor) -> Tensor:
        tokens = seen(check, network, pixels)
        written = network.answer(tokens, ids.repeat(len(pixels), 1), search)
        rows = packed(written.ids, written.log_probabilities)
        return torch.unflatten(rows, 0, (len(pixels), len(ids), -1))

    found = check.each(model.run_each(images, run, batch_size))
    written = (
        (
            image,
            rows
            if isinstance(rows, ImageError)
            else [
                _possible(Answer.read(model, row, 1), each.question, model.scope)
                for row, each in zip(rows, asked, strict=True)
            ],
        )
        for image, rows in found
    )
    return _said(written, questions, asked, check.knows, of_image)


def _possible(answer: Answer, question: str, scope: Scope | None) -> Answer:
    """The answer, or that the model does not know, where it can be none to the question."""
    if scope is None or is_possible(question, answer.text, scope.slots):
        return answer
    return _declined(answer)


def _declined(answer: Answer) -> Answer:
    return replace(answer, text=UNKNOWN, declined=answer.declined or answer.text)


def _said(
    found: Iterable[tuple[ImageLike, list[Answer] | ImageError]],
    questions: Sequence[str],
    asked: Sequence[Understood],
    known: Callable[[str], bool],
    of_image: Callable[[str], bool],
    opposites: Mapping[str, str] = OPPOSITE,
) -> Iterator[tuple[ImageLike, list[Answer] | ImageError]]:
    """Answers to what was asked as answers to the questions: none to a question that the model does
    not know, nor of an image of another domain than that of the question that was asked instead,
    except among those that were given."""
    does = [known(each.question) for each in asked]
    for image, answers in found:
        if isinstance(answers, ImageError):
            yield image, answers
            continue
        yield (
            image,
            [
                _declined(answer)
                if not (knows or answer.ranking)
                else answer
                if each.question == question
                else _answering(answer, each, opposites)
                if answer.ranking or of_image(each.question)
                else _declined(answer)
                for answer, question, each, knows in zip(
                    answers, questions, asked, does, strict=True
                )
            ],
        )


def _answering(answer: Answer, asked: Understood, opposites: Mapping[str, str]) -> Answer:
    """An answer to what was asked as one to the question that it stands for."""
    answer = replace(
        answer,
        understood=asked.question,
        others=tuple(_answering(other, asked, opposites) for other in answer.others),
    )
    if not asked.opposite:
        return answer
    ranking = tuple(replace(c, text=opposites.get(c.text, c.text)) for c in answer.ranking)
    return replace(answer, text=opposites.get(answer.text, answer.text), ranking=ranking)


def answerer(model: Bundle) -> Writer:
    """The network of a model that answers. Raises UnsupportedError for another one."""
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
    given = _ids(model, "answer", answers, model.config.decoder.context)
    _check_distinct(answers, given)

    def run(pixels: Tensor) -> Tensor:
        tokens = seen(check, network, pixels)
        ranked = network.rank(tokens, ids.repeat(len(pixels), 1), given, shortlist or 0)
        rows = torch.cat([ranked.chosen[..., None], ranked.log_probabilities], dim=-1)
        return torch.unflatten(rows, 0, (len(pixels), -1))

    lengths = (given != model.reader().pad_token).sum(dim=1).tolist()
    found = check.each(model.run_each(images, run, batch_size))
    return (
        (
            image,
            rows
            if isinstance(rows, ImageError)
            else [_best(row, answers, lengths) for row in rows],
        )
        for image, rows in found
    )


def _best(row: Vector, answers: Sequence[str], lengths: Sequence[int]) -> Answer:
    """From a row (K, 1 + L): the number of each answer that was scored, and its log probabilities.
    lengths: of each answer's ids, the start token included."""
    numbers, scores = row[:, 0].astype(int).tolist(), row[:, 1:].astype(np.float64)
    total = scores.sum(axis=1)
    share = np.exp(total - total.max())
    share /= share.sum()
    order = np.argsort(-total, kind="stable").tolist()
    ranking = tuple(Choice(answers[numbers[i]], float(share[i]), float(total[i])) for i in order)
    best = order[0]
    ids = tuple(scores[best, : lengths[numbers[best]] - 1].tolist())
    return Answer(ranking[0].text, ranking[0].log_probability, ids, ranking=ranking)


def _ids(model: Bundle, kind: str, texts: Sequence[str], context: int) -> Tensor:
    """Ids (N, L) of questions or answers, whole. Raises UnsupportedError where that cannot be."""
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
    """Raise UnsupportedError for what is not a list of one or more."""
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
