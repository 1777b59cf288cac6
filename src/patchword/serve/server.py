"""What all requests of a server share: its models, photos and threads, limits, and the form of
answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from patchword.bundle import Vector
from patchword.errors import PatchwordError
from patchword.scope import Check
from patchword.serve import bodies
from patchword.serve.decoding import Decoder
from patchword.serve.error_responses import RefusalError, item_error
from patchword.serve.models import ImageEmbedding, LoadedModel, Models
from patchword.serve.photos import Collection
from patchword.serve.queue import Admission
from patchword.serve.request_warnings import add_warnings, current_warnings
from patchword.serve.settings import Settings
from patchword.text import long_text as long_texts
from patchword.visible_area import Sights

T = TypeVar("T")
PROMPT_CHARACTERS = 10  # times max_characters: limit of the labels put into the templates
PROMPTS_PER_ITEM = 100  # times max_items: limit of the prompts; ImageNet's templates are 80
MAX_NAMES = 8  # fields that a warning names, and warnings in a header
MAX_WARNING = 400  # characters of a warning in a header

ItemError = PatchwordError | RefusalError


class Server:
    """Models, photos and threads of one server."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        collection: Collection | None,
        decoder: Decoder,
    ) -> None:
        self.settings = settings
        self.models = models
        self.collection = collection
        self.decoder = decoder
        self.admission = Admission(settings.waiting)
        self._health_check: asyncio.Future[str] | None = None

    def count_items(self, **lists: Sequence[Any]) -> int:
        """How many items the lists of a request have. Raises RefusalError for an empty list, and
        for more items than a request may have."""
        for name, values in lists.items():
            if not values:
                raise RefusalError(400, "empty", f"{name} must be a list of one or more", name)
        count = sum(map(len, lists.values()))
        if count > self.settings.max_items:
            names = " and ".join(lists)
            raise RefusalError(
                413, "too_many_items",
                f"{count} items in {names}; a request may have {self.settings.max_items}: send "
                "several requests", next(iter(lists)),
            )  # fmt: skip
        return count

    def check_texts(self, texts: Sequence[str], templates: Sequence[str] = ()) -> None:
        """Raise RefusalError for texts and templates of more characters than a request may have:
        each character takes microseconds before the tokenizer cuts the text. Prompts are each text
        in each template; they may have `PROMPT_CHARACTERS` times as many."""
        max_prompts = PROMPTS_PER_ITEM * self.settings.max_items
        if len(texts) * len(templates) > max_prompts:
            labels = f"{len(texts)} labels in {len(templates)} templates"
            message = f"{labels}; a request may have {max_prompts} prompts: send fewer"
            raise RefusalError(413, "too_many_items", message, "templates")
        text_length, template_length = sum(map(len, texts)), sum(map(len, templates))
        self.check_length(text_length + template_length, "characters of texts")
        gaps = sum(template.count("{}") for template in templates)
        prompt_length = text_length * gaps + template_length * len(texts)
        self.check_length(prompt_length, "characters of labels in templates", PROMPT_CHARACTERS)

    def check_length(self, count: int, unit: str, times: int = 1) -> None:
        """Raise RefusalError for more than `times` max_characters."""
        limit = times * self.settings.max_characters
        if count > limit:
            message = f"{count} {unit}; a request may have {limit}: send less"
            raise RefusalError(413, "too_long", message)

    async def image_vectors(
        self, loaded: LoadedModel, images: Sequence[Any], sights: Sights | None = None
    ) -> list[Vector | ItemError]:
        """The unit vector (D,) of each image, or its error; see `embed_images`."""
        results = await self.embed_images(loaded, images, sights)
        return [each.vector if isinstance(each, ImageEmbedding) else each for each in results]

    async def embed_images(
        self, loaded: LoadedModel, images: Sequence[Any], sights: Sights | None = None
    ) -> list[ImageEmbedding | ItemError]:
        """Each image's unit vector, or its error. Warns of images that are seen in part, and of
        images that are unlike the model's training. sights: notes how each image is seen."""
        sights = Sights() if sights is None else sights

        async def embed(number: int, image: Any) -> ImageEmbedding:
            pixels, sight = await self.decoder.pixels(image, loaded.model, f"image {number}")
            sights.note(sight)
            return await loaded.embed_pixels(pixels)

        results = await gather_results(
            embed(number, image) for number, image in enumerate(images, 1)
        )
        sights.tell()
        warn_of_scope(loaded, results)
        return results

    async def text_vectors(self, loaded: LoadedModel, texts: Sequence[str]) -> Vector:
        """Unit vectors (N, D) of texts. Warns of texts that are cut, and of unknown words."""
        self.check_texts(texts)

        def tokenize() -> list[list[int]]:
            Check(loaded.model.scope, loaded.model.name).texts(texts)
            rows = loaded.model.reader().rows(texts)
            long_texts.warn_of_long(loaded.model.reader(), rows)
            return rows

        return await loaded.embed_token_rows(await self.decoder.run(tokenize))

    async def health_check(self, check: Callable[[Server], Coroutine[Any, Any, str]]) -> str:
        """The result of `check`. Requests that come while it runs share it: they need no key."""
        if self._health_check is None or self._health_check.done():
            self._health_check = asyncio.ensure_future(check(self))
        return await asyncio.shield(self._health_check)

    def close(self) -> None:
        self.models.close()
        self.decoder.close()


