"""Connections are closed when a client takes too long to send the head of its request, or sends an
endless one: each holds a file handle and memory before any key is checked. So are connections of
clients that do not read their answer, which stays in memory until they do."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from patchword.serve.error_responses import RefusalError

HEAD_SECONDS = 20.0  # for the head of a request: its first line and headers
HEAD_BYTES = 1 << 16
STALL_SECONDS = 60.0  # in which a client must read some of the answer that waits for it


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits of time and size."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_size = 0  # bytes
    _stall_timer: asyncio.TimerHandle | None = None
    _unsent = 0  # bytes of an answer, when the timer was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._cancel_stall_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._check_stall()

    def resume_writing(self) -> None:
        self._cancel_stall_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self._head_timer is None and not self.transport.is_closing():
            self._begin_head()  # an empty line begins the next request
        if self._head_timer is not None:  # the head is not complete
            self._head_size += len(data)
            if self._head_size > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"A request begins with more than {HEAD_BYTES} bytes.")

    def send_400_response(self, msg: str) -> None:
        """Answer what is not a request with an error in the form of all others."""
        content = json.dumps(RefusalError(400, "invalid_request", msg).body).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def _begin_head(self) -> None:
        self._end_head()
        self._head_size = 0
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = None

    def _check_stall(self) -> None:
        """End the connection if the client has read nothing since the last check."""
        unsent = self.transport.get_write_buffer_size()
        if self._stall_timer is not None and unsent >= self._unsent:
            self.transport.abort()  # close() would wait until everything is read
            return
        self._unsent = unsent
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self._check_stall)

    def _cancel_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        self._stall_timer = None
