"""Endpoints for whole images: labels, similarity, matches, captions, answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

from patchword import scope, visible_area
from patchword.bundle import Vector
from patchword.errors import ImageError, PatchwordError, UnsupportedError
from patchword.images.photo import RGB
from patchword.models.generate import BEAMS, GenerationOptions
from patchword.scope import ScopeReport
from patchword.serve.bodies import FailFastList
from patchword.serve.decoding import Image
from patchword.serve.error_responses import RefusalError, refusal_of
from patchword.serve.models import ImageEmbedding, LoadedModel
from patchword.serve.server import (
    Answer,
    ItemError,
    Server,
    error_records,
    gather_results,
    item_records,
    large_answer,
    router,
    server_of,
    with_warnings,
)
from patchword.tasks.ask import MAX_LENGTH as ANSWER_LENGTH
from patchword.tasks.ask import Answer as Reply
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
    """The model_config of a request that refuses unknown fields; values: its example in the
    documentation."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [values]})


class Body(BaseModel):
    model: str | None = Field(None, description="By default the first model that can do it.")


class Classify(Body):
    """Labels to choose from for each image."""

    model_config = example(images=[TINY], labels=["a scratched wafer", "a red circle"])
    images: FailFastList[Image]
    labels: FailFastList[str] | None = Field(None, description="None: the classes of a classifier.")
    templates: FailFastList[str] | str | None = None
    multi_label: StrictBool = False
    reject: StrictFloat | None = None


class Similarity(Body):
    """Images and texts to compare."""

    model_config = example(images=[TINY], texts=["a red circle"])
    images: FailFastList[Image]
    texts: FailFastList[str]


class MatchBody(Body):
    """Images and texts that may belong together."""

    model_config = example(images=[TINY], texts=["a red circle"])
    images: FailFastList[Image]
    texts: FailFastList[str]


class CaptionBody(Body):
    """Images to describe."""

    model_config = example(images=[TINY])
    images: FailFastList[Image]
    n: StrictInt = Field(1, ge=1, le=10, description="Captions of each image.")


class Ask(Body):
    """A question about an image."""

    model_config = example(image=TINY, question="is there a red circle?")
    image: Image
    question: str
    answers: FailFastList[str] | None = Field(None, description="To choose from.")


@dataclass(frozen=True)
class Labels:
    """Labels that images are compared with: what scores an image, and their vectors (L, D)."""

    names: tuple[str, ...]
    score: Scorer
    vectors: Vector

    def record(self, image: ImageEmbedding) -> dict[str, Any]:
        """The scores of an image as JSON."""
        cosines = dict(zip(self.names, (self.vectors @ image.vector).tolist(), strict=True))
        record = scores_record(self.score(*image), cosines)
        return record | {"outside": True} if image.outside else record


@routes.post("/v1/classify", summary="Which of several labels fits each image")
async def classify(request: Request, body: Classify) -> Answer:
    server = server_of(request)
    lists: dict[str, Sequence[Any]] = {"images": body.images}
    if body.labels is not None:
        lists["labels"] = body.labels
    count = server.count_items(**lists)
    loaded = await server.models.get(body.model, "classify")
    with server.admission.admit(count):
        if body.labels is None:
            refuse_label_options(body)
            scores = await classes_of_images(server, loaded, body.images)
            if isinstance(scores[0], UnsupportedError):  # the model has no classes
                raise refusal_of(scores[0], "labels")
            return Answer(with_warnings({"data": item_records(scores, scores_record)}))
        labels = await embed_labels(
            server, loaded, body.labels, body.templates, body.multi_label, body.reject
        )
        embeddings = await server.embed_images(loaded, body.images)
        return Answer(with_warnings({"data": item_records(embeddings, labels.record)}))


def refuse_label_options(body: Classify) -> None:
    """Raise RefusalError for options of labels in a request without labels."""
    for name in ("templates", "multi_label", "reject"):
        if getattr(body, name) not in (None, False):
            message = f"{name} is of labels, and none are given: a classifier's own are as they are"
            raise RefusalError(400, "unsupported", message, name)


async def embed_labels(
    server: Server,
    loaded: LoadedModel,
    labels: Sequence[str],
    templates: str | Sequence[str] | None = None,
    multi_label: bool = False,
    reject: float | None = None,
) -> Labels:
    """The labels of a request, embedded; see `tasks.classify`."""
    names = tuple(labels)
    if templates is not None and not isinstance(templates, str):
        templates = tuple(templates)
    sentences = resolve_templates(templates)
    server.check_texts(names, sentences)
    model = loaded.model

    def make() -> Labels:
        score = scorer(model, names, templates, multi_label, reject)
        return Labels(names, score, label_features(model, names, sentences))

    return await loaded.cached((names, templates, multi_label, reject), make)


