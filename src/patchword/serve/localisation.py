"""Where in an image texts apply: heatmaps, labels of pixels, regions."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray
from PIL import Image as Pillow

from patchword.errors import ImageError
from patchword.images.photo import RGB
from patchword.serve.bodies import Several, Whole
from patchword.serve.decoding import Image
from patchword.serve.error_responses import refusal_of
from patchword.serve.jobs import TINY, Body, example
from patchword.serve.models import Opened
from patchword.serve.queue import steps
from patchword.serve.server import (
    Answer,
    Server,
    large_answer,
    router,
    server_of,
    warned,
    with_warnings,
)
from patchword.show import label_map
from patchword.show.colours import ends_of, unit
from patchword.where.heatmap import Heatmap
from patchword.where.locate import Located
from patchword.where.segment import Segmentation

routes = router("places")


class HeatmapBody(Body):
    """Texts to look for in an image."""

    model_config = example(image=TINY, texts=["a red circle"], format="numbers")
    image: Image
    texts: Several[str]
    method: str = "auto"
    layer: Whole | None = None
    format: Literal["png", "numbers"] = "png"


class SegmentBody(Body):
    """Labels for the pixels of an image."""

    model_config = example(image=TINY, labels=["a red circle", "a wafer"])
    image: Image
    labels: Several[str]
    background: Several[str] | None = None


class LocateBody(Body):
    """Texts whose places in an image are wanted."""

    model_config = example(image=TINY, texts=["a red circle"])
    image: Image
    texts: Several[str]


@routes.post(
    "/v1/heatmap",
    summary="Where in an image each text applies",
    responses={200: {"content": {"image/png": {}}}},
)
async def heatmap(request: Request, body: HeatmapBody) -> Response:
    server = server_of(request)
    count = server.checked(texts=body.texts)
    opened = await server.models.get(body.model, "heatmap")
    texts, method, layer, step = body.texts, body.method, body.layer, steps()
    server.readable(texts)
    with server.admission.of(count):
        photo = await photo_of(server, opened, body.image)

        def work() -> Heatmap:
            made = opened.model.heatmap(photo, texts, method=method, layer=layer, progress=step)
            return replace(made, probable=made.present)  # here, for the network may run for it

        found = await opened.queue.call(work)
        if body.format == "png":
            content = await server.decoder.run(lambda: png(found.picture()))
            return warned(Response(content, media_type="image/png"))
        maps = await server.decoder.run(lambda: maps_of(found))
        height, width = found.image.shape[:2]
        answer = {"maps": maps, "size": [width, height], "method": found.method}
        return await large_answer(with_warnings(answer))


async def photo_of(server: Server, opened: Opened, given: Any) -> RGB:
    """All pixels of the one image of a request. Raises RefusalError."""
    try:
        return await server.decoder.photo(given, opened.model)
    except ImageError as error:
        raise refusal_of(error, "image") from error


def maps_of(found: Heatmap) -> list[dict[str, Any]]:
    """A record of each text's map: its grid, 0 to 1 between the lowest and the highest value of
    all maps, so that they can be compared; where the photo was not seen it is None."""
    box, seen = covered(found)
    drawn = np.where(seen, found.grid, np.nan)
    low, high = ends_of(drawn)
    levels = unit(drawn, low, high)
    out = []
    for number, (text, peak) in enumerate(zip(found.texts, found.peaks(), strict=True)):
        grid = [
            [round(value, 4) if shown else None for value, shown in zip(*row, strict=True)]
            for row in zip(levels[number].tolist(), seen.tolist(), strict=True)
        ]
        out.append(
            {
                "text": text,
                "grid": grid,
                "probability": None if found.present is None else found.present[number],
                "found": found.found[number],
                "box": box,
                "peak": list(peak[1:]),
                "scale": [low, high],
            }
        )
    return out


def covered(found: Heatmap) -> tuple[list[float], NDArray[np.bool_]]:
    """The part of the photo that the grid of a map covers, (x1, y1, x2, y2) in its pixels, which
    may reach beyond it; and which cells have their middle in it (h, w)."""
    geometry, cells = found.geometry, found.grid.shape[-2:]
    ends: list[tuple[float, float]] = []
    inside: list[NDArray[np.bool_]] = []
    for axis in (0, 1):
        side = found.cell or geometry.size[axis] / cells[axis]
        factor = geometry.source[axis] / geometry.resized[axis]
        edges = (np.arange(cells[axis] + 1) * side + geometry.crop[axis]) * factor
        middles = (edges[1:] + edges[:-1]) / 2
        inside.append((middles >= 0) & (middles < geometry.source[axis]))
        ends.append((float(edges[0]), float(edges[-1])))
    (top, bottom), (left, right) = ends
    return [left, top, right, bottom], inside[0][:, None] & inside[1]


@routes.post("/v1/segment", summary="The label of each pixel of an image")
async def segment(request: Request, body: SegmentBody) -> Answer:
    server = server_of(request)
    words = [word for label in body.labels for word in label.split("|")]  # each is looked for
    lists = {"labels": words} | ({"background": body.background} if body.background else {})
    count = server.checked(**lists)
    opened = await server.models.get(body.model, "segment")
    labels, background, step = body.labels, body.background, steps()
    server.readable([*labels, *(background or ())])
    with server.admission.of(count):
        photo = await photo_of(server, opened, body.image)
        found = await opened.queue.call(
            lambda: opened.model.segment(photo, labels, background=background, progress=step)
        )
        found = replace(found, progress=step)
        answer = await server.decoder.run(lambda: segmented(found))
        return await large_answer(with_warnings(answer))


def segmented(found: Segmentation) -> dict[str, Any]:
    """Sizes, the legend, masks as run lengths, and the picture of labels."""
    height, width = found.image.shape[:2]
    legend = [
        {"label": share.label, "colour": label_map.colour_of(number), "share": share.share}
        for number, share in enumerate(found.shares)
    ]
    masks = found.rle()
    return {
        "size": [width, height],
        "legend": legend,
        "rle": [{"label": label, **mask} for label, mask in masks.items()],
        "png": data_uri(png(label_map.numbered(found.map))),
        "method": found.method,
    }


@routes.post("/v1/locate", summary="The regions of an image that texts name")
async def locate(request: Request, body: LocateBody) -> Answer:
    server = server_of(request)
    count = server.checked(texts=body.texts)
    server.readable(body.texts)
    opened = await server.models.get(body.model, "locate")
    with server.admission.of(count):
        found = await places(server, opened, body.image, body.texts)
        answer = await server.decoder.run(lambda: located(found))
        return await large_answer(with_warnings(answer))


async def places(server: Server, opened: Opened, image: Any, texts: list[str]) -> Located:
    """Where texts are in an image. Raises RefusalError."""
    photo, step = await photo_of(server, opened, image), steps()
    return await opened.queue.call(lambda: opened.model.locate(photo, texts, progress=step))


def located(found: Located, masks: bool = True) -> dict[str, Any]:
    """A record of each text, with its regions; masks: with their run lengths."""
    height, width = found.image.shape[:2]
    data, step = [], steps()
    for number, text in enumerate(found.texts):
        regions = []
        for r in (each for each in found.regions if each.text == text):
            told: dict[str, Any] = {"score": r.score, "box": list(r.box), "area": r.area}
            if masks:
                step(number, len(found.texts))
                told["rle"] = found.rle(r)
            regions.append(told)
        present = None if found.present is None else found.present[number]
        data.append(
            {"text": text, "found": bool(regions), "probability": present, "regions": regions}
        )
    return {"data": data, "size": [width, height], "method": found.method}


def png(picture: Pillow.Image) -> bytes:
    """A picture as the content of a file."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def data_uri(content: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
