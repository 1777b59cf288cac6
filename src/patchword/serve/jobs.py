"""What models say of images: labels, similarity, matches, captions, answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from patchword import scope, visible_area
from patchword.bundle import Vector
from patchword.errors import ImageError, PatchwordError, UnsupportedError
from patchword.images.photo import RGB
from patchword.models.generate import BEAMS, GenerationOptions
from patchword.scope import ScopeReport
from patchword.serve.bodies import Flag, Number, Several, Whole
from patchword.serve.decoding import Image
from patchword.serve.error_responses import RefusalError, refusal_of
from patchword.serve.models import Embedded, Opened
from patchword.serve.server import (
    Answer,
    Failed,
    Server,
    each,
    items,
    large_answer,
    router,
    server_of,
    with_warnings,
)
from patchword.tasks.ask import MAX_LENGTH as ANSWER_LENGTH
from patchword.tasks.ask import Answer as Said
from patchword.tasks.ask import ask_each
from patchword.tasks.caption import MAX_LENGTH, Caption, caption_each, default_length
from patchword.tasks.classify import NONE, Score, Scorer, classify_each, scorer
from patchword.tasks.label_cache import label_features
from patchword.tasks.match import Match, match_each
from patchword.text.templates import resolve_templates
from patchword.visible_area import Sights

# A picture of 8 x 8 pixels, for the examples of the documentation.
TINY = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAI"
    "CAIAAABLbSncAAAAEklEQVR4nGP4z8CAFWEXHbQS"
    "ACj/P8Fu7N9hAAAAAElFTkSuQmCC"
)

routes = router("jobs")


def example(**values: Any) -> ConfigDict:
    """Of a request: nothing unknown, and an example for the documentation."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [values]})


class Body(BaseModel):
    model: str | None = Field(None, description="By default the first model that can do it.")


class Classify(Body):
    """Labels to choose from for each image."""

    model_config = example(images=[TINY], labels=["a scratched wafer", "a red circle"])
    images: Several[Image]
    labels: Several[str] | None = Field(None, description="None: the classes of a classifier.")
    templates: Several[str] | str | None = None
    multi_label: Flag = False
    reject: Number | None = None


class Similarity(Body):
    """Images and texts to compare."""

    model_config = example(images=[TINY], texts=["a red circle"])
    images: Several[Image]
    texts: Several[str]


class MatchBody(Body):
    """Images and texts that may belong together."""

    model_config = example(images=[TINY], texts=["a red circle"])
    images: Several[Image]
    texts: Several[str]


class CaptionBody(Body):
    """Images to describe."""

    model_config = example(images=[TINY])
    images: Several[Image]
    n: Whole = Field(1, ge=1, le=10, description="Captions of each image.")


class Ask(Body):
    """A question about an image."""

    model_config = example(image=TINY, question="is there a red circle?")
    image: Image
    question: str
    answers: Several[str] | None = Field(None, description="To choose from.")


@dataclass(frozen=True)
class Labels:
    """Labels that images are compared with: what scores an image, and their vectors (L, D)."""

    names: tuple[str, ...]
    score: Scorer
    vectors: Vector

    def told(self, image: Embedded) -> dict[str, Any]:
        """What is said of an image."""
        cosines = dict(zip(self.names, (self.vectors @ image.vector).tolist(), strict=True))
        unlike = {"outside": True} if image.outside else {}
        return scores_of(self.score(*image), cosines) | unlike


@routes.post("/v1/classify", summary="Which of several labels fits each image")
async def classify(request: Request, body: Classify) -> Answer:
    server = server_of(request)
    labels = {} if body.labels is None else {"labels": body.labels}
    count = server.checked(images=body.images, **labels)
    opened = await server.models.get(body.model, "classify")
    with server.admission.of(count):
        if body.labels is None:
            without_labels(body)
            own = await own_classes(server, opened, body.images)
            if isinstance(own[0], UnsupportedError):  # of the model, not of an image
                raise refusal_of(own[0], "labels")
            return Answer(with_warnings({"data": items(own, scores_of)}))
        known = await labels_of(
            server, opened, body.labels, body.templates, body.multi_label, body.reject
        )
        found = await server.embedded(opened, body.images)
        return Answer(with_warnings({"data": items(found, known.told)}))


def without_labels(body: Classify) -> None:
    """Raise RefusalError for options that are of labels, of a request that gives none."""
    for name in ("templates", "multi_label", "reject"):
        if getattr(body, name) not in (None, False):
            message = f"{name} is of labels, and none are given: a classifier's own are as they are"
            raise RefusalError(400, "unsupported", message, name)


async def labels_of(
    server: Server,
    opened: Opened,
    labels: Sequence[str],
    templates: str | Sequence[str] | None = None,
    multi_label: bool = False,
    reject: float | None = None,
) -> Labels:
    """The labels of a request, embedded; see `tasks.classify`."""
    names = tuple(labels)
    sentences = templates if templates is None or isinstance(templates, str) else tuple(templates)
    server.readable(names, resolve_templates(sentences))
    model = opened.model

    def make() -> Labels:
        score = scorer(model, names, sentences, multi_label, reject)
        return Labels(names, score, label_features(model, names, resolve_templates(sentences)))

    return await opened.once((names, sentences, multi_label, reject), make)


