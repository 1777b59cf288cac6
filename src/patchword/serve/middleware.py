"""What every request passes: access checks, limits of its body, the log; and cancellation when the
client leaves."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from patchword.serve import security
from patchword.serve.error_responses import RefusalError
from patchword.serve.queue import deadline
from patchword.serve.request_warnings import collect_warnings
from patchword.serve.settings import Settings

REQUEST_ID = re.compile(r"[\w.-]{1,64}")
CLIENT_LEFT = 499  # the status that nginx logs
MAX_BODIES = 16  # times max_bytes: bytes of all bodies in memory at once
MAX_DISCARDED = 16  # times max_bytes: bytes that are read of the body of a refused request
DISCARD_SECONDS = 30.0  # the longest time for that

log = logging.getLogger("patchword.serve")

Count = Callable[[str, int, float], None]  # (route, status, seconds) of a request


class ClientLeftError(Exception):
    """The client left before its request was complete."""


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, settings: Settings, count: Count) -> None:
        """count: called after each request."""
        self.app = app
        self.settings = settings
        self.count = count
        self.body_bytes = 0  # of all requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:  # a web socket: there are none
            await send({"type": "websocket.close", "code": 1008})


class _Exchange:
    """One request and its answer."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.app, self.settings, self.count = gate.app, gate.settings, gate.count
        self.gate = gate
        self.size = 0  # bytes of the body so far
        self.method = scope["method"]
        if self.method == "HEAD":  # answered as GET; uvicorn leaves the content out
            scope = {**scope, "method": "GET"}
        self.scope, self.receive, self.send = scope, receive, send
        self.headers = Headers(scope=scope)
        request_id = self.headers.get("x-request-id", "")
        self.id = request_id if REQUEST_ID.fullmatch(request_id) else secrets.token_hex(8)
        self.status = CLIENT_LEFT
        self.answer_begun = False
        self.more_body = True

    async def run(self) -> None:
        """Answer the request, and log it without its content."""
        started = time.monotonic()
        path = self.scope["path"]
        deadline.set(started + self.settings.seconds)
        self.scope.setdefault("state", {})["request_id"] = self.id
        try:
            security.check(self.settings, path, self.headers)
            body = await self._read_body()
            with collect_warnings():
                await self._answer(body)
        except RefusalError as refusal:
            await self._refuse(refusal)
        except ClientLeftError:
            pass
        except asyncio.CancelledError:  # the server ends, and no longer waits for its requests
            message = "the server is ending; send the request again"
            await self._refuse(RefusalError(503, "closing", message, retry_after=1))
        except Exception as error:  # a bug: the log explains it, the answer does not
            log.error("%s failed", self.id, exc_info=error)
            message = f"the server failed; its log says more of request {self.id}"
            await self._refuse(RefusalError(500, "internal", message))
        finally:
            self.gate.body_bytes -= self.size
            seconds = time.monotonic() - started
            route = getattr(self.scope.get("route"), "path", "other")
            self.count(route, self.status, seconds)
            log.info(
                "%s %s %s %d %.1f ms", self.id, self.method, _one_line(path), self.status,
                seconds * 1000,
            )  # fmt: skip

    async def _read_body(self) -> bytes:
        """The body. Raises RefusalError beyond the limits of size and time, and ClientLeftError."""
        coding = self.headers.get("content-encoding", "identity").lower()
        if coding not in ("", "identity"):
            message = f"Content-Encoding {coding[:40]!r} is not read: send the body as it is"
            raise RefusalError(415, "encoding", message)
        max_bytes = self.settings.max_bytes
        message = f"a request may have {max_bytes:,} bytes: send fewer images, or smaller ones"
        too_large = RefusalError(413, "too_large", message)
        length = self.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > max_bytes:
            raise too_large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.settings.seconds):
                while self.more_body:
                    event = await self.receive()
                    if event["type"] == "http.disconnect":
                        raise ClientLeftError
                    part = event.get("body", b"")
                    self.more_body = event.get("more_body", False)
                    parts.append(part)
                    self.size += len(part)
                    self.gate.body_bytes += len(part)
                    if self.size > max_bytes:
                        raise too_large
                    if self.gate.body_bytes > MAX_BODIES * max_bytes:
                        message = "other requests fill the memory: send the request again later"
                        raise RefusalError(429, "busy", message, retry_after=1)
        except TimeoutError:
            seconds = self.settings.seconds
            raise RefusalError(
                408, "slow", f"the request was not whole after {seconds:g} seconds"
            ) from None
        return b"".join(parts)

    async def _answer(self, body: bytes) -> None:
        """Let the application answer; cancel it when the client leaves."""
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        client_left = asyncio.Event()

        async def receive() -> Message:
            if unread:
                return unread.pop()
            await client_left.wait()
            return {"type": "http.disconnect"}

        async def wait_for_disconnect() -> None:
            while (await self.receive())["type"] != "http.disconnect":
                pass
            client_left.set()

        work = asyncio.ensure_future(self.app(self.scope, receive, self._send))
        disconnect = asyncio.ensure_future(wait_for_disconnect())
        try:
            await asyncio.wait({work, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            disconnect.cancel()
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    async def _send(self, message: Message) -> None:
        """Send a part of the answer; add headers to the first."""
        if message["type"] == "http.response.start":
            self.answer_begun, self.status = True, message["status"]
            present = {name for name, _ in message["headers"]}
            defaults = (*security.HEADERS, (b"cache-control", b"no-store"))
            message["headers"] = [
                *message["headers"],
                *(header for header in defaults if header[0] not in present),
                (b"x-request-id", self.id.encode()),
            ]
        await self.send(message)

    async def _refuse(self, refusal: RefusalError) -> None:
        if self.answer_begun:
            return
        if refusal.status != 408:
            await self._discard_body()
        from patchword.serve.server import Answer

        headers = refusal.headers | {"Connection": "close"}  # the rest of the body is not read
        answer = Answer(refusal.body, refusal.status, headers)
        await answer(self.scope, self.receive, self._send)

    async def _discard_body(self) -> None:
        """Read the rest of the body, for a while: most clients read no answer before they have sent
        everything, and would report a broken connection instead. A client that sent Expect waits
        and sends nothing."""
        if "expect" in self.headers:
            return
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(min(DISCARD_SECONDS, self.settings.seconds)):
                while self.more_body and size < MAX_DISCARDED * self.settings.max_bytes:
                    part = await self.receive()
                    self.more_body = part.get("more_body", False)
                    size += len(part.get("body", b""))


def _one_line(path: Any) -> str:
    """A path for one line of a log."""
    return ascii(path)[1:-1][:200]
