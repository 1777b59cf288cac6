"""Captions and answers as OpenAI's chat with images has them.

A text that asks something is a question about the image, any other asks for a caption, and so does
one that asks what the image shows in all. The models here know one image and no conversation: the
last user's message with an image counts.
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
from pydantic import BaseModel, ConfigDict, Field

from patchword.serve import prompts
from patchword.serve.bodies import Flag, Number, Several, Whole
from patchword.serve.error_responses import RefusalError
from patchword.serve.jobs import TINY, answer, captions, only
from patchword.serve.models import Opened
from patchword.serve.request_warnings import say
from patchword.serve.server import (
    Answer,
    Server,
    router,
    say_ignored,
    say_unused,
    server_of,
    with_warnings,
)
from patchword.tasks.caption import Caption

SILENT = {"user", "store", "metadata", "service_tier"}  # change no answer of any server

routes = router("openai")


class Message(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Several[dict[str, Any]] | None = None


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
    messages: Several[Message]
    stream: Flag | None = False
    stream_options: dict[str, Any] | None = None
    n: Whole | None = Field(1, ge=1, le=1, description="One answer.")
    max_tokens: Whole | None = Field(None, ge=1)
    max_completion_tokens: Whole | None = Field(None, ge=1)
    stop: str | Several[str] | None = None
    response_format: dict[str, Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    temperature: Number | None = Field(None, ge=0, le=2, description="0: beam search.")
    top_p: Number | None = Field(None, gt=0, le=1)
    seed: Whole | None = None


@routes.post("/v1/chat/completions", summary="A caption, or the answer to a question")
async def chat(request: Request, body: Chat) -> Response:
    server = server_of(request)
    possible(body)
    image, text = asked(body.messages)
    server.readable([text])
    opened, question = await writer(server, body.model, text)
    unused(body, question, text)
    with server.admission.of(1):
        found = await written(server, opened, image, text if question else None, body)
    tokens = len(found.token_log_probabilities)
    name = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    most = getattr(body, name)
    if most is not None and tokens > most:
        say([f"{name} is {most}, and the text has {tokens}: texts here are not cut"])
    found = stopped(found, body.stop)
    prompt = await server.decoder.run(lambda: len(opened.model.reader().rows([text])[0]))
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
    }
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": opened.name,
    }
    if body.stream:
        wanted = bool((body.stream_options or {}).get("include_usage"))
        events = streamed(with_warnings(head), found, usage if wanted else None)
        return StreamingResponse(events, media_type="text/event-stream")
    message = {"role": "assistant", "content": found.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason_of(found)}
    return Answer(with_warnings(head | {"choices": [choice], "usage": usage}))


async def writer(server: Server, name: str | None, text: str) -> tuple[Opened, bool]:
    """The model that writes, and whether it is asked a question; a text that asks what an image
    shows in all is one for a model that writes no captions. Raises RefusalError."""
    question = prompts.is_question(text)
    if question and prompts.is_of_the_whole(text):
        with suppress(RefusalError):
            return await server.models.get(name, "caption"), False
    return await server.models.get(name, "ask" if question else "caption"), question


def possible(body: Chat) -> None:
    """Raise RefusalError for what would be no answer of the form that was asked for."""
    kind = (body.response_format or {}).get("type", "text")
    if kind != "text":
        said = f"response_format {str(kind)[:40]!r}: the models here write plain text"
        raise RefusalError(400, "unsupported", said, "response_format")
    if body.tool_choice not in (None, "none", "auto"):
        said = "tool_choice: the models here call no tools"
        raise RefusalError(400, "unsupported", said, "tool_choice")


def stopped(found: Caption, stop: str | Sequence[str] | None) -> Caption:
    """What was written before the first of the texts that end it."""
    ends = [stop] if isinstance(stop, str) else stop or ()
    places = [found.text.find(end) for end in ends if end and end in found.text]
    return replace(found, text=found.text[: min(places)], ended=True) if places else found


def asked(messages: Sequence[Message]) -> tuple[str, str]:
    """The image, and the last user's text. Raises RefusalError where there is not one image."""
    image, text = None, ""
    for message in messages:
        if message.role != "user":
            continue
        content = message.content
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        for part in parts:
            known(part)
        images = [address(part) for part in parts if part["type"] == "image_url"]
        if len(images) > 1:
            said = f"a message has one image; here are {len(images)}: send one at a time"
            raise RefusalError(400, "images", said, "messages")
        image = images[0] if images else image
        words = [part["text"] for part in parts if part["type"] == "text"]
        text = " ".join(words).strip()
    if image is None:
        said = "no image: a user's message needs a part of type image_url, a data URI"
        raise RefusalError(400, "no_image", said, "messages")
    return image, text


def known(part: dict[str, Any]) -> None:
    """Raise RefusalError for a part of a message that is neither a text nor an image."""
    kind = part.get("type")
    if kind not in ("text", "image_url"):
        said = f"a part of a message has the type text or image_url, not {str(kind)[:40]!r}"
        raise RefusalError(400, "part", said, "messages")
    if kind == "text" and not isinstance(part.get("text"), str):
        raise RefusalError(400, "part", "a part of type text needs text, a string", "messages")


def address(part: dict[str, Any]) -> str:
    """Where the image of a part is. Raises RefusalError where that is not said."""
    found = part.get("image_url")
    url = found.get("url") if isinstance(found, dict) else found
    if not isinstance(url, str):
        raise RefusalError(400, "image", "image_url needs a url: a data URI", "messages")
    if isinstance(found, dict):
        usual = {"url"} | ({"detail"} if found.get("detail") in (None, "auto") else set())
        say_ignored(set(found) - usual)
    return url


def unused(body: Chat, question: bool, text: str) -> None:
    """Say what of a request means nothing here."""
    say_unused(body, SILENT)
    say_ignored({"tool_choice"} if body.tool_choice is not None else set())
    if body.stream:
        say_ignored(set(body.stream_options or ()) - {"include_usage"})
    elif body.stream_options:
        say_ignored({"stream_options"})
    said = []
    if len(body.messages) > 1:
        said.append("only the last user's message is read, and no instructions or earlier turns")
    if not question and text and not prompts.describes(text):
        said.append("the text was taken for a request for a caption; a question ends in ?")
    say(said)


async def written(
    server: Server, opened: Opened, image: str, question: str | None, body: Chat
) -> Caption:
    """The answer to a question, or a caption where there is none."""
    sampled: dict[str, Any] = {}
    top_p = None if body.top_p == 1 else body.top_p  # 1 leaves nothing out
    if body.temperature == 0:
        say_ignored({"top_p, at temperature 0"} if top_p else set())
    elif body.temperature or top_p:
        sampled = {"temperature": body.temperature, "top_p": top_p, "seed": body.seed or 0}
    if question is not None:
        return await answer(server, opened, image, question, None, **sampled)
    found: Caption = only(await captions(server, opened, [image], 1, **sampled))
    return found


def reason_of(found: Caption) -> str:
    """Why a text is over."""
    return "stop" if found.ended else "length"


async def streamed(
    head: dict[str, Any], found: Caption, usage: dict[str, int] | None
) -> AsyncIterator[str]:
    """Server-sent events: the text word by word, as clients that stream want it."""
    head = head | {"object": "chat.completion.chunk"}
    if usage is not None:
        head["usage"] = None  # of all but the last
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": word}, None) for word in re.findall(r"\s*\S+", found.text)]
    deltas.append(({}, reason_of(found)))
    for delta, reason in deltas:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        yield event(head | {"choices": [choice]})
    if usage is not None:
        yield event(head | {"choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def event(content: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content)}\n\n"
