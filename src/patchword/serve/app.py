"""The application: every endpoint, behind the gate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from patchword import api
from patchword.errors import PatchwordError
from patchword.images import Opener
from patchword.serve import collection, jobs, openai, places
from patchword.serve.decoding import Decoder
from patchword.serve.gate import Gate
from patchword.serve.models import Models
from patchword.serve.photos import Collection
from patchword.serve.refusals import RefusalError, refusal_of
from patchword.serve.server import Answer, Server, router, server_of
from patchword.serve.settings import Settings

GROUPS = (openai.routes, jobs.routes, places.routes, collection.routes)
log = logging.getLogger("patchword.serve")
health = router("health")


def create_app(settings: Settings) -> FastAPI:
    """The server's application. Raises IndexStoreError for an index that cannot be read."""
    server = make_server(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opening = asyncio.ensure_future(open_first(server))
        yield
        opening.cancel()
        server.close()

    app = FastAPI(
        title="patchword",
        version=version("patchword"),
        summary="Images and texts in one space: models and photos for many clients.",
        lifespan=lifespan,
        docs_url=None,  # which would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.server = server
    for group in (health, *GROUPS):
        app.include_router(group)
    app.add_exception_handler(RefusalError, refused)
    app.add_exception_handler(PatchwordError, raised)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unknown)
    app.add_exception_handler(Exception, broken)
    app.add_middleware(Gate, settings=server.settings)
    return app


async def open_first(server: Server) -> None:
    """Open the first model before it is asked for."""
    try:
        await server.models.first()
    except RefusalError as error:
        log.error("%s", error)


def make_server(settings: Settings) -> Server:
    """Models and photos as the settings say."""
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
    models = Models(settings, options)

    def path_of(number: int) -> str:
        return collection.of(server).path_of(number)

    server = Server(settings, models, photos, Decoder(path_of, None))
    return server


@health.get("/ready", summary="Whether a model is open")
async def ready(request: Request) -> Answer:
    server = server_of(request)
    opened = list(server.models.opened())
    if not opened:
        raise RefusalError(503, "loading", "no model is open yet", retry_after=1)
    return Answer({"ready": True, "models": opened})


@health.get("/health", summary="Whether the first model computes")
async def healthy(request: Request) -> Answer:
    server = server_of(request)
    opened = await server.models.first()
    preprocess = opened.model.preprocess
    pixels, _ = preprocess(np.zeros((8, 8, 3), np.uint8))
    row = await opened.image_vector(pixels)
    if not np.isfinite(row).all():
        raise RefusalError(503, "model", f"{opened.name} computes what is no number")
    return Answer({"healthy": True, "model": opened.name})


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
    where = ".".join(str(part) for part in first["loc"][1:] if not _kind(part))
    message = first["msg"] if first["type"] != "json_invalid" else "the body is not JSON"
    said = f"{where}: {message}" if where else message
    return await refused(request, RefusalError(400, "invalid_request", said, where or None))


def _kind(part: Any) -> bool:
    """Whether a part of a place names one of several types that a value may have, not a field."""
    return isinstance(part, str) and (part in ("str", "int") or not part.isidentifier())


async def unknown(request: Request, error: Exception) -> Answer:
    """No such address, or not by this method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    message = f"{request.method} {request.url.path}: {error.detail}"
    return await refused(request, RefusalError(error.status_code, code, message))


async def broken(request: Request, error: Exception) -> Answer:
    """A fault of ours: what it was stands in the log, by the request's number."""
    number = request.scope.get("state", {}).get("request_id", "")
    log.error("%s failed: %s", number, type(error).__name__, exc_info=error)
    message = f"the server failed; its log says more of request {number}"
    return await refused(request, RefusalError(500, "internal", message))