def warn_of_scope(loaded: LoadedModel, results: Sequence[ImageEmbedding | ItemError]) -> None:
    """Warn of images that are unlike those of the model's training."""
    check = Check(loaded.model.scope, loaded.model.name)
    embeddings = {
        f"image {number}": result
        for number, result in enumerate(results, 1)
        if isinstance(result, ImageEmbedding)
    }
    for embedding in embeddings.values():
        check.judged(embedding.outside)
    for _ in check.each(embeddings.items()):  # warns at its end
        pass


async def gather_results(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The result of each coroutine, or its own error: a PatchwordError or a RefusalError. Raises
    any other error, and the refusals of a busy server, and cancels the rest."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]

    async def result_or_error(task: asyncio.Future[Any]) -> Any:
        try:
            return await task
        except PatchwordError as error:
            return error
        except RefusalError as error:
            if error.status in (429, 503):
                raise
            return error

    try:
        return await asyncio.gather(*map(result_or_error, tasks))
    finally:
        for task in tasks:
            task.cancel()


def item_records(
    results: Sequence[T | ItemError], record: Callable[[T], dict[str, Any]]
) -> list[dict[str, Any]]:
    """A record of each item of a list with its index, or of its error."""
    records = []
    for index, result in enumerate(results):
        if isinstance(result, (PatchwordError, RefusalError)):
            records.append(item_error(index, result))
        else:
            records.append({"index": index, **record(result)})
    return records


def error_records(results: Sequence[Any]) -> list[dict[str, Any]]:
    """The records of those items that have an error."""
    return [each for each in item_records(results, lambda _: {}) if "error" in each]


def with_warnings(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer and the warnings of its request, if any."""
    messages = current_warnings()
    return answer | {"warnings": list(messages)} if messages else answer


def with_warnings_header(answer: Response) -> Response:
    """An answer whose form has no place for warnings, with these in a header: a JSON list."""
    messages = current_warnings()
    if messages:
        shortened = [message[:MAX_WARNING] for message in messages[:MAX_NAMES]]
        answer.headers["x-warnings"] = json.dumps(shortened)
    return answer


def warn_of_unused_fields(body: BaseModel, expected: AbstractSet[str] = frozenset()) -> None:
    """Warn of unknown fields, except those that are expected, and those that are null: some clients
    send all fields that there are."""
    fields = {name for name, value in (body.model_extra or {}).items() if value is not None}
    warn_of_unused(fields - expected)


def warn_of_unused(names: AbstractSet[str]) -> None:
    """Warn of parts of a request that have no effect here."""
    if names:
        add_warnings([f"not used here: {', '.join(sorted(names)[:MAX_NAMES])}"])


class Answer(Response):
    """JSON in ASCII, so that no file name can break it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


async def large_answer(content: dict[str, Any]) -> Answer:
    """An answer of many numbers, written in a thread."""
    return await asyncio.to_thread(Answer, content)


class _Request(Request):
    """A request whose JSON is read by `bodies`."""

    async def json(self) -> Any:
        return await bodies.read(await self.body())


class Route(APIRoute):
    """A route that reads JSON by `bodies`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return handler


def router(tag: str) -> APIRouter:
    """A group of endpoints."""
    return APIRouter(route_class=Route, tags=[tag], default_response_class=Answer)


def server_of(request: Request) -> Server:
    """The server that a request came to."""
    server: Server = request.app.state.server
    return server
