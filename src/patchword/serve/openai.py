"""OpenAI's API: models and embeddings."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from patchword.bundle import Vector
from patchword.serve.bodies import FailFastList
from patchword.serve.decoding import PhotoId
from patchword.serve.error_responses import RefusalError, refusal_of
from patchword.serve.jobs import TINY
from patchword.serve.models import JOBS, LoadedModel
from patchword.serve.request_warnings import add_warnings
from patchword.serve.server import (
    Answer,
    ItemError,
    Server,
    item_records,
    large_answer,
    router,
    server_of,
    warn_of_unused,
    warn_of_unused_fields,
    with_warnings,
)
from patchword.text import long_text as long_texts
from patchword.visible_area import Sights

routes = router("openai")
STARTED = int(time.time())
WITHOUT_EFFECT = {"user"}  # a field that changes no answer of any server


@routes.get("/v1/models/", include_in_schema=False)
@routes.get("/v1/models", summary="The models, and what each can do")
async def models(request: Request) -> Answer:
    return Answer({"object": "list", "data": await _model_records(server_of(request))})


@routes.get("/v1/models/{name:path}", summary="One of them")
async def model(request: Request, name: str) -> Answer:
    for record in await _model_records(server_of(request)):
        if record["id"] == name:
            return Answer(record)
    raise RefusalError(404, "model_not_found", f"no model {name!r}", "model")


async def _model_records(server: Server) -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            "object": "model",
            "created": STARTED,
            "owned_by": "patchword",
            "can": [job for job in JOBS if job not in why_not],
            "why_not": dict(why_not),
            "heatmaps": dict(heatmaps),
        }
        for name, why_not, heatmaps in await server.models.describe()
    ]


class Part(BaseModel):
    """A text or an image, as Jina's API has them."""

    model_config = ConfigDict(extra="forbid")
    text: str | None = None
    image: str | PhotoId | None = None


