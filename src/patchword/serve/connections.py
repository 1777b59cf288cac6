"""Connections that take long to say what they want, or never end to say it, are closed: they would
hold a file handle each, and memory, before any key is asked for. So are those that read nothing of
their answer, which lies in memory until they do."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from patchword.serve.error_responses import RefusalError

SECONDS = 20.0  # for the head of a request: its first line and headers
BYTES = 1 << 16  # of it
UNREAD = 60.0  # seconds in which a client reads something of an answer that waits for it


class Connection(HttpToolsProtocol):
    """A connection of a server, whose requests begin in time."""

    _late: asyncio.TimerHandle | None = None
    _size = 0
    _stalled: asyncio.TimerHandle | None = None
    _waiting = 0  # bytes of an answer that are not sent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        self._read()
        super().resume_writing()

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

    def _look(self) -> None:
        """Whether something was read since; end the connection where nothing was."""
        waiting = self.transport.get_write_buffer_size()
        if self._stalled is not None and waiting >= self._waiting:
            self.transport.abort()  # to close it waits until all is read
            return
        self._waiting = waiting
        self._stalled = self.loop.call_later(UNREAD, self._look)

    def _read(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        self._stalled = None