def scores_of(
    scores: Sequence[Score], cosines: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Labels, the best first, and whether all of them are rejected."""
    labels = [
        {"label": each.label, "probability": each.probability}
        | ({"cosine": cosines[each.label]} if cosines and each.label in cosines else {})
        for each in scores
    ]
    rejected = bool(scores) and scores[0].label == NONE and NONE not in (cosines or ())
    return {"labels": labels, "rejected": rejected}


async def own_classes(
    server: Server, opened: Opened, images: Sequence[Any]
) -> list[list[Score] | Failed]:
    """A classifier's own classes of each image."""
    run = partial(classify_each, opened.model)
    return await of_photos(server, opened, images, "classes", run)


async def of_photos(
    server: Server,
    opened: Opened,
    images: Sequence[Any],
    key: Hashable,
    run: Callable[[list[RGB]], Iterable[tuple[object, Any]]],
) -> list[Any]:
    """What a task says of each image, run together with the same of other requests; of a model
    that warns of what it does not know, by itself. Each request is told of its own images, by
    their places in its list."""
    model, told, sights = opened.model, ScopeReport(), Sights()
    alone = model.scope is not None

    def batch(name: str, photos: list[RGB]) -> list[Any]:
        told.called = name
        with scope.noted(told), visible_area.untold():
            return [found for _, found in run(photos)]

    async def one(number: int, given: Any) -> Any:
        name = f"image {number}"
        async with server.decoder.held(given, model, name) as photo:
            sights.note(await server.decoder.sight(photo, model, name))
            key_of = object() if alone else key
            return await opened.queue.run(key_of, partial(batch, name), photo)

    found = await each(one(number, given) for number, given in enumerate(images, 1))
    sights.tell()
    told.tell()
    return found


@routes.post("/v1/similarity", summary="The cosine of each image with each text")
async def similarity(request: Request, body: Similarity) -> Answer:
    server = server_of(request)
    count = server.checked(images=body.images, texts=body.texts)
    opened = await server.models.get(body.model, "similarity")
    with server.admission.of(count):
        columns = await server.text_rows(opened, body.texts)
        rows = await server.image_rows(opened, body.images)
    cosines = [None if isinstance(row, Exception) else (columns @ row).tolist() for row in rows]
    failed = [one for one in items(rows, lambda _: {}) if "error" in one]
    return await large_answer(with_warnings({"cosines": cosines, "data": failed}))


@routes.post("/v1/match", summary="How probable it is that each image and text belong together")
async def match(request: Request, body: MatchBody) -> Answer:
    server = server_of(request)
    count = server.checked(images=body.images, texts=body.texts)
    opened = await server.models.get(body.model, "match")
    texts = list(body.texts)
    server.readable(texts)
    run = partial(match_each, opened.model, texts=texts)
    with server.admission.of(count):
        found = await of_photos(server, opened, body.images, ("match", *texts), run)
    return Answer(with_warnings({"data": items(found, matched)}))


def matched(found: Match) -> dict[str, Any]:
    cosines = [None if math.isnan(value) else value for value in found.cosines.tolist()]
    return {"probabilities": found.probabilities.tolist(), "cosines": cosines}


@routes.post("/v1/caption", summary="A description of each image")
async def caption(request: Request, body: CaptionBody) -> Answer:
    server = server_of(request)
    count = server.checked(images=body.images)
    opened = await server.models.get(body.model, "caption")
    with server.admission.of(count):
        found = await captions(server, opened, body.images, body.n)
    return Answer(with_warnings({"data": items(found, captioned)}))


async def captions(
    server: Server, opened: Opened, images: Sequence[Any], count: int = 1, **sampled: Any
) -> list[Caption | Failed]:
    """A caption of each image; sampled: temperature, top_p and seed of `GenerationOptions`."""
    length = default_length(opened.model, MAX_LENGTH)
    beams = None if sampled or count <= BEAMS else count
    options = GenerationOptions(beams=beams, max_length=length, count=count, **sampled)
    run = partial(caption_each, opened.model, options=options)
    return await of_photos(server, opened, images, ("caption", options), run)


def captioned(found: Caption) -> dict[str, Any]:
    first = {"caption": found.text, "score": found.log_probability}
    others = [{"caption": each.text, "score": each.log_probability} for each in found.others]
    return first | ({"captions": [first, *others]} if others else {})


@routes.post("/v1/ask", summary="The answer to a question about an image")
async def ask(request: Request, body: Ask) -> Answer:
    server = server_of(request)
    opened = await server.models.get(body.model, "ask")
    count = 1 if body.answers is None else server.checked(answers=body.answers)
    with server.admission.of(count):
        found = await answer(server, opened, body.image, body.question, body.answers)
    said = {"answer": found.text, "probability": found.probability}
    said |= {"declined": found.declined} if found.declined else {}
    if found.ranking:
        ranking = [{"answer": c.text, "probability": c.probability} for c in found.ranking]
        said |= {"answers": ranking, "probability": found.ranking[0].probability}
    said |= {"understood": found.understood} if found.understood else {}
    return Answer(with_warnings(said))


async def answer(
    server: Server,
    opened: Opened,
    image: Any,
    question: str,
    answers: Sequence[str] | None = None,
    **sampled: Any,
) -> Said:
    """The answer to a question about one image; sampled: as in `captions`. Raises RefusalError."""
    given = None if answers is None else tuple(answers)
    server.readable([question, *(given or ())])
    length = default_length(opened.model, ANSWER_LENGTH)
    options = GenerationOptions(max_length=length, **sampled) if sampled else None
    run = partial(ask_each, opened.model, questions=[question], answers=given, options=options)
    key = ("ask", question, given, options)
    said: Said = only(await of_photos(server, opened, [image], key, run))[0]
    return said


def only(found: Sequence[Any]) -> Any:
    """What was found of the one image of a request. Raises RefusalError where that is an error."""
    first = found[0]
    if isinstance(first, (PatchwordError, RefusalError)):
        raise refusal_of(first, "image" if isinstance(first, ImageError) else None)
    return first
