"""Clients and sites that send nothing, send slowly, or send too much."""

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
from local_server import RING, listening, running, sent

from patchword.errors import ImageError
from patchword.serve import connections, fetching
from patchword.serve.app import create_app
from patchword.serve.settings import Settings

HEAD = b"GET /static/page.css HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """Host and port."""
    with listening(create_app(Settings(models=("demo",), max_bytes=1 << 20))) as server:
        yield server


def read_to_end(connection: socket.socket) -> bytes:
    """What a server sends before it closes a connection."""
    connection.settimeout(10)
    content = b""
    while part := connection.recv(1 << 16):
        content += part
    return content


@pytest.mark.parametrize("head", [b"NOTHING", b"FOO / HTTP/1.1", HEAD + b"Content-Length: -5"])
def test_invalid_http_gets_an_error_in_the_usual_form(server: tuple[str, int], head: bytes) -> None:
    with socket.create_connection(server) as connection:
        connection.sendall(head + b"\r\n\r\n")
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"connection: close" in head
    assert json.loads(body)["error"] == {
        "message": "Invalid HTTP request received.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request",
    }


@pytest.mark.parametrize("begun", [b"", b"GET / HT", HEAD, HEAD + b"X-Long: "])
def test_a_connection_without_a_complete_head_is_closed(
    server: tuple[str, int], begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with socket.create_connection(server) as connection:
        connection.sendall(begun)
        assert read_to_end(connection) == b""


def test_so_is_one_without_a_complete_second_head(
    server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with socket.create_connection(server) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(1 << 20).startswith(b"HTTP/1.1 200")
        time.sleep(0.1)
        connection.sendall(b"\r\n")  # an empty line, then nothing
        started = time.monotonic()
        read_to_end(connection)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("part", [b"X-Long: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
def test_an_endless_head_is_refused(server: tuple[str, int], part: bytes) -> None:
    with socket.create_connection(server) as connection:
        connection.sendall(HEAD if part.endswith(b"\n") else b"GET /")
        parts = 0
        with suppress(OSError):  # reset, or a broken pipe
            while parts < 1000:
                connection.sendall(part)
                parts += 1
                time.sleep(0.0005)
        assert parts < 500


def test_an_answer_that_nobody_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.1)
    app, size = FastAPI(), 32 << 20

    @app.get("/")
    async def large() -> Response:
        return Response(bytes(size))

    with listening(app) as server, socket.create_connection(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.5)
        received = 0
        with suppress(OSError):  # reset
            while part := connection.recv(1 << 20):
                received += len(part)
    assert received < size


def test_a_client_that_sends_too_much_can_read_why(server: tuple[str, int]) -> None:
    """Most clients read no answer before they have sent everything: they would only see that the
    connection is reset."""
    body = b"x" * (5 << 20)
    head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(server) as connection:
        connection.sendall(head.encode() + body)
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"send fewer images, or smaller ones" in answer


class _EndlessHeaders(http.server.BaseHTTPRequestHandler):
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
    """The address of a site on this machine that never ends its headers. Every address counts as
    public."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _EndlessHeaders)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(fetching, "public", lambda address: True)
    yield f"http://127.0.0.1:{server.server_port}/x.jpg"
    server.shutdown()
    server.server_close()


def test_fetching_from_a_site_with_endless_headers_ends_in_time(slow: str) -> None:
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"not here after 0\.3 seconds"):
        fetching.fetch_image(slow, Settings(seconds=0.3))
    assert time.monotonic() - started < 3


def test_slow_sites_delay_no_other_request(slow: str) -> None:
    settings = Settings(models=("demo",), allow_urls=True, seconds=5)
    with running(create_app(settings)) as address:

        def ask(images: list[str]) -> dict[str, Any]:
            body = json.dumps({"images": images, "texts": ["a red ring"]}).encode()
            request = Request(
                f"{address}/v1/similarity", body, {"Content-Type": "application/json"}
            )
            with urlopen(request) as response:
                answer: dict[str, Any] = json.load(response)
                return answer

        ask([sent(RING)])
        statuses: list[int] = []

        def ask_slow_site() -> None:
            try:
                ask([slow] * 40)
            except HTTPError as error:
                statuses.append(error.code)

        other = threading.Thread(target=ask_slow_site)
        other.start()
        time.sleep(0.5)
        started = time.monotonic()
        assert ask([sent(RING)])["cosines"][0] is not None
        assert time.monotonic() - started < 3
        other.join()
        assert statuses == [503]


def test_bodies_that_fill_the_memory_are_refused(server: tuple[str, int]) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(16):  # each a megabyte without its last byte
            connection = stack.enter_context(socket.create_connection(server))
            connection.sendall(head + b"x" * 999_999)
        last = stack.enter_context(socket.create_connection(server))
        last.sendall(head + b"x" * 1_000_000)
        answer = read_to_end(last)
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 1" in answer
    for _ in range(100):  # until the server has noticed that the clients left
        with socket.create_connection(server) as connection:
            connection.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            connection.sendall(b"x" * 1_000_000)
            answer = read_to_end(connection)
        if answer.startswith(b"HTTP/1.1 400"):
            return
        time.sleep(0.05)
    raise AssertionError(answer)
