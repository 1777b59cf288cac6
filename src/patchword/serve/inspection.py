"""The endpoint that finds defects, given photos of good products."""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from fastapi import Request
from pydantic import Field, StrictFloat

from patchword.api.inspecting import inspector
from patchword.inspect.calibration import changed
from patchword.inspect.inspector import Inspector, on_one_scale
from patchword.inspect.result import Inspection
from patchword.serve.bodies import FailFastList
from patchword.serve.decoding import Image
from patchword.serve.error_responses import RefusalError, refusal_of
from patchword.serve.jobs import TINY, Body, example
from patchword.serve.localisation import data_uri, png
from patchword.serve.models import LoadedModel
from patchword.serve.queue import deadline_progress
from patchword.serve.server import (
    Answer,
    Server,
    error_records,
    gather_results,
    item_records,
    large_answer,
    router,
    server_of,
    with_warnings,
)

MAX_INSPECTORS = 8  # the least recently used are forgotten
PICTURE_SIDE = 512  # of the map over a photo, pixels

routes = router("inspect")


class Inspect(Body):
    """Photos of good products, none for winclip and mutual, or what was fitted before; and photos
    to judge."""

    model_config = example(good=[TINY, TINY, TINY, TINY], images=[TINY])
    good: FailFastList[Image] | None = None
    fitted: str | None = Field(None, description="As an earlier answer gave it, instead of good.")
    images: FailFastList[Image] = Field(
        description="With fitted also none: only what its rate tells."
    )
    method: Literal["memory", "subspace", "winclip", "mutual", "reference"] = "memory"
    false_alarms: StrictFloat = Field(
        0.05, gt=0, lt=1, description="Share of good photos, at most; with fitted as it was."
    )


class Fitted:
    """The inspectors that a server keeps, by name."""

    def __init__(self) -> None:
        self._inspectors: OrderedDict[str, tuple[LoadedModel, Inspector]] = OrderedDict()

    def add(self, loaded: LoadedModel, inspector: Inspector) -> str:
        """Keep an inspector. Returns its new name."""
        name = secrets.token_hex(8)
        self._inspectors[name] = (loaded, inspector)
        while len(self._inspectors) > MAX_INSPECTORS:
            self._inspectors.popitem(last=False)
        return name

    def find(self, name: str) -> tuple[LoadedModel, Inspector]:
        """The inspector of that name. Raises RefusalError for an unknown name, and where its model
        was closed since."""
        for other, (loaded, _) in list(self._inspectors.items()):
            if loaded.queue.closed:
                del self._inspectors[other]
        if name not in self._inspectors:
            message = f"nothing fitted is called {name!r} (any more): send the good photos again"
            raise RefusalError(404, "not_fitted", message, "fitted")
        self._inspectors.move_to_end(name)
        return self._inspectors[name]


@routes.post("/v1/inspect", summary="Which photos differ from good ones, and where")
async def inspect(request: Request, body: Inspect) -> Answer:
    server = server_of(request)
    fitted: Fitted = request.app.state.fitted
    if (body.good is None) == (body.fitted is None):
        message = "give good photos, [] for winclip and mutual, or fitted"
        raise RefusalError(400, "empty", message, "good")
    lists = {}
    if body.good:
        lists["good"] = body.good
    if body.images or body.fitted is None:
        lists["images"] = body.images
    with server.admission.admit(server.count_items(**lists)):
        bad_photos: list[dict[str, Any]] = []
        if body.good is not None:
            loaded = await server.models.get(body.model, "inspect")
            bad_photos, inspector = await fit(server, loaded, body.good, body)
            name = fitted.add(loaded, inspector)
        else:
            name = str(body.fitted)
            loaded, inspector = fitted.find(name)
            check_fitted(body, loaded, inspector)
        options = {}
        if "false_alarms" in body.model_fields_set:
            options["false_alarms"] = body.false_alarms
        inspector = replace(inspector, rule=changed(inspector.rule, options))
        photos = await checked_images(server, loaded, body.images)
        results = await inspect_photos(loaded, inspector, photos)
        data = await server.decoder.run(lambda: item_records(results, inspection_record))
    judges = list(inspector.judges().values())
    threshold = judges[0].limit if judges else math.inf
    answer = {
        "fitted": name,
        "threshold": threshold if threshold != math.inf else None,
        "note": " ".join(inspector.guarantee()),
        "data": data,
    }
    if bad_photos:
        answer["good"] = bad_photos
    return await large_answer(with_warnings(answer))


def check_fitted(body: Inspect, loaded: LoadedModel, inspector: Inspector) -> None:
    """Raise RefusalError for another model or method than that of the inspector."""
    fitted = {"model": loaded.name, "method": inspector.method.name}
    for name in body.model_fields_set & set(fitted):
        value = getattr(body, name)
        if value not in (None, fitted[name]):
            message = (
                f"{body.fitted} has the {name} {fitted[name]}, not {value}: send the good photos"
            )
            raise RefusalError(400, "fitted", message, name)


async def checked_images(
    server: Server, loaded: LoadedModel, images: Sequence[Any], kind: str = "image"
) -> list[Any]:
    """Each image as `images.open` takes it, or its error. kind: what warnings call an image, before
    its number."""
    return await gather_results(
        server.decoder.checked_image(image, loaded.model, f"{kind} {number}")
        for number, image in enumerate(images, 1)
    )


async def fit(
    server: Server, loaded: LoadedModel, good: Sequence[Any], body: Inspect
) -> tuple[list[dict[str, Any]], Inspector]:
    """Fit an inspector to the good photos, if any. Also returns the errors of those that cannot be
    opened."""
    results = await checked_images(server, loaded, good, "good photo")
    photos = [result for result in results if not isinstance(result, Exception)]
    if results and not photos:
        raise refusal_of(results[0], "good")
    method, rate, progress = body.method, body.false_alarms, deadline_progress()
    fitted = await loaded.queue.call(
        lambda: inspector(loaded.model, photos, method, rate, progress=progress)
    )
    return error_records(results), fitted


async def inspect_photos(
    loaded: LoadedModel, inspector: Inspector, images: Sequence[Any]
) -> list[Any]:
    """The inspection of each photo; the errors among the images unchanged."""
    photos = [image for image in images if not isinstance(image, Exception)]
    inspections = iter(await loaded.queue.call(lambda: on_one_scale(inspector.inspect(photos))))
    return [image if isinstance(image, Exception) else next(inspections) for image in images]


def inspection_record(result: Inspection) -> dict[str, Any]:
    record = result.record()
    del record["path"]
    return record | {"map": data_uri(png(result.overlay(PICTURE_SIDE)))}
