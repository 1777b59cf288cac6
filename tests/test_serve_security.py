"""Access checks, limits of requests, and addresses that images may be fetched from."""

import asyncio
import http.server
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from local_server import AT, RING, http_scope, listening, sent
from typer.testing import CliRunner

from patchword.cli import app as commands
from patchword.errors import ConfigError, ImageError, PatchwordError
from patchword.serve import fetching
from patchword.serve.app import create_app
from patchword.serve.settings import Settings

SAFE = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}


def client(**settings: Any) -> TestClient:
    """A client without a lifespan: the server loads no model by itself."""
    return TestClient(create_app(Settings(**settings)), base_url=AT)


def error_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture(scope="module")
def local() -> TestClient:
    return client()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 404),
        ({"host": "localhost:9"}, 404),
        ({"host": "[::1]:9"}, 404),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8000"}, 403),
        ({"host": "localhost@evil.example"}, 403),
        ({"host": ""}, 403),
        ({"origin": AT}, 404),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"host": "["}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),  # an <img>
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, 403),  # of another port
        ({**LINK, "sec-fetch-dest": "iframe"}, 403),
        ({**LINK, "sec-fetch-dest": "document"}, 404),  # a link that a person follows
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, 404),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, 404),
        ({"host": "127.0.0.2:9"}, 404),
        ({"host": "10.0.0.1:9"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused(
    local: TestClient, headers: dict[str, str], expected: int
) -> None:
    answer = local.get("/v1/index", headers=headers)
    assert answer.status_code == expected
    for name, value in SAFE.items():
        assert answer.headers[name] == value
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert len(answer.headers["x-request-id"]) == 16


def test_a_server_with_a_key_requires_it() -> None:
    remote = client(host="0.0.0.0", api_key="s3cret")
    host = {"host": "photos.example"}
    assert error_of(remote.get("/v1/index", headers=host)) == (401, "invalid_api_key")
    for wrong in ("Bearer s3cre", "Bearer s3crett", "Basic s3cret", "Bearer ", "Bearer é"):
        shown = {**host, "authorization": wrong.encode("latin-1")}
        assert remote.get("/v1/index", headers=shown).status_code == 401
    for right in (
        {"authorization": "Bearer s3cret"},
        {"x-api-key": "s3cret"},
        {"cookie": "a=b; patchword_key=s3cret"},
    ):
        assert error_of(remote.get("/v1/index", headers={**host, **right})) == (
            404,
            "no_index",
        )
    assert error_of(remote.get("/ready", headers=host)) == (503, "loading")
    assert remote.get("/metrics", headers=host).status_code == 401
    assert "s3cret" not in repr(remote.app.state.server.settings)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="give an API key"):
        Settings(host="0.0.0.0")
    for unsendable in ("", " ", "s3cret\n", " s3cret", "s3\x00cret", "sécret"):
        with pytest.raises(ConfigError, match="must not be empty"):
            Settings(host="::", api_key=unsendable)
    for loopback in ("127.0.0.1", "::1", "localhost", "127.3.4.5"):
        assert Settings(host=loopback).on_loopback


def test_health_checks_without_the_key_name_no_model_and_share_one_computation() -> None:
    app = create_app(Settings(host="0.0.0.0", api_key="s3cret", models=("demo",)))
    with TestClient(app, base_url="http://photos.example") as remote:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: remote.get("/health"), range(24)))
        assert {answer.text for answer in answers} == {'{"healthy":true}'}
        assert remote.get("/ready").json() == {"ready": True}
        key = {"x-api-key": "s3cret"}
        assert remote.get("/health", headers=key).json() == {"healthy": True, "model": "demo"}
        assert remote.get("/ready", headers=key).json() == {"ready": True, "models": ["demo"]}
        counts = remote.get("/metrics", headers=key).text
    computed = re.search(r'batch_items_sum\{model="demo"\} (\d+)', counts)
    assert computed
    assert int(computed[1]) < 24


def test_health_errors_without_the_key_name_no_path(tmp_path: Path) -> None:
    broken = str(tmp_path / "private")
    remote = client(host="0.0.0.0", api_key="s3cret", models=(broken,))
    assert error_of(remote.get("/health")) == (503, "model")
    assert "private" not in remote.get("/health").text
    assert "private" in remote.get("/health", headers={"x-api-key": "s3cret"}).text


def test_a_body_that_is_too_large_is_refused() -> None:
    limited = client(max_bytes=1000)
    assert error_of(limited.post("/v1/classify", content=b"x" * 1001)) == (413, "too_large")
    assert error_of(limited.post("/v1/classify", content=iter([b"x" * 600] * 2))) == (
        413,
        "too_large",
    )
    assert limited.post("/v1/classify", content=iter([b"x" * 400] * 2)).status_code == 400


