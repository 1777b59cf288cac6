"""Tasks on a photo and on its tiles, for what is small or outside of the crop.

The whole photo, squashed, and every tile are views that a model answers about one by one. Their
answers are then joined. Something in a tile is in the photo, so that the greatest probability
counts for "is there a ...?", for matching and for independent labels. Other questions, such as
"where is ...?", are answered from the whole photo only, because a tile does not show its place.
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
# Questions whether something is in a photo.
EXISTENCE = re.compile(
    r"(is|are) there |(can|do) you (see|find|spot) |does .*\b(show|contain|have) "
    r"|has .*\b(a|an|any) ",
    re.IGNORECASE,
)


@dataclass(frozen=True, eq=False)
class Tiled(Generic[R]):
    """The result of a photo. joined: from the results of all views. views: the box (left, top,
    right, bottom) in pixels and the result of each, the whole photo first."""

    joined: R
    views: tuple[tuple[Box, R], ...]


def joined(results_each: Iterable[tuple[ImageLike, Tiled[R] | ImageError]]) -> list[R]:
    """The joined result of each photo. Raises the ImageError of the first that cannot be opened."""
    return [result.joined for result in results(results_each)]


def tile_size(tiles: bool | int) -> int | None:
    """The side of tiles that the option `tiles` gives; None for True. Raises UnsupportedError for
    less than 1."""
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
    """Like `classify_each`, with the greatest probability of each label over the views. Without
    multi_label and reject these are then scaled to sum to 1, and tiles unlike the model's training
    images (`Scope.novelty`) do not count, because a softmax may be sure of any label there."""
    score = scorer(model, labels, templates, multi_label, reject)
    exclusive = not multi_label and reject is None

    def run(shown: Bundle, parts: list[ImageLike]) -> list[list[Score]]:
        check = Check(shown.scope, shown.name)
        rows = results(embed_checked(shown, check, parts))
        return [score(row, check.outside) for row in rows]  # `check` is at the same row

    def join(
        answers: Sequence[list[Score]], boxes: Sequence[Box], known: Sequence[bool]
    ) -> list[Score]:
        all_outside = all(scores[0].outside for scores in answers)  # only with reject
        best: dict[str, Score] = {}
        for scores, box, is_known in zip(answers, boxes, known, strict=True):
            counts = is_known if exclusive else all_outside or not scores[0].outside
            if not counts:
                continue
            for each in scores:
                if each.label not in best or each.probability > best[each.label].probability:
                    best[each.label] = replace(each, box=box)
        if reject is not None:
            best.pop(NONE, None)
        total = sum(each.probability for each in best.values()) if exclusive else 1.0
        out = [replace(each, probability=each.probability / total) for each in best.values()]
        out.sort(key=lambda each: -each.probability)
        if reject is not None and all(scores[0].label == NONE for scores in answers):
            probability = 1.0 if all_outside else 1 - out[0].probability
            out.insert(0, Score(NONE, probability, outside=all_outside))
        return out

    return _each(model, images, tile, run, join)


def match_tiled(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    texts: str | Sequence[str],
    start: str | None = None,
    tile: int | None = None,
) -> Iterator[tuple[ImageLike, Tiled[Match] | ImageError]]:
    """Like `match_each`, with the greatest probability of each text over the views, and the cosine
    of the same view."""

    texts = text_list(texts)
    Check(model.scope, model.name).texts(texts)

    def run(shown: Bundle, parts: list[ImageLike]) -> list[Match]:
        return list(results(match_each(shown, parts, texts, start=start)))

    def join(answers: Sequence[Match], boxes: Sequence[Box], known: Sequence[bool]) -> Match:
        probabilities = np.stack([answer.probabilities for answer in answers])  # (V, T)
        best = probabilities.argmax(axis=0)
        cosines = np.stack([answer.cosines for answer in answers])
        columns = np.arange(len(best))
        return Match(probabilities[best, columns], cosines[best, columns], np.array(boxes)[best])

    return _each(model, images, tile, run, join)


def caption_tiled(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    prompt: str = "",
    options: GenerationOptions | None = None,
    tile: int | None = None,
) -> Iterator[tuple[ImageLike, Tiled[Caption] | ImageError]]:
    """Like `caption_each`: the caption of the whole photo, with the different captions of tiles
    added to its `others`, the most probable first."""

    Check(model.scope, model.name).texts([prompt])

    def run(shown: Bundle, parts: list[ImageLike]) -> list[Caption]:
        return list(results(caption_each(shown, parts, prompt, options)))

    def join(answers: Sequence[Caption], boxes: Sequence[Box], known: Sequence[bool]) -> Caption:
        whole, *tiles = answers
        tiles.sort(key=lambda answer: -answer.log_probability)
        others: list[Caption] = [*whole.others, *tiles]
        by_text = {whole.text: whole}
        for answer in others:
            by_text.setdefault(answer.text, replace(answer, others=()))
        return replace(whole, others=tuple(by_text.values())[1:])

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
    """Like `ask_each`. For "is there ...?" the view with the most probable "yes" counts; any other
    question is answered from the whole photo, with an UnseenWarning."""
    check = Check(model.scope, model.name)
    understood = check.questions(questions, answers)
    of_existence = [bool(EXISTENCE.match(each.question)) for each in understood]
    for question, each, is_existence in zip(questions, understood, of_existence, strict=True):
        if not is_existence:
            other = f", which is asked as {each.question!r}," if each.question != question else ""
            warn(
                f"{begun(question)!r}{other} is answered from the whole photo alone: only answers "
                'to "is there ...?" can be joined; ask that of what you look for, or look at each '
                "tile's own answer (--each-tile)",
                UnseenWarning,
            )
            break

    def run(shown: Bundle, parts: list[ImageLike]) -> list[list[Answer]]:
        each = ask_each(shown, parts, questions, answers, shortlist, options, parts=True)
        return list(results(each))

    def join(
        of_views: Sequence[list[Answer]], boxes: Sequence[Box], known: Sequence[bool]
    ) -> list[Answer]:
        joined = []
        for number, is_existence in enumerate(of_existence):
            best = 0  # the whole photo
            if is_existence:
                best = int(np.argmax([_yes(of_view[number]) for of_view in of_views]))
            joined.append(replace(of_views[best][number], box=boxes[best]))
        return joined

    return _each(model, images, tile, run, join, check)


def _yes(answer: Answer) -> float:
    """A number that orders answers by how sure of "yes" they are: the probability of "yes" among
    candidates or as a written answer; minus that of a written "no"; -2 for any other answer."""
    for choice in answer.ranking:
        if choice.text.strip().lower() == "yes":
            return choice.probability
    text = answer.text.strip().lower()
    if text == "yes":
        return answer.probability
    return -answer.probability if text == "no" else -2.0


def _each(
    model: Bundle,
    images: ImageLike | Iterable[ImageLike],
    tile: int | None,
    run: Callable[[Bundle, list[ImageLike]], list[R]],
    join: Callable[[Sequence[R], Sequence[Box], Sequence[bool]], R],
    check: Check | None = None,
) -> Iterator[tuple[ImageLike, Tiled[R] | ImageError]]:
    """Run a task on all views of each photo and join the answers. join: takes the answers and boxes
    of the views, and whether each is like the model's training images. check: warns of photos;
    None: a new one."""
    shown = model.opening(squash=True)
    photo_check = Check(model.scope, model.name) if check is None else check

    def tiled_each() -> Iterator[tuple[ImageLike, Tiled[R] | ImageError]]:
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
                        known = _known(shown, photo_check, pixels)
                        answers = run(shown, pixels)
                except ImageError as error:  # a view's error becomes the photo's
                    failed = ImageError(name_of(image), error.reason)
                    failed.opened = bool(known)  # then `photo_check` has been given the photo
                    yield image, failed
                    continue
                of_views = tuple(zip(boxes, answers, strict=True))
                yield image, Tiled(join(answers, boxes, known), of_views)

    return photo_check.each(tiled_each())


def _known(model: Bundle, check: Check, pixels: list[ImageLike]) -> list[bool]:
    """Which views count as like the model's training images: the first, which is the whole photo
    and is given to the check, and the tiles inside the model's scope."""
    if model.scope is None:
        return [True] * len(pixels)
    view_check = Check(model.scope, model.name)
    inside, vectors = [], []
    for vector in results(embed_checked(model, view_check, pixels)):
        inside.append(not view_check.outside)
        vectors.append(vector)
    check.judged(not inside[0], vectors[0])
    return [True, *inside[1:]]


@contextmanager
def told_elsewhere(first: bool) -> Iterator[None]:
    """Silence warnings about single views, and after the first photo also those about texts."""
    texts = nullcontext() if first else unsaid(LongTextWarning)
    with untold(), scope_untold(), texts:
        yield
