"""What every request passes: checks, limits of its body, its number in the log; and the end of all
work for a client that left."""

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
from patchword.serve.request_warnings import heard
from patchword.serve.settings import Settings

ID = re.compile(r"[\w.-]{1,64}")
GONE = 499  # as nginx logs a client that left
BODIES = 16  # times the bytes of a request: that many are in memory at once
SKIMMED = 16  # times the bytes of a request, and
SKIMMED_SECONDS = 30.0  # that are read of one that is refused

log = logging.getLogger("patchword.serve")


Count = Callable[[str, int, float], None]


class LeftError(Exception):
    """The client left before its request was whole."""


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, settings: Settings, count: Count) -> None:
        """count: is told route, status and seconds of each request."""
        self.app = app
        self.settings = settings
        self.count = count
        self.held = 0  # bytes of bodies of all requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Passage(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:  # a web socket, of which there are none
            await send({"type": "websocket.close", "code": 1008})


class _Passage:
    """One request."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.app, self.settings, self.count = gate.app, gate.settings, gate.count
        self.gate = gate
        self.size = 0  # bytes of its body so far
        self.method = scope["method"]
        if self.method == "HEAD":  # as GET; the server leaves the content out
            scope = {**scope, "method": "GET"}
        self.scope, self.receive, self.out = scope, receive, send
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.id = given if ID.fullmatch(given) else secrets.token_hex(8)
        self.status = GONE
        self.begun = False
        self.more = True  # of the body is to come

    async def run(self) -> None:
        """Answer the request, and log it without what it holds."""
        started = time.monotonic()
        path = self.scope["path"]
        deadline.set(started + self.settings.seconds)
        self.scope.setdefault("state", {})["request_id"] = self.id
        try:
            security.check(self.settings, path, self.headers)
            body = await self._body()
            with heard():
                await self._answer(body)
        except RefusalError as refusal:
            await self._refuse(refusal)
        except LeftError:
            pass
        except asyncio.CancelledError:  # the server ends, and waits no longer for its requests
            message = "the server is ending; send the request again"
            await self._refuse(RefusalError(503, "closing", message, retry_after=1))
        except Exception as error:  # a fault of ours, which the log explains and an answer does not
            log.error("%s failed", self.id, exc_info=error)
            message = f"the server failed; its log says more of request {self.id}"
            await self._refuse(RefusalError(500, "internal", message))
        finally:
            self.gate.held -= self.size
            seconds = time.monotonic() - started
            spent = seconds * 1000
            route = getattr(self.scope.get("route"), "path", "other")
            self.count(route, self.status, seconds)
            log.info(
                "%s %s %s %d %.1f ms", self.id, self.method, _plain(path), self.status,
                spent,
            )  # fmt: skip

    async def _body(self) -> bytes:
        """The body, within the limits of size and time."""
        coding = self.headers.get("content-encoding", "identity").lower()
        if coding not in ("", "identity"):
            said = f"Content-Encoding {coding[:40]!r} is not read: send the body as it is"
            raise RefusalError(415, "encoding", said)
        most = self.settings.max_bytes
        said = f"a request may have {most:,} bytes: send fewer images, or smaller ones"
        too_large = RefusalError(413, "too_large", said)
        length = self.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise too_large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.settings.seconds):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise LeftError
                    self.more = message.get("more_body", False)
                    parts.append(message.get("body", b""))
                    self.size += len(parts[-1])
                    self.gate.held += len(parts[-1])
                    if self.size > most:
                        raise too_large
                    if self.gate.held > BODIES * most:
                        said = "other requests fill the memory: send the request again later"
                        raise RefusalError(429, "busy", said, retry_after=1)
                    if not self.more:
                        return b"".join(parts)
        except TimeoutError:
            seconds = self.settings.seconds
            raise RefusalError(
                408, "slow", f"the request was not whole after {seconds:g} seconds"
            ) from None

    async def _answer(self, body: bytes) -> None:
        """Let the application answer; when the client leaves it is stopped."""
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        left = asyncio.Event()

        async def receive() -> Message:
            if whole:
                return whole.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def leave() -> None:
            while (await self.receive())["type"] != "http.disconnect":
                pass
            left.set()

        work = asyncio.ensure_future(self.app(self.scope, receive, self._send))
        leaving = asyncio.ensure_future(leave())
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            leaving.cancel()
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            present = {name for name, _ in message["headers"]}
            more = [pair for pair in security.HEADERS if pair[0] not in present]
            message["headers"] = [
                *message["headers"], *more, (b"x-request-id", self.id.encode()),
            ]  # fmt: skip
            if b"cache-control" not in present:
                message["headers"].append((b"cache-control", b"no-store"))
        await self.out(message)

    async def _refuse(self, refusal: RefusalError) -> None:
        if self.begun:
            return
        if refusal.status != 408:
            await self._skim()
        from patchword.serve.server import Answer

        headers = refusal.headers | {"Connection": "close"}  # what of the body comes is not read
        answer = Answer(refusal.body, refusal.status, headers)
        await answer(self.scope, self.receive, self._send)

    async def _skim(self) -> None:
        """Read what is still to come of a body, for a while: most clients read no answer before
        they have sent all, and find the connection broken instead. Not of one that waits to be told
        to send it."""
        if "expect" in self.headers:
            return
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(min(SKIMMED_SECONDS, self.settings.seconds)):
                while self.more and size < SKIMMED * self.settings.max_bytes:
                    part = await self.receive()
                    self.more = part.get("more_body", False)
                    size += len(part.get("body", b""))


def _plain(path: Any) -> str:
    """A path for one line of a log."""
    return ascii(path)[1:-1][:200]
