"""The application: all endpoints behind the gate, and its error answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route

from patchword import api
from patchword.errors import PatchwordError, warn
from patchword.images import ImageLike, Opener
from patchword.images.photo import Photo
from patchword.serve import (
    chat,
    cohere_voyage,
    collection,
    exploring,
    hugging_face,
    inspection,
    jobs,
    localisation,
    metrics,
    openai,
    security,
)
from patchword.serve.decoding import Decoder
from patchword.serve.error_responses import RefusalError, refusal_of
from patchword.serve.fetching import fetch_image
from patchword.serve.inspection import Fitted
from patchword.serve.memory import trim_regularly
from patchword.serve.metrics import Metrics
from patchword.serve.middleware import Gate
from patchword.serve.models import Models
from patchword.serve.page import add_page
from patchword.serve.photos import Collection
from patchword.serve.queue import Observe
from patchword.serve.server import Answer, Server, router, server_of
from patchword.serve.settings import Settings

GROUPS = (
    openai.routes, chat.routes, cohere_voyage.routes, hugging_face.routes, jobs.routes,
    localisation.routes, inspection.routes, collection.routes, exploring.routes, metrics.routes,
)  # fmt: skip
ERROR_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_long"}
log = logging.getLogger("patchword.serve")
health_routes = router("health")


def create_app(settings: Settings) -> FastAPI:
    """The server's application. Raises IndexStoreError for an index that cannot be read."""
    counts = Metrics()
    server = make_server(settings, counts.of_model)
    counts.watch(lambda: server.admission.items, lambda: len(server.models.loaded()))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        background = [load_first_model(server), trim_regularly(lambda: counts.answered)]
        tasks = [asyncio.ensure_future(work) for work in background]
        async with run_tools() if run_tools else nullcontext():
            yield
        for task in tasks:
            task.cancel()
        await asyncio.to_thread(server.close)  # meanwhile, ended requests get their answers

    app = FastAPI(
        title="patchword",
        version=version("patchword"),
        summary="Images and texts in one space: models and photos for many clients.",
        lifespan=lifespan,
        docs_url=None,  # these pages would load scripts from other sites
        redoc_url=None,
    )
    run_tools = add_tools(app, server)
    app.state.server, app.state.metrics = server, counts
    app.state.fitted = Fitted()
    for group in (health_routes, *GROUPS):
        app.include_router(group)
    add_page(app)
    app.add_exception_handler(RefusalError, answer_refusal)
    app.add_exception_handler(PatchwordError, answer_patchword_error)
    app.add_exception_handler(RequestValidationError, answer_invalid_request)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_middleware(Gate, settings=server.settings, count=counts.request)
    return app


def add_tools(
    app: FastAPI, server: Server
) -> Callable[[], AbstractAsyncContextManager[None]] | None:
    """Serve the Model Context Protocol at /mcp. Returns the context in which it must run; None if
    its library is not installed, or, with a warning, if the library is too old or broken."""
    if find_spec("mcp") is None:
        return None
    from patchword.serve.mcp import limit_messages, tools_server

    try:
        tools = tools_server(server)
    except PatchwordError as error:
        warn(f"nothing is served at /mcp: {error}")
        return None
    from mcp.server.transport_security import TransportSecuritySettings

    no_checks = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # the gate checks
    protocol_app = tools.streamable_http_app(
        stateless_http=True, json_response=True, transport_security=no_checks,
        max_request_body_size=server.settings.max_bytes,
    )  # fmt: skip
    for route in protocol_app.routes:
        assert isinstance(route, Route)
        route.methods = {"POST"}  # by GET a client would wait for messages that never come
        route.app = limit_messages(route.app, server.settings.max_items)
    app.router.routes += protocol_app.routes
    return tools.session_manager.run


async def load_first_model(server: Server) -> None:
    """Load the first model before a request needs it."""
    try:
        await server.models.first()
    except RefusalError as error:
        log.error("%s", error)


def make_server(
    settings: Settings, observe: Callable[[str], Observe | None] = lambda name: None
) -> Server:
    """Models and photos as the settings say. observe: see `Models`."""
    photos, names, options = None, list(settings.models), {}
    if settings.index is not None:
        index = api.open_index(settings.index)
        photos = Collection(index, Opener(max_pixels=settings.max_pixels, urls=False))
        options[index.model_name] = index.options
        if index.model_name not in names:
            names.append(index.model_name)
    if not names:
        names = ["demo"]
    if not settings.models and names[0] == "demo":
        names.append("demo-blip")
    settings = replace(settings, models=tuple(dict.fromkeys(names)))
    models = Models(settings, options, observe)

    def indexed_photo(number: int) -> ImageLike:
        return collection.collection_of(server).image(number)

    fetch = partial(fetch_image, settings=settings) if settings.allow_urls else None
    decoder = Decoder(indexed_photo, fetch, settings.max_pixels)
    server = Server(settings, models, photos, decoder)
    return server


