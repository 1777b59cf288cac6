"""Hugging Face's inference API: an endpoint for each task, whose address InferenceClient takes as
its model."""

from __future__ import annotations

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from patchword.serve import bodies
from patchword.serve.error_responses import RefusalError
from patchword.serve.jobs import (
    TINY,
    answer_question,
    embed_labels,
    example,
    single_result,
    write_captions,
)
from patchword.serve.server import Answer, router, server_of, warn_of_unused, with_warnings_header

routes = router("hugging face")


class ZeroShotOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    candidate_labels: bodies.FailFastList[str]
    hypothesis_template: str | None = None


class ZeroShot(BaseModel):
    """An image and labels to choose from."""

    model_config = example(inputs=TINY, parameters={"candidate_labels": ["a red ring", "a wafer"]})
    inputs: str
    parameters: ZeroShotOptions


class QuestionOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    top_k: StrictInt | None = Field(None, ge=1, le=1, description="One answer.")


class ImageAndQuestion(BaseModel):
    model_config = ConfigDict(extra="forbid")
    image: str
    question: str


class Question(BaseModel):
    """An image and a question about it."""

    model_config = example(inputs={"image": TINY, "question": "what colour is the ring?"})
    inputs: ImageAndQuestion | str
    image: str | None = None
    question: str | None = None
    parameters: QuestionOptions | None = None


@routes.post("/zero-shot-image-classification", summary="Labels of an image, by its content")
async def zero_shot(request: Request, body: ZeroShot) -> Response:
    server = server_of(request)
    options = body.parameters
    count = server.count_items(candidate_labels=options.candidate_labels)
    loaded = await server.models.get(None, "classify")
    with server.admission.admit(count):
        labels = await embed_labels(
            server, loaded, options.candidate_labels, options.hypothesis_template
        )
        embedding = single_result(await server.embed_images(loaded, [body.inputs]))
    scores = labels.score(*embedding)
    records = [{"label": score.label, "score": score.probability} for score in scores]
    return with_warnings_header(Answer(records))


@routes.post("/visual-question-answering", summary="The answer to a question about an image")
async def question_answering(request: Request, body: Question) -> Response:
    server = server_of(request)
    if isinstance(body.inputs, str):
        image, question = body.inputs, body.question
    else:
        image, question = body.inputs.image, body.inputs.question
    for name, used in (("image", image), ("question", question)):
        if getattr(body, name) not in (None, used):
            message = f"{name} is given twice, and differs: which one is meant?"
            raise RefusalError(400, "invalid_request", message, name)
    if not question:
        raise RefusalError(400, "empty", "give a question", "question")
    loaded = await server.models.get(None, "ask")
    with server.admission.admit(1):
        reply = await answer_question(server, loaded, image, question)
    return with_warnings_header(Answer([{"answer": reply.text, "score": reply.probability}]))


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
    loaded = await server.models.get(None, "caption")
    image = await image_of(body, request.headers.get("content-type", "").lower())
    with server.admission.admit(1):
        caption = single_result(await write_captions(server, loaded, [image]))
    return with_warnings_header(Answer([{"generated_text": caption.text}]))


async def image_of(body: bytes, content_type: str) -> bytes | str:
    """The image of a request: its body, or "inputs" of its JSON. Raises RefusalError, and
    HTTPException for invalid JSON."""
    if not content_type.startswith("application/json"):
        if not body:
            raise RefusalError(400, "empty", "the body is an image, and is empty")
        return body
    content = await bodies.read(body)
    inputs = content.get("inputs") if isinstance(content, dict) else None
    if not isinstance(inputs, str):
        raise RefusalError(400, "invalid_request", "inputs: an image as base64", "inputs")
    warn_of_unused(set(content) - {"inputs"})
    return inputs
