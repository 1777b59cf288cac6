"""Tasks as Hugging Face's inference endpoints have them, for huggingface_hub's InferenceClient,
which takes an address of each as its model."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from patchword.serve import bodies
from patchword.serve.error_responses import RefusalError
from patchword.serve.jobs import TINY, answer, captions, example, labels_of, only
from patchword.serve.server import Answer, router, say_ignored, server_of, warned

routes = router("hugging face")


class ZeroShotOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    candidate_labels: bodies.Several[str]
    hypothesis_template: str | None = None


class ZeroShot(BaseModel):
    """An image and labels to choose from."""

    model_config = example(inputs=TINY, parameters={"candidate_labels": ["a red ring", "a wafer"]})
    inputs: str
    parameters: ZeroShotOptions


class QuestionOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    top_k: bodies.Whole | None = Field(None, ge=1, le=1, description="One answer.")


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")
    image: str
    question: str


class Question(BaseModel):
    """An image and a question about it."""

    model_config = example(inputs={"image": TINY, "question": "what colour is the ring?"})
    inputs: Asked | str
    image: str | None = None
    question: str | None = None
    parameters: QuestionOptions | None = None


@routes.post("/zero-shot-image-classification", summary="Labels of an image, by its content")
async def zero_shot(request: Request, body: ZeroShot) -> Response:
    server = server_of(request)
    options = body.parameters
    count = server.checked(candidate_labels=options.candidate_labels)
    opened = await server.models.get(None, "classify")
    with server.admission.of(count):
        known = await labels_of(
            server, opened, options.candidate_labels, options.hypothesis_template
        )
        image = only(await server.embedded(opened, [body.inputs]))
    scores = known.score(*image)
    return warned(Answer([{"label": one.label, "score": one.probability} for one in scores]))


@routes.post("/visual-question-answering", summary="The answer to a question about an image")
async def question_answering(request: Request, body: Question) -> Response:
    server = server_of(request)
    inside = body.inputs if isinstance(body.inputs, Asked) else None
    image = body.inputs if inside is None else inside.image
    question = body.question if inside is None else inside.question
    for name, used in (("image", image), ("question", question)):
        if getattr(body, name) not in (None, used):
            message = f"{name} is given twice, and differs: which one is meant?"
            raise RefusalError(400, "invalid_request", message, name)
    if not question:
        raise RefusalError(400, "empty", "give a question", "question")
    opened = await server.models.get(None, "ask")
    with server.admission.of(1):
        found = await answer(server, opened, image, question)
    return warned(Answer([{"answer": found.text, "score": found.probability}]))


@routes.post(
    "/image-to-text",
    summary="A description of an image",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"example": {"inputs": TINY}},
                "image/*": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
async def image_to_text(request: Request) -> Response:
    server = server_of(request)
    body = await request.body()
    opened = await server.models.get(None, "caption")
    given = await image_of(body, request.headers.get("content-type", "").lower())
    with server.admission.of(1):
        found = only(await captions(server, opened, [given]))
    return warned(Answer([{"generated_text": found.text}]))


async def image_of(body: bytes, kind: str) -> Any:
    """The image of a request: its body, or "inputs" of its JSON. Raises RefusalError, and
    HTTPException for what is no JSON."""
    if not kind.startswith("application/json"):
        if not body:
            raise RefusalError(400, "empty", "the body is an image, and is empty")
        return body
    found = await bodies.read(body)
    inputs = found.get("inputs") if isinstance(found, dict) else None
    if not isinstance(inputs, str):
        raise RefusalError(400, "invalid_request", "inputs: an image as base64", "inputs")
    say_ignored(set(found) - {"inputs"})
    return inputs
