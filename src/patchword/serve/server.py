"""What all requests of a server share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
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
from patchword.serve.error_responses import RefusalError, item
from patchword.serve.models import Embedded, Models, Opened
from patchword.serve.photos import Collection
from patchword.serve.queue import Admission
from patchword.serve.request_warnings import said, say
from patchword.serve.settings import Settings
from patchword.text import long_text as long_texts
from patchword.visible_area import Sights

T = TypeVar("T")
PROMPTS = 10  # times the characters of a request: what templates make of them
PROMPTS_OF_ITEM = 100  # times the items of a request; ImageNet's templates are 80
NAMED = 8  # fields that a warning names, and warnings in a header,
LONGEST = 400  # of so many characters each

Failed = PatchwordError | RefusalError


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
        self._pulse: asyncio.Future[str] | None = None

    def checked(self, **lists: Sequence[Any]) -> int:
        """How many items the lists of a request have. Raises RefusalError for an empty one,
        and where they are more than a request may have."""
        for name, items in lists.items():
            if not items:
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

    def readable(self, texts: Sequence[str], templates: Sequence[str] = ()) -> None:
        """Raise RefusalError for texts and templates of more characters than a request may have:
        each takes microseconds of a core before a model cuts the text. Prompts, which are each text
        in each template, may have `PROMPTS` times as many."""
        most = PROMPTS_OF_ITEM * self.settings.max_items
        if len(texts) * len(templates) > most:
            labels = f"{len(texts)} labels in {len(templates)} templates"
            message = f"{labels}; a request may have {most} prompts: send fewer"
            raise RefusalError(413, "too_many_items", message, "templates")
        own, around = sum(map(len, texts)), sum(map(len, templates))
        self.short(own + around, "characters of texts")
        places = sum(template.count("{}") for template in templates)
        prompts = own * places + around * len(texts)
        self.short(prompts, "characters of labels in templates", PROMPTS)

    def short(self, count: int, what: str, times: int = 1) -> None:
        """Raise RefusalError for more than a request may have: `times` max_characters."""
        most = times * self.settings.max_characters
        if count > most:
            said = f"{count} {what}; a request may have {most}: send less"
            raise RefusalError(413, "too_long", said)

    async def image_rows(
        self, opened: Opened, images: Sequence[Any], sights: Sights | None = None
    ) -> list[Vector | Failed]:
        """The unit vector (D,) of each image, or why it has none; see `embedded`."""
        found = await self.embedded(opened, images, sights)
        return [one.vector if isinstance(one, Embedded) else one for one in found]

    async def embedded(
        self, opened: Opened, images: Sequence[Any], sights: Sights | None = None
    ) -> list[Embedded | Failed]:
        """Each image's unit vector, or why it has none. What of them is not seen, and which are
        unlike the model's training, is warned of. sights: where it is noted how each is seen."""
        noted = Sights() if sights is None else sights

        async def row(number: int, given: Any) -> Embedded:
            pixels, sight = await self.decoder.pixels(given, opened.model, f"image {number}")
            noted.note(sight)
            return await opened.image_vector(pixels)

        found = await each(row(number, given) for number, given in enumerate(images, 1))
        noted.tell()
        warn_of_scope(opened, found)
        return found

    async def text_rows(self, opened: Opened, texts: Sequence[str]) -> Vector:
        """Unit vectors (N, D) of texts. What of them is cut or unknown is warned of."""
        self.readable(texts)
        model = opened.model

        def read() -> list[list[int]]:
            Check(model.scope, model.name).texts(texts)
            rows = model.reader().rows(texts)
            long_texts.warn_of_long(model.reader(), rows)
            return rows

        return await opened.text_vectors(await self.decoder.run(read))

    async def pulse(self, look: Callable[[Server], Coroutine[Any, Any, str]]) -> str:
        """What `look` finds, done once for all who ask meanwhile: they need no key."""
        if self._pulse is None or self._pulse.done():
            self._pulse = asyncio.ensure_future(look(self))
        return await asyncio.shield(self._pulse)

    def close(self) -> None:
        self.models.close()
        self.decoder.close()


def warn_of_scope(opened: Opened, found: Sequence[Embedded | Failed]) -> None:
    """Warn of images that are unlike those of a model's training."""
    check = Check(opened.model.scope, opened.model.name)
    good = {f"image {n}": one for n, one in enumerate(found, 1) if isinstance(one, Embedded)}
    for one in good.values():
        check.judged(one.outside)
    for _ in check.each(good.items()):
        pass


async def each(work: Any) -> list[Any]:
    """What each of several pieces of work gives, done at once, or the error that is its own. Any
    other error is raised, and the rest is not done."""
    tasks = [asyncio.ensure_future(one) for one in work]

    async def own(task: asyncio.Future[Any]) -> Any:
        try:
            return await task
        except PatchwordError as error:
            return error
        except RefusalError as error:
            if error.status in (429, 503):
                raise
            return error

    try:
        return await asyncio.gather(*map(own, tasks))
    finally:
        for task in tasks:
            task.cancel()


def items(found: Sequence[T | Failed], told: Callable[[T], dict[str, Any]]) -> list[dict[str, Any]]:
    """A record of each item of a list by its number, or of its error."""
    return [
        item(number, one)
        if isinstance(one, (PatchwordError, RefusalError))
        else {"index": number, **told(one)}
        for number, one in enumerate(found)
    ]


def with_warnings(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer and the warnings of its request, if any."""
    return answer | ({"warnings": list(said())} if said() else {})


def say_unused(body: BaseModel, silent: AbstractSet[str] = frozenset()) -> None:
    """Name, in the warnings of a request, its fields that mean nothing here, but those that are
    null: some clients send all that there are."""
    given = {name for name, value in (body.model_extra or {}).items() if value is not None}
    say_ignored(given - silent)


def say_ignored(names: AbstractSet[str]) -> None:
    """The same of these."""
    if names:
        say([f"not used here: {', '.join(sorted(names)[:NAMED])}"])


def warned(answer: Response) -> Response:
    """An answer that has no place for the warnings of its request, with these in a header: a list
    in JSON."""
    if said():
        answer.headers["x-warnings"] = json.dumps([each[:LONGEST] for each in said()[:NAMED]])
    return answer


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
    """A route of ours."""

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
