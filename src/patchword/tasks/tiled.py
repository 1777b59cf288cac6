"""Jobs on a photo and on its tiles, so that what is small, or beyond a crop, is looked at too.

The whole photo, squashed, and every tile are asked by themselves, and their answers joined: what is
anywhere in a photo is in it, so that of "is there a ...", of matching and of labels judged by
themselves the greatest probability counts. Questions of another kind, such as "where is ...?", are
answered from the whole alone, for a tile does not know where it lies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from patchword.bundle import Bundle, embed_checked
from patchword.errors import (
    ImageError,
    LongTextWarning,
    UnseenWarning,
    UnsupportedError,
    begun,
    unsaid,
    warn,
)
from patchword.images import ImageLike, name_of
from patchword.images.one_or_many import as_images, results
from patchword.images.views import Box, views
from patchword.models.generate import GenerationOptions
from patchword.options import text_list
from patchword.scope import Check
from patchword.scope import untold as scope_untold
from patchword.tasks.ask import Answer, ask_each
from patchword.tasks.caption import Caption, caption_each
from patchword.tasks.classify import NONE, Score, scorer
from patchword.tasks.match import Match, match_each
from patchword.visible_area import Sight, noted, untold

R = TypeVar("R")
# Questions of what is in a photo, yes or no.
EXISTENCE = re.compile(
    r"(is|are) there |(can|do) you (see|find|spot) |does .*\b(show|contain|have) "
    r"|has .*\b(a|an|any) ",
    re.IGNORECASE,
)


@dataclass(frozen=True, eq=False)
class Tiled(Generic[R]):
    """What is said of a photo, `joined` from what is said of each view; `views`: the whole first,
    then the tiles, each with its box (left, top, right, bottom) in pixels."""

    joined: R
    views: tuple[tuple[Box, R], ...]


def joined(found: Iterable[tuple[ImageLike, Tiled[R] | ImageError]]) -> list[R]:
    """What is said of each photo as a whole. Raises the ImageError of the first that cannot be
    opened."""
    return [result.joined for result in results(found)]


def tile_size(tiles: bool | int) -> int | None:
    """The side that `tiles` names; None for True. Raises UnsupportedError for less than 1."""
    if isinstance(tiles, bool):
        return None
    if tiles < 1:
        raise UnsupportedError(f"tiles is {tiles}; it is True, or the side of a tile in pixels")
    return tiles


def classify_tiled(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    labels: Sequence[str],
    templates: str | Sequence[str] | None = None,
    multi_label: bool = False,
    reject: float | None = None,
    tile: int | None = None,
) -> Iterator[tuple[ImageLike, Tiled[list[Score]] | ImageError]]:
    """As `classify_each`. Of each label the greatest probability counts; those of labels that
    exclude each other (neither multi_label nor reject) are then scaled to sum to one, and tiles
    unlike all that the model was trained on (`Scope.novelty`) do not count: a softmax is sure of
    any of its labels there."""
    score = scorer(model, labels, templates, multi_label, reject)
    alone = multi_label or reject is not None

    def run(shown: Bundle, parts: list[ImageLike]) -> list[list[Score]]:
        check = Check(shown.scope, shown.name)
        found = embed_checked(shown, check, parts)
        return [score(row, check.outside) for row in results(found)]

    def join(
        answers: Sequence[list[Score]], boxes: Sequence[Box], known: Sequence[bool]
    ) -> list[Score]:
        best: dict[str, Score] = {}
        strange = all(scores[0].outside for scores in answers)  # with reject alone
        for scores, box, counts in zip(answers, boxes, known, strict=True):
            counted = strange or not scores[0].outside if alone else counts
            for each in scores if counted else ():
                if each.label not in best or each.probability > best[each.label].probability:
                    best[each.label] = replace(each, box=box)
        if reject is not None:
            best.pop(NONE, None)
        total = 1.0 if alone else sum(each.probability for each in best.values())
        out = [replace(each, probability=each.probability / total) for each in best.values()]
        out.sort(key=lambda each: -each.probability)
        if reject is not None and all(scores[0].label == NONE for scores in answers):
            out.insert(0, Score(NONE, 1.0 if strange else 1 - out[0].probability, outside=strange))
        return out

    return _each(model, images, tile, run, join)


def match_tiled(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    texts: str | Sequence[str],
    start: str | None = None,
    tile: int | None = None,
) -> Iterator[tuple[ImageLike, Tiled[Match] | ImageError]]:
    """As `match_each`: of each text the greatest probability, and the cosine beside it."""

    texts = text_list(texts)
    Check(model.scope, model.name).texts(texts)

    def run(shown: Bundle, parts: list[ImageLike]) -> list[Match]:
        return list(results(match_each(shown, parts, texts, start=start)))

    def join(answers: Sequence[Match], boxes: Sequence[Box], known: Sequence[bool]) -> Match:
        probabilities = np.stack([answer.probabilities for answer in answers])  # (V, T)
        best = probabilities.argmax(axis=0)
        cosines = np.stack([answer.cosines for answer in answers])
        texts_of = np.arange(len(best))
        return Match(probabilities[best, texts_of], cosines[best, texts_of], np.array(boxes)[best])

    return _each(model, images, tile, run, join)


def caption_tiled(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    prompt: str = "",
    options: GenerationOptions | None = None,
    tile: int | None = None,
) -> Iterator[tuple[ImageLike, Tiled[Caption] | ImageError]]:
    """As `caption_each`: the caption of the whole photo, and behind its own `others` those of the
    tiles that are different, the most probable first."""

    Check(model.scope, model.name).texts([prompt])

    def run(shown: Bundle, parts: list[ImageLike]) -> list[Caption]:
        return list(results(caption_each(shown, parts, prompt, options)))

    def join(answers: Sequence[Caption], boxes: Sequence[Box], known: Sequence[bool]) -> Caption:
        whole, *tiles = answers
        found = {whole.text: whole}
        others: list[Caption] = [*whole.others]
        for answer in others + sorted(tiles, key=lambda each: -each.log_probability):
            found.setdefault(answer.text, replace(answer, others=()))
        return replace(whole, others=tuple(found.values())[1:])

    return _each(model, images, tile, run, join)


def ask_tiled(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    questions: Sequence[str],
    answers: Sequence[str] | None = None,
    shortlist: int | None = None,
    options: GenerationOptions | None = None,
    tile: int | None = None,
) -> Iterator[tuple[ImageLike, Tiled[list[Answer]] | ImageError]]:
    """As `ask_each`. Of "is there ...?" the view that is the surest of "yes" counts; any other
    question is answered from the whole photo, with an UnseenWarning."""
    check = Check(model.scope, model.name)
    checked = check.questions(questions, answers)
    anywhere = [bool(EXISTENCE.match(each.question)) for each in checked]
    for question, each, exists in zip(questions, checked, anywhere, strict=True):
        if not exists:
            other = f", which is asked as {each.question!r}," if each.question != question else ""
            warn(
                f"{begun(question)!r}{other} is answered from the whole photo alone: only answers "
                "to “is there ...?” can be joined; ask that of what you look for, or look at each "
                "tile's own answer (--each-tile)",
                UnseenWarning,
            )
            break

    def run(shown: Bundle, parts: list[ImageLike]) -> list[list[Answer]]:
        found = ask_each(shown, parts, questions, answers, shortlist, options, parts=True)
        return list(results(found))

    def join(
        found: Sequence[list[Answer]], boxes: Sequence[Box], known: Sequence[bool]
    ) -> list[Answer]:
        joined = []
        for number, exists in enumerate(anywhere):
            shares = [_yes(row[number]) for row in found] if exists else [1.0]
            best = int(np.argmax(shares))
            joined.append(replace(found[best][number], box=boxes[best]))
        return joined

    return _each(model, images, tile, run, join, check)


def _yes(answer: Answer) -> float:
    """How probable "yes" is; of a written "no" minus its probability, and of what is neither, which
    says nothing, the least."""
    for choice in answer.ranking:
        if choice.text.strip().lower() == "yes":
            return choice.probability
    signs = {"yes": answer.probability, "no": -answer.probability}
    return signs.get(answer.text.strip().lower(), -2.0)


def _each(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    tile: int | None,
    run: Callable[[Bundle, list[ImageLike]], list[R]],
    join: Callable[[Sequence[R], Sequence[Box], Sequence[bool]], R],
    check: Check | None = None,
) -> Iterator[tuple[ImageLike, Tiled[R] | ImageError]]:
    """A job on all views of each photo, its answers joined by a function of them, of the boxes, and
    of which views are like what the model was trained on. check: of the photos, which are told."""
    shown = model.opening(squash=True)
    told = Check(model.scope, model.name) if check is None else check

    def found() -> Iterator[tuple[ImageLike, Tiled[R] | ImageError]]:
        with noted() as sights:
            for number, image in enumerate(as_images(images)):
                try:
                    photo = model.opener(image, exact=True)
                except ImageError as error:
                    yield image, error
                    continue
                parts = views(photo, model.preprocess.config.size, tile)
                height, width = parts[-1].pixels.shape[:2]
                sight = Sight.of(image, shown.preprocess.geometry(height, width), photo)
                sights.note(replace(sight, source=(photo.shape[0], photo.shape[1])))
                pixels: list[ImageLike] = [part.pixels for part in parts]
                boxes = [part.box for part in parts]
                known: list[bool] = []
                try:
                    with told_elsewhere(first=not number):
                        known = _known(shown, told, pixels)
                        answers = run(shown, pixels)
                except ImageError as error:  # of a view: it is the photo's
                    failed = ImageError(name_of(image), error.reason)
                    failed.opened = bool(known)  # then `told` knows of it
                    yield image, failed
                    continue
                each = tuple(zip(boxes, answers, strict=True))
                yield image, Tiled(join(answers, boxes, known), each)

    return told.each(found())


def _known(model: Bundle, check: Check, pixels: list[ImageLike]) -> list[bool]:
    """Which views count as like what the model was trained on: the whole, which is the first and is
    checked, and tiles inside its scope."""
    if model.scope is None:
        return [True] * len(pixels)
    views = Check(model.scope, model.name)
    rows = results(embed_checked(model, views, pixels))
    seen = [(not views.outside, row) for row in rows]
    check.judged(not seen[0][0], seen[0][1])
    return [True, *(inside for inside, _ in seen[1:])]


@contextmanager
def told_elsewhere(first: bool) -> Iterator[None]:
    """Warnings of views alone: of the scope of a tile, and from the second photo on of texts."""
    with untold(), scope_untold(), nullcontext() if first else unsaid(LongTextWarning):
        yield
