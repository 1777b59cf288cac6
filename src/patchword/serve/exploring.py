"""Clusters and near-duplicates of the photos of an index."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt

from patchword.index import members
from patchword.index.duplicates import Group, ids_of
from patchword.index.explore import named
from patchword.index.schema import id_of
from patchword.index.searching import warn_of_rows
from patchword.serve.collection import collection_of
from patchword.serve.queue import deadline_progress, remaining_seconds
from patchword.serve.server import Answer, router, server_of, with_warnings

MAX_CLUSTERS = 200  # also of examples of each
SHARE = 0.8  # of the remaining time, for comparing photos; the rest is for the answer

routes = router("photos")


class Explore(BaseModel):
    """How many clusters are wanted."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"clusters": 2}]})
    clusters: StrictInt | None = Field(
        None, ge=1, le=MAX_CLUSTERS, description="At most; by default by size."
    )
    examples: StrictInt = Field(
        12, ge=1, le=MAX_CLUSTERS, description="Photos of each that are named."
    )


class Duplicates(BaseModel):
    """What near-duplicates are: copies of one photo, or all that a model finds so much alike."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})
    threshold: StrictFloat | None = Field(
        None, gt=0, le=1, description="The least cosine; by default the pictures are compared."
    )


@routes.post("/v1/explore", summary="Clusters of the index's photos, named by words")
async def explore(request: Request, body: Explore) -> Answer:
    server = server_of(request)
    index = collection_of(server).second_index
    loaded = await server.models.get(index.model_name, "embed")
    with server.admission.admit(1):
        words = await loaded.cached("names of clusters", lambda: named(loaded.model, None))
        clusters = await server.decoder.run_slow(
            lambda: index.explore(
                body.clusters, words=words, examples=body.examples, model=loaded.model
            )
        )
    records = [
        {
            "name": cluster.name,
            "count": cluster.count,
            "photos": [photo_record(hit.path, hit.score) for hit in cluster.examples],
        }
        for cluster in clusters
    ]
    return Answer(with_warnings({"clusters": records}))


@routes.post("/v1/duplicates", summary="Groups of photos that are nearly the same")
async def duplicates(request: Request, body: Duplicates) -> Answer:
    server = server_of(request)
    index = collection_of(server).second_index
    loaded = await server.models.get(index.model_name, "embed")
    progress = deadline_progress()

    def compare() -> list[Group]:
        seconds = remaining_seconds(SHARE)  # once it is this request's turn
        groups = index.duplicates(body.threshold, progress=progress, seconds=seconds)
        warn_of_rows(index, loaded.model, ids_of(groups))
        return groups

    with server.admission.admit(1):
        groups = await server.decoder.run_slow(compare)
    records = [
        {
            "keep": photo_record(group.keep.path, 1.0),
            "others": [photo_record(hit.path, hit.score) for hit in group.others],
        }
        for group in groups
    ]
    return Answer(with_warnings({"groups": records}))


def photo_record(path: str, score: float) -> dict[str, Any]:
    """score: the cosine with the centre of a cluster, or with the photo to keep."""
    record: dict[str, Any] = {"id": id_of(path), "path": path, "score": score}
    return record | {"gone": True} if members.gone(path) else record