class Embeddings(BaseModel):
    """Texts, images, or both; what other servers of embeddings take too."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"input": ["a red circle", TINY]}]},
    )
    model: str | None = None
    input: (
        str
        | Part
        | FailFastList[str | Part | FailFastList[StrictInt]]
        | FailFastList[StrictInt]
        | None
    ) = None
    messages: FailFastList[dict[str, Any]] | None = Field(
        None, description="As vLLM takes an image."
    )
    modality: Literal["text", "image"] | None = Field(None, description="As infinity has it.")
    encoding_format: Literal["float", "base64"] | None = None
    embedding_type: Literal["float", "base64"] | None = Field(None, description="Jina's name.")
    dimensions: StrictInt | None = None
    normalized: StrictBool | None = Field(None, description="Vectors are of length 1 in any case.")


Item = tuple[Literal["text", "ids", "image"], Any]


@routes.post("/v1/embeddings", summary="Unit vectors of texts and images")
@routes.post("/embeddings", include_in_schema=False)
async def embeddings(request: Request, body: Embeddings) -> Answer:
    server = server_of(request)
    formats = {body.encoding_format, body.embedding_type} - {None}
    if len(formats) > 1:
        message = "encoding_format and embedding_type differ: which one is meant?"
        raise RefusalError(400, "invalid_request", message, "embedding_type")
    items = items_of(body)
    count = server.count_items(input=items)
    loaded = await server.models.get(body.model, "embed")
    loaded.check_dimension(body.dimensions)
    warn_of_unused_fields(body, WITHOUT_EFFECT)
    if body.normalized is False:
        warn_of_unused({"normalized, which is false"})
    with server.admission.admit(count):
        vectors, tokens = await embed_items(server, loaded, items)
    errors = [vector for vector in vectors if isinstance(vector, Exception)]
    if len(errors) == len(vectors):
        raise refusal_of(errors[0], "input")
    as_base64 = "base64" in formats

    def record(vector: Vector) -> dict[str, Any]:
        return {"object": "embedding", "embedding": encode_vector(vector, as_base64)}

    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    data = item_records(vectors, record)
    answer = {"object": "list", "data": data, "model": loaded.name, "usage": usage}
    return await large_answer(with_warnings(answer))


def encode_vector(vector: Vector, as_base64: bool) -> str | list[float]:
    """A vector as a list, or as the base64 of its float32, little-endian."""
    if as_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


def items_of(body: Embeddings) -> list[Item]:
    """The items to embed, in order. Raises RefusalError for what is not an item."""
    if (body.input is None) == (body.messages is None):
        raise RefusalError(400, "empty", "give input, or messages", "input")
    if body.messages is not None:
        return [_item_of_messages(body.messages)]
    values = body.input if isinstance(body.input, list) else [body.input]
    if values and all(isinstance(value, int) for value in values):  # token ids of one text
        return [("ids", values)]
    return [_item(value, body.modality) for value in values]


def _item(value: Any, modality: str | None) -> Item:
    if isinstance(value, list):
        return "ids", value
    if isinstance(value, Part):
        if (value.text is None) == (value.image is None):
            raise RefusalError(400, "input", "an item has text or image, one of them", "input")
        return ("image", value.image) if value.text is None else ("text", value.text)
    if modality is None:
        modality = "image" if value[:11].lower() == "data:image/" else "text"
    return ("image" if modality == "image" else "text"), value


def _item_of_messages(messages: Sequence[dict[str, Any]]) -> Item:
    """The one text or image of a conversation; texts beside an image are instructions, which other
    models take. Raises RefusalError for none and for several."""
    images: list[Item] = []
    texts: list[Item] = []
    for message in messages:
        content = message.get("content")
        parts = [{"text": content}] if isinstance(content, str) else content
        for part in parts if isinstance(parts, list) else []:
            if not isinstance(part, dict):
                continue
            address = part.get("image_url")
            if isinstance(address, dict):
                address = address.get("url")
            if isinstance(address, str):
                images.append(("image", address))
            elif str(part.get("text") or "").strip():
                texts.append(("text", str(part["text"])))
    if images and texts:
        add_warnings(["not used here: texts beside the image to embed"])
    items = images or texts
    if len(items) != 1:
        reason = f"messages hold one image or one text to embed; here are {len(items)}"
        raise RefusalError(400, "messages", reason, "messages")
    return items[0]


async def embed_items(
    server: Server, loaded: LoadedModel, items: Sequence[Item], sights: Sights | None = None
) -> tuple[list[Vector | ItemError], int]:
    """A unit vector or an error for each item, and the number of tokens of all texts. sights: notes
    how images are seen, see `Server.embed_images`."""
    texts = {place: value for place, (kind, value) in enumerate(items) if kind == "text"}
    id_lists = {place: value for place, (kind, value) in enumerate(items) if kind == "ids"}
    images = {place: value for place, (kind, value) in enumerate(items) if kind == "image"}
    results: dict[int, Any] = {}
    tokens = 0
    if texts:
        reader = loaded.model.reader()
        nonempty = {place: text for place, text in texts.items() if text}
        words = list(nonempty.values())
        vectors = await server.text_vectors(loaded, words)
        tokens += await server.decoder.run(lambda: sum(map(len, reader.rows(words))))
        results |= {place: empty_text(place) for place, text in texts.items() if not text}
        results |= zip(nonempty, vectors, strict=True)
    if id_lists:
        server.check_length(sum(map(len, id_lists.values())), "token numbers")
        rows = {place: add_special_tokens(loaded, ids) for place, ids in id_lists.items()}
        valid = {place: row for place, row in rows.items() if isinstance(row, list)}
        tokens += sum(map(len, valid.values()))
        long_texts.warn_of_long(loaded.model.reader(), list(valid.values()))
        vectors = await loaded.embed_token_rows(list(valid.values()))
        results |= rows | dict(zip(valid, vectors, strict=True))
    if images:
        image_vectors = await server.image_vectors(loaded, list(images.values()), sights)
        results |= zip(images, image_vectors, strict=True)
    return [results[place] for place in range(len(items))], tokens


def empty_text(place: int) -> RefusalError:
    return RefusalError(400, "empty", f"input {place} is an empty text", "input")


def add_special_tokens(loaded: LoadedModel, ids: Sequence[int]) -> list[int] | RefusalError:
    """The token ids of a text with the special tokens around them, unless they are there already.
    An error for ids that the model's vocabulary does not have."""
    tokenizer = loaded.model.reader()
    *start, end = tokenizer.rows([""])[0]
    if not ids or not all(0 <= number < tokenizer.vocab_size for number in ids):
        message = f"tokens are numbers from 0 to {tokenizer.vocab_size - 1} of {loaded.name}'s own"
        return RefusalError(400, "tokens", f"{message} tokenizer", "input")
    row = list(ids)
    if row[: len(start)] != start:
        row = start + row
    if row[-1] != end:
        row.append(end)
    return row