def scores_record(
    scores: Sequence[Score], cosines: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Labels, the best first, and whether all of them are rejected."""
    cosines = cosines or {}
    labels = []
    for score in scores:
        record: dict[str, Any] = {"label": score.label, "probability": score.probability}
        if score.label in cosines:
            record["cosine"] = cosines[score.label]
        labels.append(record)
    rejected = bool(scores) and scores[0].label == NONE and NONE not in cosines
    return {"labels": labels, "rejected": rejected}


async def classes_of_images(
    server: Server, loaded: LoadedModel, images: Sequence[Any]
) -> list[list[Score] | ItemError]:
    """The scores of a classifier's own classes for each image."""
    run = partial(classify_each, loaded.model)
    return await run_on_photos(server, loaded, images, "classes", run)


async def run_on_photos(
    server: Server,
    loaded: LoadedModel,
    images: Sequence[Any],
    key: Hashable,
    run: Callable[[list[RGB]], Iterable[tuple[object, Any]]],
) -> list[Any]:
    """The results, or errors, of a task for each image of a request.

    Requests with the same key are run together, unless the model has a scope: its warnings name
    images by their places in the request.
    """
    model, report, sights = loaded.model, ScopeReport(), Sights()

    def run_batch(name: str, photos: list[RGB]) -> list[Any]:
        report.called = name
        with scope.noted(report), visible_area.untold():
            return [result for _, result in run(photos)]

    async def run_on_photo(number: int, image: Any) -> Any:
        name = f"image {number}"
        async with server.decoder.photo_in_memory(image, model, name) as photo:
            sights.note(await server.decoder.sight(photo, model, name))
            batch_key = key if model.scope is None else object()
            return await loaded.queue.run(batch_key, partial(run_batch, name), photo)

    results = await gather_results(
        run_on_photo(number, image) for number, image in enumerate(images, 1)
    )
    sights.tell()
    report.tell()
    return results


@routes.post("/v1/similarity", summary="The cosine of each image with each text")
async def similarity(request: Request, body: Similarity) -> Answer:
    server = server_of(request)
    count = server.count_items(images=body.images, texts=body.texts)
    loaded = await server.models.get(body.model, "similarity")
    with server.admission.admit(count):
        texts = await server.text_vectors(loaded, body.texts)
        images = await server.image_vectors(loaded, body.images)
    cosines = [None if isinstance(row, Exception) else (texts @ row).tolist() for row in images]
    answer = {"cosines": cosines, "data": error_records(images)}
    return await large_answer(with_warnings(answer))


@routes.post("/v1/match", summary="How probable it is that each image and text belong together")
async def match(request: Request, body: MatchBody) -> Answer:
    server = server_of(request)
    count = server.count_items(images=body.images, texts=body.texts)
    loaded = await server.models.get(body.model, "match")
    texts = list(body.texts)
    server.check_texts(texts)
    run = partial(match_each, loaded.model, texts=texts)
    with server.admission.admit(count):
        matches = await run_on_photos(server, loaded, body.images, ("match", *texts), run)
    return Answer(with_warnings({"data": item_records(matches, match_record)}))


def match_record(result: Match) -> dict[str, Any]:
    cosines = [None if math.isnan(value) else value for value in result.cosines.tolist()]
    return {"probabilities": result.probabilities.tolist(), "cosines": cosines}


@routes.post("/v1/caption", summary="A description of each image")
async def caption(request: Request, body: CaptionBody) -> Answer:
    server = server_of(request)
    count = server.count_items(images=body.images)
    loaded = await server.models.get(body.model, "caption")
    with server.admission.admit(count):
        results = await write_captions(server, loaded, body.images, body.n)
    return Answer(with_warnings({"data": item_records(results, caption_record)}))


async def write_captions(
    server: Server, loaded: LoadedModel, images: Sequence[Any], count: int = 1, **sampling: Any
) -> list[Caption | ItemError]:
    """Captions of each image. sampling: temperature, top_p and seed of `GenerationOptions`."""
    length = default_length(loaded.model, MAX_LENGTH)
    beams = None if sampling or count <= BEAMS else count
    options = GenerationOptions(beams=beams, max_length=length, count=count, **sampling)
    run = partial(caption_each, loaded.model, options=options)
    return await run_on_photos(server, loaded, images, ("caption", options), run)


def caption_record(best: Caption) -> dict[str, Any]:
    captions = [{"caption": best.text, "score": best.log_probability}]
    captions += [{"caption": each.text, "score": each.log_probability} for each in best.others]
    return captions[0] | {"captions": captions} if best.others else captions[0]


@routes.post("/v1/ask", summary="The answer to a question about an image")
async def ask(request: Request, body: Ask) -> Answer:
    server = server_of(request)
    loaded = await server.models.get(body.model, "ask")
    count = 1 if body.answers is None else server.count_items(answers=body.answers)
    with server.admission.admit(count):
        reply = await answer_question(server, loaded, body.image, body.question, body.answers)
    record: dict[str, Any] = {"answer": reply.text, "probability": reply.probability}
    if reply.declined:
        record["declined"] = reply.declined
    if reply.ranking:
        record["answers"] = [
            {"answer": choice.text, "probability": choice.probability} for choice in reply.ranking
        ]
        record["probability"] = reply.ranking[0].probability
    if reply.understood:
        record["understood"] = reply.understood
    return Answer(with_warnings(record))


async def answer_question(
    server: Server,
    loaded: LoadedModel,
    image: Any,
    question: str,
    answers: Sequence[str] | None = None,
    **sampling: Any,
) -> Reply:
    """The answer to a question about one image. sampling: as for `write_captions`. Raises
    RefusalError."""
    choices = None if answers is None else tuple(answers)
    server.check_texts([question, *(choices or ())])
    length = default_length(loaded.model, ANSWER_LENGTH)
    options = GenerationOptions(max_length=length, **sampling) if sampling else None
    run = partial(ask_each, loaded.model, questions=[question], answers=choices, options=options)
    key = ("ask", question, choices, options)
    replies = single_result(await run_on_photos(server, loaded, [image], key, run))
    reply: Reply = replies[0]
    return reply


def single_result(results: Sequence[Any]) -> Any:
    """The result for the one image of a request. Raises its error as RefusalError."""
    result = results[0]
    if isinstance(result, (PatchwordError, RefusalError)):
        raise refusal_of(result, "image" if isinstance(result, ImageError) else None)
    return result
