"""The application: every endpoint, behind the gate."""

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
from patchword.serve.fetching import fetched
from patchword.serve.inspection import Fitted
from patchword.serve.memory import tidy
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
log = logging.getLogger("patchword.serve")
health = router("health")


def create_app(settings: Settings) -> FastAPI:
    """The server's application. Raises IndexStoreError for an index that cannot be read."""
    counts = Metrics()
    server = make_server(settings, counts.of_model)
    counts.watch(lambda: server.admission.items, lambda: len(server.models.opened()))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        beside = [open_first(server), tidy(lambda: counts.answered)]
        tasks = [asyncio.ensure_future(work) for work in beside]
        async with tools() if tools else nullcontext():
            yield
        for task in tasks:
            task.cancel()
        await asyncio.to_thread(server.close)  # meanwhile requests that were ended are answered

    app = FastAPI(
        title="patchword",
        version=version("patchword"),
        summary="Images and texts in one space: models and photos for many clients.",
        lifespan=lifespan,
        docs_url=None,  # which would load scripts from elsewhere
        redoc_url=None,
    )
    tools = add_tools(app, server)
    app.state.server, app.state.metrics = server, counts
    app.state.fitted = Fitted()
    for group in (health, *GROUPS):
        app.include_router(group)
    add_page(app)
    app.add_exception_handler(RefusalError, refused)
    app.add_exception_handler(PatchwordError, raised)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unknown)
    app.add_middleware(Gate, settings=server.settings, count=counts.request)
    return app


def add_tools(
    app: FastAPI, server: Server
) -> Callable[[], AbstractAsyncContextManager[None]] | None:
    """Answer the Model Context Protocol at /mcp, where its library is installed; what it needs to
    run. One that is too old or broken is warned of."""
    if find_spec("mcp") is None:
        return None
    from patchword.serve.mcp import bounded, tools_server

    try:
        tools = tools_server(server)
    except PatchwordError as error:
        warn(f"nothing is served at /mcp: {error}")
        return None
    from mcp.server.transport_security import TransportSecuritySettings

    unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # the gate does
    inner = tools.streamable_http_app(
        stateless_http=True, json_response=True, transport_security=unchecked,
        max_request_body_size=server.settings.max_bytes,
    )  # fmt: skip
    for route in inner.routes:
        assert isinstance(route, Route)
        route.methods = {"POST"}  # by GET a client would wait for messages that never come
        route.app = bounded(route.app, server.settings.max_items)
    app.router.routes += inner.routes
    return tools.session_manager.run


async def open_first(server: Server) -> None:
    """Open the first model before it is asked for."""
    try:
        await server.models.first()
    except RefusalError as error:
        log.error("%s", error)


def make_server(
    settings: Settings, observe: Callable[[str], Observe | None] = lambda name: None
) -> Server:
    """Models and photos as the settings say. observe: what hears of the batches of a model."""
    photos, names, options = None, list(settings.models), {}
    if settings.index is not None:
        index = api.open_index(settings.index)
        photos = Collection(index, Opener(max_pixels=settings.max_pixels, urls=False))
        options[index.model_name] = index.options
        names += [] if index.model_name in names else [index.model_name]
    names = names or ["demo"]
    if not settings.models and names[0] == "demo":
        names.append("demo-blip")
    settings = replace(settings, models=tuple(dict.fromkeys(names)))
    models = Models(settings, options, observe)

    def photo(number: int) -> ImageLike:
        return collection.of(server).content_of(number)

    fetch = partial(fetched, settings=settings) if settings.allow_urls else None
    server = Server(settings, models, photos, Decoder(photo, fetch, settings.max_pixels))
    return server


@health.get("/ready", summary="Whether a model is open")
async def ready(request: Request) -> Answer:
    server = server_of(request)
    opened = list(server.models.opened())
    if not opened:
        raise RefusalError(503, "loading", "no model is open yet", retry_after=1)
    return Answer({"ready": True} | ({"models": opened} if known(request) else {}))


@health.get("/health", summary="Whether the first model computes")
async def healthy(request: Request) -> Answer:
    server = server_of(request)
    try:
        name = await server.pulse(computes)
    except (PatchwordError, RefusalError) as error:
        if known(request):
            raise
        log.error("%s", error)
        raise RefusalError(503, "model", "the first model does not compute; see the log") from error
    return Answer({"healthy": True} | ({"model": name} if known(request) else {}))


async def computes(server: Server) -> str:
    """Let the first model compute. Returns its name."""
    opened = await server.models.first()
    preprocess = opened.model.preprocess
    pixels, _ = preprocess.seen(Photo.whole(np.zeros((8, 8, 3), np.uint8)))
    await opened.image_vector(pixels)
    return opened.name


def known(request: Request) -> bool:
    """Whether names may be told to who asks: that of a model may be a path."""
    return security.shows_key(server_of(request).settings, request.headers)


async def refused(request: Request, error: Exception) -> Answer:
    assert isinstance(error, RefusalError)
    return Answer(error.body, error.status, error.headers)


async def raised(request: Request, error: Exception) -> Answer:
    assert isinstance(error, PatchwordError)
    return await refused(request, refusal_of(error))


async def invalid(request: Request, error: Exception) -> Answer:
    """A request of the wrong form: the first thing that is wrong with it, and where."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["loc"] == ("body",):
        return await refused(
            request, RefusalError(400, "invalid_request", _no_object(request, first))
        )
    where = ".".join(str(part) for part in first["loc"][1:] if not _kind(part))
    message = first["msg"]
    said = f"{where}: {message}" if where else message
    return await refused(request, RefusalError(400, "invalid_request", said, where or None))


def _no_object(request: Request, error: Mapping[str, Any]) -> str:
    """Why a body is not the object that it must be."""
    if error["type"] == "missing":
        return "the body is empty; it must be a JSON object"
    if isinstance(error["input"], bytes):
        kind = request.headers.get("content-type") or "nothing"
        return f"the body must be JSON, and say so: Content-Type: application/json, not {kind[:80]}"
    return "the body must be a JSON object, { ... }"


def _kind(part: Any) -> bool:
    """Whether a part of a place names one of several types that a value may have, not a field."""
    return isinstance(part, str) and (part in ("str", "int") or not part.isidentifier())


async def unknown(request: Request, error: Exception) -> Answer:
    """No such address, or not by this method."""
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 413: "too_long"}
    code = codes.get(error.status_code, "invalid_request")
    message = f"{request.method} {request.url.path}: {error.detail}"
    refusal = RefusalError(error.status_code, code, message)
    return Answer(refusal.body, refusal.status, {**(error.headers or {}), **refusal.headers})
