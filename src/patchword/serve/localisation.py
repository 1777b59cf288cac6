"""Endpoints for places in an image: heatmaps, labels of pixels, regions."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydantic import Field, StrictFloat, StrictInt

from patchword.errors import ImageError
from patchword.images.photo import RGB
from patchword.serve.bodies import FailFastList
from patchword.serve.decoding import Image
from patchword.serve.error_responses import refusal_of
from patchword.serve.jobs import TINY, Body, example
from patchword.serve.models import LoadedModel
from patchword.serve.queue import deadline_progress
from patchword.serve.server import (
    Answer,
    Server,
    large_answer,
    router,
    server_of,
    with_warnings,
    with_warnings_header,
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
    texts: FailFastList[str]
    method: str = "auto"
    layer: StrictInt | None = None
    format: Literal["png", "numbers"] = "png"


class SegmentBody(Body):
    """Labels for the pixels of an image."""

    model_config = example(image=TINY, labels=["a red circle", "a wafer"])
    image: Image
    labels: FailFastList[str]
    background: FailFastList[str] | None = None
    present: StrictFloat | None = Field(
        None,
        ge=0,
        le=1,
        description="A label that is less probable in the image has no pixels; 0: all labels may "
        "have some. Only of models with a dense head, by default 0.65.",
    )


class LocateBody(Body):
    """Texts whose places in an image are wanted."""

    model_config = example(image=TINY, texts=["a red circle"])
    image: Image
    texts: FailFastList[str]


@routes.post(
    "/v1/heatmap",
    summary="Where in an image each text applies",
    responses={200: {"content": {"image/png": {}}}},
)
async def heatmap(request: Request, body: HeatmapBody) -> Response:
    server = server_of(request)
    count = server.count_items(texts=body.texts)
    loaded = await server.models.get(body.model, "heatmap")
    texts, method, layer, progress = body.texts, body.method, body.layer, deadline_progress()
    server.check_texts(texts)
    with server.admission.admit(count):
        photo = await open_photo(server, loaded, body.image)

        def work() -> Heatmap:
            result = loaded.model.heatmap(
                photo, texts, method=method, layer=layer, progress=progress
            )
            return replace(result, probable=result.present)  # the network may have to run for it

        result = await loaded.queue.call(work)
        if body.format == "png":
            content = await server.decoder.run(lambda: png(result.picture()))
            return with_warnings_header(Response(content, media_type="image/png"))
        maps = await server.decoder.run(lambda: map_records(result))
        height, width = result.image.shape[:2]
        answer = {
            "maps": maps, "least": result.least, "size": [width, height], "method": result.method,
        }  # fmt: skip
        return await large_answer(with_warnings(answer))


async def open_photo(server: Server, loaded: LoadedModel, image: Any) -> RGB:
    """All pixels of the one image of a request. Raises RefusalError."""
    try:
        return await server.decoder.photo(image, loaded.model)
    except ImageError as error:
        raise refusal_of(error, "image") from error


def map_records(result: Heatmap) -> list[dict[str, Any]]:
    """A record of each text's map. Its grid is scaled to 0..1 between the lowest and the highest
    value of all maps, so that they can be compared; None where the photo was not seen."""
    box, seen = grid_area(result)
    values = np.where(seen, result.grid, np.nan)
    low, high = ends_of(values)
    levels = unit(values, low, high)
    records = []
    for number, (text, peak) in enumerate(zip(result.texts, result.peaks(), strict=True)):
        grid = [
            [round(level, 4) if cell_seen else None for level, cell_seen in zip(*row, strict=True)]
            for row in zip(levels[number].tolist(), seen.tolist(), strict=True)
        ]
        records.append(
            {
                "text": text,
                "grid": grid,
                "probability": None if result.present is None else result.present[number],
                "found": result.found[number],
                "box": box,
                "peak": list(peak[1:]),
                "scale": [low, high],
            }
        )
    return records


def grid_area(result: Heatmap) -> tuple[list[float], NDArray[np.bool_]]:
    """The area of the photo that the grid of a map covers, (x1, y1, x2, y2) in pixels, which may
    reach beyond the photo; and which cells have their centre in the photo (h, w)."""
    geometry, cells = result.geometry, result.grid.shape[-2:]
    ends: list[tuple[float, float]] = []
    inside: list[NDArray[np.bool_]] = []
    for axis in (0, 1):
        side = result.cell or geometry.size[axis] / cells[axis]
        factor = geometry.source[axis] / geometry.resized[axis]
        edges = (np.arange(cells[axis] + 1) * side + geometry.crop[axis]) * factor
        centres = (edges[1:] + edges[:-1]) / 2
        inside.append((centres >= 0) & (centres < geometry.source[axis]))
        ends.append((float(edges[0]), float(edges[-1])))
    (top, bottom), (left, right) = ends
    return [left, top, right, bottom], inside[0][:, None] & inside[1]


@routes.post("/v1/segment", summary="The label of each pixel of an image")
async def segment(request: Request, body: SegmentBody) -> Answer:
    server = server_of(request)
    alternatives = [text for label in body.labels for text in label.split("|")]
    lists = {"labels": alternatives}
    if body.background:
        lists["background"] = body.background
    count = server.count_items(**lists)
    loaded = await server.models.get(body.model, "segment")
    labels, background, present = body.labels, body.background, body.present
    progress = deadline_progress()
    server.check_texts([*labels, *(background or ())])
    with server.admission.admit(count):
        photo = await open_photo(server, loaded, body.image)
        result = await loaded.queue.call(
            lambda: loaded.model.segment(
                photo, labels, background=background, present=present, progress=progress
            )
        )
        result = replace(result, progress=progress)
        answer = await server.decoder.run(lambda: segmentation_record(result))
        return await large_answer(with_warnings(answer))


def segmentation_record(result: Segmentation) -> dict[str, Any]:
    """Sizes, the legend, masks as run lengths, and the picture of labels."""
    height, width = result.image.shape[:2]
    legend = [
        {
            "label": share.label,
            "colour": label_map.colour_of(number),
            "share": share.share,
            "present": share.present,
        }
        for number, share in enumerate(result.shares)
    ]
    masks = result.rle()
    return {
        "size": [width, height],
        "legend": legend,
        "least": result.rule.least,
        "rle": [{"label": label, **mask} for label, mask in masks.items()],
        "png": data_uri(png(label_map.numbered(result.map))),
        "method": result.method,
    }


@routes.post("/v1/locate", summary="The regions of an image that texts name")
async def locate(request: Request, body: LocateBody) -> Answer:
    server = server_of(request)
    count = server.count_items(texts=body.texts)
    server.check_texts(body.texts)
    loaded = await server.models.get(body.model, "locate")
    with server.admission.admit(count):
        result = await locate_texts(server, loaded, body.image, body.texts)
        answer = await server.decoder.run(lambda: regions_record(result))
        return await large_answer(with_warnings(answer))


async def locate_texts(
    server: Server, loaded: LoadedModel, image: Any, texts: list[str]
) -> Located:
    """The regions of texts in an image. Raises RefusalError."""
    photo, progress = await open_photo(server, loaded, image), deadline_progress()
    return await loaded.queue.call(lambda: loaded.model.locate(photo, texts, progress=progress))


def regions_record(result: Located, masks: bool = True) -> dict[str, Any]:
    """A record of each text with its regions; masks: with their run lengths."""
    height, width = result.image.shape[:2]
    data, progress = [], deadline_progress()
    for number, text in enumerate(result.texts):
        regions = []
        for region in result.regions:
            if region.text != text:
                continue
            record: dict[str, Any] = {
                "score": region.score,
                "box": list(region.box),
                "area": region.area,
            }
            if masks:
                progress(number, len(result.texts))
                record["rle"] = result.rle(region)
            regions.append(record)
        present = None if result.present is None else result.present[number]
        data.append(
            {"text": text, "found": bool(regions), "probability": present, "regions": regions}
        )
    return {
        "data": data, "least": result.least, "size": [width, height], "method": result.method,
    }  # fmt: skip


def png(picture: Pillow.Image) -> bytes:
    """A picture as a PNG file."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def data_uri(content: bytes) -> str:
    """A PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
