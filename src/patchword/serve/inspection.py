"""Defects, from photos of good products."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from fastapi import Request
from pydantic import Field

from patchword.api.inspecting import inspector
from patchword.inspect.calibration import changed
from patchword.inspect.inspector import Inspector, on_one_scale
from patchword.inspect.result import Inspection
from patchword.serve.bodies import Number, Several
from patchword.serve.decoding import Image
from patchword.serve.error_responses import RefusalError, refusal_of
from patchword.serve.jobs import TINY, Body, example
from patchword.serve.localisation import data_uri, png
from patchword.serve.models import Opened
from patchword.serve.queue import steps
from patchword.serve.server import (
    Answer,
    Server,
    each,
    items,
    large_answer,
    router,
    server_of,
    with_warnings,
)

KEPT = 8  # inspectors; those that were not used for longest are forgotten
SIDE = 512  # of a picture of what was found, pixels

routes = router("inspect")


class Inspect(Body):
    """Photos of good products, none for winclip and mutual, or what was fitted before; and photos
    to judge."""

    model_config = example(good=[TINY, TINY, TINY, TINY], images=[TINY])
    good: Several[Image] | None = None
    fitted: str | None = Field(None, description="As an earlier answer gave it, instead of good.")
    images: Several[Image] = Field(description="With fitted also none: only what its rate tells.")
    method: Literal["memory", "subspace", "winclip", "mutual", "reference"] = "memory"
    false_alarms: Number = Field(
        0.05, gt=0, lt=1, description="Share of good photos, at most; with fitted as it was."
    )


class Fitted:
    """The inspectors that a server keeps, by their names."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Opened, Inspector]] = OrderedDict()

    def keep(self, opened: Opened, inspector: Inspector) -> str:
        """The name that it gets."""
        name = secrets.token_hex(8)
        self._known[name] = (opened, inspector)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return name

    def find(self, name: str) -> tuple[Opened, Inspector]:
        """The one of that name. Raises RefusalError where there is none, and where its model was
        closed, for which it is forgotten."""
        closed = [one for one, (opened, _) in self._known.items() if opened.queue.closed]
        for one in closed:
            del self._known[one]
        if name not in self._known:
            message = f"nothing fitted is called {name!r} (any more): send the good photos again"
            raise RefusalError(404, "not_fitted", message, "fitted")
        self._known.move_to_end(name)
        return self._known[name]


@routes.post("/v1/inspect", summary="Which photos differ from good ones, and where")
async def inspect(request: Request, body: Inspect) -> Answer:
    server = server_of(request)
    fitted: Fitted = request.app.state.fitted
    if (body.good is None) == (body.fitted is None):
        message = "give good photos, [] for winclip and mutual, or fitted"
        raise RefusalError(400, "empty", message, "good")
    lists = {"good": body.good} if body.good else {}
    lists |= {"images": body.images} if body.images or body.fitted is None else {}
    with server.admission.of(server.checked(**lists)):
        if body.good is not None:
            opened = await server.models.get(body.model, "inspect")
            bad, inspector = await fit(server, opened, body.good, body)
            name = fitted.keep(opened, inspector)
        else:
            name, bad = str(body.fitted), []
            opened, inspector = fitted.find(name)
            same(body, opened, inspector)
        rate = body.false_alarms if "false_alarms" in body.model_fields_set else None
        rule = changed(inspector.rule, {} if rate is None else {"false_alarms": rate})
        judge = replace(inspector, rule=rule)
        found = await photos_of(server, opened, body.images)
        said = await judged(opened, judge, found)
        data = await server.decoder.run(lambda: items(said, told))
    limits = [each.limit for each in judge.judges().values()]
    answer = {
        "fitted": name,
        "threshold": limits[0] if limits and limits[0] != float("inf") else None,
        "note": " ".join(judge.guarantee()),
        "data": data,
    }
    return await large_answer(with_warnings(answer | ({"good": bad} if bad else {})))


def same(body: Inspect, opened: Opened, inspector: Inspector) -> None:
    """Raise RefusalError for another model or method than what was fitted has."""
    has = {"model": opened.name, "method": inspector.method.name}
    for name in body.model_fields_set & set(has):
        if (given := getattr(body, name)) not in (None, has[name]):
            message = f"{body.fitted} has the {name} {has[name]}, not {given}: send the good photos"
            raise RefusalError(400, "fitted", message, name)


async def photos_of(
    server: Server, opened: Opened, images: Sequence[Any], called: str = "image"
) -> list[Any]:
    """Each image as `images.open` takes it, or why it cannot be opened. All of them are needed at
    once, and their pixels would not fit into memory. called: what each is, before its number."""
    photo = server.decoder.openable
    return await each(photo(one, opened.model, f"{called} {n}") for n, one in enumerate(images, 1))


async def fit(
    server: Server, opened: Opened, good: Sequence[Any], body: Inspect
) -> tuple[list[dict[str, Any]], Inspector]:
    """What has learned from good photos, if any, and the errors of those that cannot be opened."""
    photos = await photos_of(server, opened, good, "good photo")
    kept = [photo for photo in photos if not isinstance(photo, Exception)]
    if photos and not kept:
        raise refusal_of(photos[0], "good")
    bad = [one for one in items(photos, lambda _: {}) if "error" in one]
    method, rate, step = body.method, body.false_alarms, steps()
    made = await opened.queue.call(
        lambda: inspector(opened.model, kept, method, rate, progress=step)
    )
    return bad, made


async def judged(opened: Opened, inspector: Inspector, photos: Sequence[Any]) -> list[Any]:
    """What is said of each photo that could be opened, and the errors of the others."""
    kept = [photo for photo in photos if not isinstance(photo, Exception)]
    found = iter(await opened.queue.call(lambda: on_one_scale(inspector.inspect(kept))))
    return [photo if isinstance(photo, Exception) else next(found) for photo in photos]


def told(found: Inspection) -> dict[str, Any]:
    record = found.record()
    del record["path"]
    return record | {"map": data_uri(png(found.overlay(SIDE)))}
