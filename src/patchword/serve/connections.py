"""Connections that take long to say what they want, or never end to say it, are closed: they would
hold a file handle each, and memory, before any key is asked for."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from patchword.serve.refusals import RefusalError

SECONDS = 20.0  # for the head of a request: its first line and headers
BYTES = 1 << 16  # of it


class Connection(HttpToolsProtocol):
    """A connection of a server, whose requests begin in time."""

    _late: asyncio.TimerHandle | None = None
    _size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self._late is None and not self.transport.is_closing():
            self._begin()  # of the next one, by an empty line
        if self._late is not None:  # the head goes on
            self._size += len(data)
            if self._size > BYTES and not self.transport.is_closing():
                self.send_400_response(f"A request begins with more than {BYTES} bytes.")

    def send_400_response(self, msg: str) -> None:
        """Of what is no request: an error in the form of all others."""
        content = json.dumps(RefusalError(400, "invalid_request", msg).body).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        self._end()
        super().on_headers_complete()

    def _begin(self) -> None:
        self._end()
        self._size = 0
        self._late = self.loop.call_later(SECONDS, self.transport.close)

    def _end(self) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = None