@health_routes.get("/ready", summary="Whether a model is open")
async def ready(request: Request) -> Answer:
    names = list(server_of(request).models.loaded())
    if not names:
        raise RefusalError(503, "loading", "no model is open yet", retry_after=1)
    answer: dict[str, Any] = {"ready": True}
    if may_know_names(request):
        answer["models"] = names
    return Answer(answer)


@health_routes.get("/health", summary="Whether the first model computes")
async def healthy(request: Request) -> Answer:
    server = server_of(request)
    try:
        name = await server.health_check(embed_black_image)
    except (PatchwordError, RefusalError) as error:
        if may_know_names(request):
            raise
        log.error("%s", error)
        raise RefusalError(503, "model", "the first model does not compute; see the log") from error
    answer: dict[str, Any] = {"healthy": True}
    if may_know_names(request):
        answer["model"] = name
    return Answer(answer)


async def embed_black_image(server: Server) -> str:
    """Let the first model compute. Returns its name."""
    loaded = await server.models.first()
    pixels, _ = loaded.model.preprocess.seen(Photo.whole(np.zeros((8, 8, 3), np.uint8)))
    await loaded.embed_pixels(pixels)
    return loaded.name


def may_know_names(request: Request) -> bool:
    """Whether the client shows the key, or none is needed: a model's name may be a path."""
    return security.shows_key(server_of(request).settings, request.headers)


async def answer_refusal(request: Request, error: Exception) -> Answer:
    assert isinstance(error, RefusalError)
    return Answer(error.body, error.status, error.headers)


async def answer_patchword_error(request: Request, error: Exception) -> Answer:
    assert isinstance(error, PatchwordError)
    return await answer_refusal(request, refusal_of(error))


async def answer_invalid_request(request: Request, error: Exception) -> Answer:
    """Names the first wrong field of a request, and in it the item. Of the types that a field may
    have, the error is of the one that fits farthest: of a list up to its wrong item."""
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    if errors[0]["loc"] == ("body",):
        refusal = RefusalError(400, "invalid_request", _not_an_object(request, errors[0]))
        return await answer_refusal(request, refusal)
    of_field = [each for each in errors if each["loc"][:2] == errors[0]["loc"][:2]]
    worst = max(of_field, key=_depth)
    field = ".".join(str(part) for part in _place(worst))
    message = f"{field}: {worst['msg']}" if field else worst["msg"]
    refusal = RefusalError(400, "invalid_request", message, field or None)
    return await answer_refusal(request, refusal)


def _not_an_object(request: Request, error: Mapping[str, Any]) -> str:
    """Why a body is not a JSON object."""
    if error["type"] == "missing":
        return "the body is empty; it must be a JSON object"
    if isinstance(error["input"], bytes):
        kind = request.headers.get("content-type") or "nothing"
        return f"the body must be JSON, and say so: Content-Type: application/json, not {kind[:80]}"
    return "the body must be a JSON object, { ... }"


def _place(error: Mapping[str, Any]) -> list[str | int]:
    """Fields and numbers of items that lead to an error, without the types of unions, which
    pydantic names too."""
    return [part for part in error["loc"][1:] if isinstance(part, int) or not _is_type_name(part)]


def _depth(error: Mapping[str, Any]) -> tuple[int, list[int]]:
    """How far a value fitted: how deep, and up to which items."""
    place = _place(error)
    return len(place), [part for part in place if isinstance(part, int)]


def _is_type_name(part: str) -> bool:
    return part in ("str", "int") or not part.isidentifier() or part[:1].isupper()


async def answer_http_error(request: Request, error: Exception) -> Answer:
    """An unknown address, a wrong method, or a body that `bodies` refuses."""
    assert isinstance(error, HTTPException)
    code = ERROR_CODES.get(error.status_code, "invalid_request")
    message = f"{request.method} {request.url.path}: {error.detail}"
    refusal = RefusalError(error.status_code, code, message)
    return Answer(refusal.body, refusal.status, {**(error.headers or {}), **refusal.headers})
