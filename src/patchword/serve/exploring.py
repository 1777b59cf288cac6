"""What is in the index: clusters of photos that are alike, and groups of near-duplicates."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from patchword.index.duplicates import Group, ids_of
from patchword.index.explore import named
from patchword.index.schema import id_of
from patchword.index.searching import warn_of_rows
from patchword.serve.bodies import Number, Whole
from patchword.serve.collection import of
from patchword.serve.queue import share, steps
from patchword.serve.server import Answer, router, server_of, with_warnings

MOST = 200  # clusters
SHARE = 0.8  # of the time that is left, to compare photos in; the rest is for the answer

routes = router("photos")


class Explore(BaseModel):
    """How many clusters are wanted."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"clusters": 2}]})
    clusters: Whole | None = Field(None, ge=1, le=MOST, description="At most; by default by size.")
    examples: Whole = Field(12, ge=1, le=MOST, description="Photos of each that are named.")


class Duplicates(BaseModel):
    """What near-duplicates are: copies of one photo, or all that a model finds so much alike."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})
    threshold: Number | None = Field(
        None, gt=0, le=1, description="The least cosine; by default the pictures are compared."
    )


@routes.post("/v1/explore", summary="Clusters of the index's photos, named by words")
async def explore(request: Request, body: Explore) -> Answer:
    server = server_of(request)
    index = of(server).aside
    opened = await server.models.get(index.model_name, "embed")
    with server.admission.of(1):
        words = await opened.once("names of clusters", lambda: named(opened.model, None))
        found = await server.decoder.alone(
            lambda: index.explore(
                body.clusters, words=words, examples=body.examples, model=opened.model
            )
        )
    clusters = [
        {
            "name": each.name,
            "count": each.count,
            "photos": [photo(hit.path, hit.score) for hit in each.examples],
        }
        for each in found
    ]
    return Answer(with_warnings({"clusters": clusters}))


@routes.post("/v1/duplicates", summary="Groups of photos that are nearly the same")
async def duplicates(request: Request, body: Duplicates) -> Answer:
    server = server_of(request)
    index = of(server).aside
    opened = await server.models.get(index.model_name, "embed")
    step = steps()

    def compared() -> list[Group]:
        found = index.duplicates(body.threshold, progress=step, seconds=share(SHARE))
        warn_of_rows(index, opened.model, ids_of(found))
        return found

    with server.admission.of(1):
        found = await server.decoder.alone(compared)
    groups = [
        {
            "keep": photo(group.keep.path, 1.0),
            "others": [photo(each.path, each.score) for each in group.others],
        }
        for group in found
    ]
    return Answer(with_warnings({"groups": groups}))


def photo(path: str, score: float) -> dict[str, Any]:
    """A photo by its id, and its cosine with the middle of a cluster or the one that is kept."""
    return {"id": id_of(path), "path": path, "score": score}