def test_a_slow_body_is_refused_and_a_client_that_left_gets_no_answer() -> None:
    app = create_app(Settings(seconds=0.1))

    async def ask(events: list[dict[str, Any]]) -> list[Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if events:
                return events.pop(0)
            await asyncio.sleep(60)
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        scope = http_scope("POST", "/v1/classify")
        await app(scope, receive, send)  # type: ignore[arg-type]
        return sent

    part = {"type": "http.request", "body": b"{", "more_body": True}
    assert asyncio.run(ask([part]))[0]["status"] == 408
    assert asyncio.run(ask([part, {"type": "http.disconnect"}])) == []


def test_work_for_a_client_that_leaves_is_cancelled() -> None:
    app = create_app(Settings())
    stopped = threading.Event()

    @app.get("/slow")
    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    app.router.routes.insert(0, app.router.routes.pop())
    with listening(app) as server, socket.create_connection(server) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.1)
        connection.close()
        assert stopped.wait(5)


def test_the_log_has_ids_of_requests_and_nothing_of_their_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "patchword.serve")
    logging.getLogger("patchword.serve").propagate = True
    local = client()
    request_id = {"x-request-id": "mine-1"}
    body = {"images": [sent(RING)], "labels": ["a secret"], "model": "none"}
    answer = local.post("/v1/classify?key=secret", json=body, headers=request_id)
    assert answer.headers["x-request-id"] == "mine-1"
    local.get("/v1/%0Afake%20line", headers={"x-request-id": "new\tline"})
    lines = [record.getMessage() for record in caplog.records if record.name == "patchword.serve"]
    assert lines[0].startswith("mine-1 POST /v1/classify 404 ")
    assert "secret" not in "".join(lines)
    assert "\n" not in lines[1]
    assert "new" not in lines[1]


def test_the_answer_to_a_bug_does_not_explain_it() -> None:
    app = create_app(Settings())

    @app.get("/fault")
    async def fault() -> None:
        raise RuntimeError("a secret")

    answer = TestClient(app, base_url=AT).get("/fault")
    assert error_of(answer) == (500, "internal")
    assert "a secret" not in answer.text
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1",
        "192.0.0.8",
        "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "2002:7f00:1::",
        "64:ff9b::7f00:1", "2001:db8::1", "fec0::1", "no address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not fetching.public(address)


def test_public_addresses() -> None:
    assert all(map(fetching.public, ("8.8.8.8", "1.1.1.1", "2606:4700::1", "::ffff:8.8.8.8")))


class _Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/inside":
            self.send_response(302)
            self.send_header("Location", "http://inside.example/x.jpg")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(RING.read_bytes())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The port of a site on this machine, whose address counts as public. Its name is
    outside.example; inside.example has a private address, both.example has both, and
    rebound.example first one, then the other."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
    rebound_addresses = iter(["127.0.0.1", "10.0.0.1"])
    names = {
        "outside.example": lambda: ["127.0.0.1"],
        "inside.example": lambda: ["10.0.0.1"],
        "rebound.example": lambda: [next(rebound_addresses)],
        "both.example": lambda: ["127.0.0.1", "10.0.0.1"],
    }
    is_public = fetching.public

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (a, port)) for a in names[host]()]

    monkeypatch.setattr(fetching.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(fetching, "public", lambda a: a == "127.0.0.1" or is_public(a))
    yield f":{port}"
    server.shutdown()
    server.server_close()


def test_the_address_of_each_connection_is_checked(site: str) -> None:
    settings = Settings(allow_urls=True, max_bytes=100_000)
    assert fetching.fetch_image(f"http://outside.example{site}/", settings) == RING.read_bytes()
    first = fetching.fetch_image(f"http://rebound.example{site}/", settings)
    assert first == RING.read_bytes()
    for address in (
        f"http://outside.example{site}/inside",
        f"http://inside.example{site}/",
        f"http://rebound.example{site}/",
        f"http://both.example{site}/",
    ):
        with pytest.raises(ImageError, match="not on the open internet"):
            fetching.fetch_image(address, settings)
    for address in ("http://[", f"http://outside.example:{10**20}/"):
        with pytest.raises(ImageError, match="cannot be fetched"):
            fetching.fetch_image(address, settings)
    with pytest.raises(ImageError, match="more than 0 MB"):
        fetching.fetch_image(f"http://outside.example{site}/", Settings(max_bytes=1000))


def test_errors_of_the_command() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        error = CliRunner().invoke(commands, ["serve", "--port", port]).exception
        assert isinstance(error, PatchwordError)
        assert str(error).startswith(f"port {port} of 127.0.0.1 cannot be used: Address already")
    error = CliRunner().invoke(commands, ["serve", "--port", "0", "-m", "nothing"]).exception
    assert "nothing: no such file" in str(error)
    for option, wrong in (("--device", "cuda:9"), ("--dtype", "float8")):
        error = CliRunner().invoke(commands, ["serve", "--port", "0", option, wrong]).exception
        assert wrong in str(error)
    error = CliRunner().invoke(commands, ["serve", "--host", "0.0.0.0"]).exception
    assert "give an API key" in str(error)
    error = CliRunner().invoke(commands, ["serve", "--port", "0", "--api-key", ""]).exception
    assert "must not be empty" in str(error)


@pytest.mark.parametrize("library", ["uvicorn", "httptools", "fastapi", "prometheus_client"])
def test_a_missing_library_is_one_clear_error(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for command in (["serve", "--port", "0"], ["mcp"]):
        error = CliRunner().invoke(commands, command).exception
        assert f'needs {library}, which is not installed: pip install "patchword[serve]"' in str(
            error
        )
