"""OpenAI's API for chat with images: captions and answers.

A text that asks something is a question about the image. Any other text asks for a caption, and so
does a question about what the whole image shows. The models know one image and no conversation:
only the user's last image and last text are read.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

from patchword.serve import prompts
from patchword.serve.bodies import FailFastList
from patchword.serve.error_responses import RefusalError
from patchword.serve.jobs import TINY, answer_question, single_result, write_captions
from patchword.serve.models import LoadedModel
from patchword.serve.request_warnings import add_warnings
from patchword.serve.server import (
    Answer,
    Server,
    router,
    server_of,
    warn_of_unused,
    warn_of_unused_fields,
    with_warnings,
)
from patchword.tasks.caption import Caption

WITHOUT_EFFECT = {"user", "store", "metadata", "service_tier"}  # on answers of any server

routes = router("openai")


class Message(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | FailFastList[dict[str, Any]] | None = None


class Chat(BaseModel):
    """A conversation whose last words are about an image."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "text", "text": "what colour is the ring?"},
                                {"type": "image_url", "image_url": {"url": TINY}},
                            ],
                        }
                    ]
                }
            ]
        },
    )
    model: str | None = None
    messages: FailFastList[Message]
    stream: StrictBool | None = False
    stream_options: dict[str, Any] | None = None
    n: StrictInt | None = Field(1, ge=1, le=1, description="One answer.")
    max_tokens: StrictInt | None = Field(None, ge=1)
    max_completion_tokens: StrictInt | None = Field(None, ge=1)
    stop: str | FailFastList[str] | None = None
    response_format: dict[str, Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    temperature: StrictFloat | None = Field(None, ge=0, le=2, description="0: beam search.")
    top_p: StrictFloat | None = Field(None, gt=0, le=1)
    seed: StrictInt | None = None


@routes.post("/v1/chat/completions", summary="A caption, or the answer to a question")
async def chat(request: Request, body: Chat) -> Response:
    server = server_of(request)
    refuse_other_formats(body)
    image, text = image_and_text(body.messages)
    server.check_texts([text])
    loaded, is_question = await choose_model(server, body.model, text)
    warn_of_unused_parts(body, is_question, text)
    with server.admission.admit(1):
        question = text if is_question else None
        caption = await write_text(server, loaded, image, question, body)
    tokens = len(caption.token_log_probabilities)
    name = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    limit = getattr(body, name)
    if limit is not None and tokens > limit:
        add_warnings([f"{name} is {limit}, and the text has {tokens}: texts here are not cut"])
    caption = cut_at_stop(caption, body.stop)
    prompt_tokens = await server.decoder.run(lambda: len(loaded.model.reader().rows([text])[0]))
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": loaded.name,
    }
    if body.stream:
        include_usage = bool((body.stream_options or {}).get("include_usage"))
        events = stream_events(with_warnings(head), caption, usage if include_usage else None)
        return StreamingResponse(events, media_type="text/event-stream")
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": caption.text, "refusal": None},
        "logprobs": None,
        "finish_reason": finish_reason(caption),
    }
    return Answer(with_warnings(head | {"choices": [choice], "usage": usage}))


def refuse_other_formats(body: Chat) -> None:
    """Raise RefusalError for answers in JSON, and for tools that must be called."""
    kind = (body.response_format or {}).get("type", "text")
    if kind != "text":
        message = f"response_format {str(kind)[:40]!r}: the models here write plain text"
        raise RefusalError(400, "unsupported", message, "response_format")
    if body.tool_choice not in (None, "none", "auto"):
        message = "tool_choice: the models here call no tools"
        raise RefusalError(400, "unsupported", message, "tool_choice")


def image_and_text(messages: Sequence[Message]) -> tuple[str, str]:
    """The last image of the user, and the text of the user's last message. Raises RefusalError for
    no image, and for several in one message."""
    image, text = None, ""
    for message in messages:
        if message.role != "user":
            continue
        content = message.content
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        for part in parts:
            check_part(part)
        images = [image_address(part) for part in parts if part["type"] == "image_url"]
        if len(images) > 1:
            reason = f"a message has one image; here are {len(images)}: send one at a time"
            raise RefusalError(400, "images", reason, "messages")
        if images:
            image = images[0]
        text = " ".join(part["text"] for part in parts if part["type"] == "text").strip()
    if image is None:
        reason = "no image: a user's message needs a part of type image_url, a data URI"
        raise RefusalError(400, "no_image", reason, "messages")
    return image, text


