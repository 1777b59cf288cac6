"""Connections that say nothing, say it slowly, or say too much; and sites that do."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from fastapi import FastAPI, Response
from local_server import RING, running, sent

from patchword.errors import ImageError
from patchword.serve import connections, fetching
from patchword.serve.app import create_app
from patchword.serve.settings import Settings

HEAD = b"GET /static/page.css HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[str, int]]:
    settings = Settings(models=("demo",), max_bytes=1 << 20)
    with running(create_app(settings)) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        yield host, int(port)


def ended(connection: socket.socket) -> bytes:
    """What a server says before it closes a connection."""
    connection.settimeout(10)
    found = b""
    while part := connection.recv(1 << 16):
        found += part
    return found


@pytest.mark.parametrize("said", [b"NOTHING", b"FOO / HTTP/1.1", HEAD + b"Content-Length: -5"])
def test_what_is_no_request_is_answered_as_all_others(place: tuple[str, int], said: bytes) -> None:
    with socket.create_connection(place) as connection:
        connection.sendall(said + b"\r\n\r\n")
        head, _, body = ended(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"connection: close" in head
    assert json.loads(body)["error"] == {
        "message": "Invalid HTTP request received.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request",
    }


@pytest.mark.parametrize("begun", [b"", b"GET / HT", HEAD, HEAD + b"X-Long: "])
def test_a_request_that_does_not_begin_is_not_waited_for(
    place: tuple[str, int], begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SECONDS", 0.2)
    with socket.create_connection(place) as connection:
        connection.sendall(begun)
        assert ended(connection) == b""


def test_nor_the_next_one_of_a_connection(
    place: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SECONDS", 0.2)
    with socket.create_connection(place) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(1 << 20).startswith(b"HTTP/1.1 200")
        time.sleep(0.1)
        connection.sendall(b"\r\n")  # an empty line, then nothing
        started = time.monotonic()
        ended(connection)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("part", [b"X-Long: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
def test_a_head_without_end_is_refused(place: tuple[str, int], part: bytes) -> None:
    with socket.create_connection(place) as connection:
        connection.sendall(HEAD if part.endswith(b"\n") else b"GET /")
        sent = 0
        with suppress(OSError):  # reset, or a broken pipe
            while sent < 1000:
                connection.sendall(part)
                sent += 1
                time.sleep(0.0005)
        assert sent < 500


def test_an_answer_that_nobody_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD", 0.1)
    app, size = FastAPI(), 32 << 20

    @app.get("/")
    async def large() -> Response:
        return Response(bytes(size))

    with running(app) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.5)
            found = 0
            with suppress(OSError):  # reset
                while part := connection.recv(1 << 20):
                    found += len(part)
    assert found < size


def test_who_sends_too_much_reads_why(place: tuple[str, int]) -> None:
    """Most clients read no answer before they have sent all; this one was told that the connection
    is reset."""
    body = b"x" * (5 << 20)
    head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(place) as connection:
        connection.sendall(head.encode() + body)
        answer = ended(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"send fewer images, or smaller ones" in answer


class _Slow(http.server.BaseHTTPRequestHandler):
    """Answers with headers that never end."""

    def do_GET(self) -> None:
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                self.wfile.write(b"X-More: 1\r\n")
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address that never answers, on this machine, which is taken for the open internet."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(fetching, "public", lambda address: True)
    yield f"http://127.0.0.1:{server.server_port}/x.jpg"
    server.shutdown()
    server.server_close()


def test_a_site_that_never_ends_its_headers_is_cut(slow: str) -> None:
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"not here after 0\.3 seconds"):
        fetching.fetched(slow, Settings(seconds=0.3))
    assert time.monotonic() - started < 3


def test_slow_sites_keep_nobody_else_waiting(slow: str) -> None:
    settings = Settings(models=("demo",), allow_urls=True, seconds=5)
    with running(create_app(settings)) as address:

        def ask(images: list[str]) -> dict[str, Any]:
            body = json.dumps({"images": images, "texts": ["a red ring"]}).encode()
            request = Request(
                f"{address}/v1/similarity", body, {"Content-Type": "application/json"}
            )
            with urlopen(request) as answer:
                found: dict[str, Any] = json.load(answer)
                return found

        ask([sent(RING)])
        late: list[int] = []

        def wait() -> None:
            try:
                ask([slow] * 40)
            except HTTPError as error:
                late.append(error.code)

        other = threading.Thread(target=wait)
        other.start()
        time.sleep(0.5)
        started = time.monotonic()
        assert ask([sent(RING)])["cosines"][0] is not None
        assert time.monotonic() - started < 3
        other.join()
        assert late == [503]


def test_bodies_that_fill_the_memory_are_refused(place: tuple[str, int]) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with ExitStack() as open_:
        for _ in range(16):  # each of a megabyte but for its last byte
            connection = open_.enter_context(socket.create_connection(place))
            connection.sendall(head + b"x" * 999_999)
        last = open_.enter_context(socket.create_connection(place))
        last.sendall(head + b"x" * 1_000_000)
        answer = ended(last)
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 1" in answer
    for _ in range(100):  # and forgotten when they left
        with socket.create_connection(place) as connection:
            connection.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            connection.sendall(b"x" * 1_000_000)
            answer = ended(connection)
        if answer.startswith(b"HTTP/1.1 400"):
            return
        time.sleep(0.05)
    raise AssertionError(answer)