def check_part(part: dict[str, Any]) -> None:
    """Raise RefusalError for a part of a message that is neither a text nor an image."""
    kind = part.get("type")
    if kind not in ("text", "image_url"):
        message = f"a part of a message has the type text or image_url, not {str(kind)[:40]!r}"
        raise RefusalError(400, "part", message, "messages")
    if kind == "text" and not isinstance(part.get("text"), str):
        raise RefusalError(400, "part", "a part of type text needs text, a string", "messages")


def image_address(part: dict[str, Any]) -> str:
    """The address, or data URI, of an image part. Raises RefusalError if it has none."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise RefusalError(400, "image", "image_url needs a url: a data URI", "messages")
    if isinstance(image, dict):
        expected = {"url"}
        if image.get("detail") in (None, "auto"):
            expected.add("detail")
        warn_of_unused(set(image) - expected)
    return url


async def choose_model(server: Server, name: str | None, text: str) -> tuple[LoadedModel, bool]:
    """The model that writes, and whether it gets a question. A text that asks what the whole image
    shows gets a caption, unless the model writes none. Raises RefusalError."""
    is_question = prompts.is_question(text)
    if is_question and prompts.asks_for_caption(text):
        with suppress(RefusalError):
            return await server.models.get(name, "caption"), False
    return await server.models.get(name, "ask" if is_question else "caption"), is_question


def warn_of_unused_parts(body: Chat, is_question: bool, text: str) -> None:
    """Warn of the parts of a request that have no effect here."""
    warn_of_unused_fields(body, WITHOUT_EFFECT)
    if body.tool_choice is not None:
        warn_of_unused({"tool_choice"})
    if body.stream:
        warn_of_unused(set(body.stream_options or ()) - {"include_usage"})
    elif body.stream_options:
        warn_of_unused({"stream_options"})
    if len(body.messages) > 1:
        add_warnings(["only the last user's message is read, and no instructions or earlier turns"])
    if text and not is_question and not prompts.describes(text):
        add_warnings(["the text was taken for a request for a caption; a question ends in ?"])


async def write_text(
    server: Server, loaded: LoadedModel, image: str, question: str | None, body: Chat
) -> Caption:
    """The answer to a question; without one, a caption."""
    sampling: dict[str, Any] = {}
    top_p = None if body.top_p == 1 else body.top_p  # 1 leaves nothing out
    if body.temperature == 0:
        if top_p:
            warn_of_unused({"top_p, at temperature 0"})
    elif body.temperature or top_p:
        sampling = {"temperature": body.temperature, "top_p": top_p, "seed": body.seed or 0}
    if question is not None:
        return await answer_question(server, loaded, image, question, None, **sampling)
    caption: Caption = single_result(await write_captions(server, loaded, [image], 1, **sampling))
    return caption


def cut_at_stop(caption: Caption, stop: str | Sequence[str] | None) -> Caption:
    """A caption cut before the first stop text in it."""
    stops = [stop] if isinstance(stop, str) else stop or ()
    places = [caption.text.find(text) for text in stops if text and text in caption.text]
    if not places:
        return caption
    return replace(caption, text=caption.text[: min(places)], ended=True)


def finish_reason(caption: Caption) -> str:
    return "stop" if caption.ended else "length"


async def stream_events(
    head: dict[str, Any], caption: Caption, usage: dict[str, int] | None
) -> AsyncIterator[str]:
    """The text word by word, as server-sent events; usage: in an event at the end, if any."""
    head = head | {"object": "chat.completion.chunk"}
    if usage is not None:
        head["usage"] = None  # of all events but the last
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": word}, None) for word in re.findall(r"\s*\S+", caption.text)]
    deltas.append(({}, finish_reason(caption)))
    for delta, reason in deltas:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        yield event(head | {"choices": [choice]})
    if usage is not None:
        yield event(head | {"choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def event(content: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content)}\n\n"
