"""Who may ask, how much, and from where images may come."""

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
from local_server import AT, RING, sent
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
    """Of a server that opens no model by itself."""
    return TestClient(create_app(Settings(**settings)), base_url=AT)


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


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
def test_pages_of_the_web_cannot_ask(headers: dict[str, str], expected: int) -> None:
    answer = client().get("/v1/index", headers=headers)
    assert answer.status_code == expected
    for name, value in SAFE.items():
        assert answer.headers[name] == value
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert len(answer.headers["x-request-id"]) == 16


def test_a_key_is_needed_where_there_is_one() -> None:
    asked = client(host="0.0.0.0", api_key="s3cret")
    at = {"host": "photos.example"}
    assert code(asked.get("/v1/index", headers=at)) == (401, "invalid_api_key")
    for wrong in ("Bearer s3cre", "Bearer s3crett", "Basic s3cret", "Bearer ", "Bearer é"):
        shown = {**at, "authorization": wrong.encode("latin-1")}
        assert asked.get("/v1/index", headers=shown).status_code == 401
    for right in (
        {"authorization": "Bearer s3cret"},
        {"x-api-key": "s3cret"},
        {"cookie": "a=b; patchword_key=s3cret"},
    ):
        assert code(asked.get("/v1/index", headers={**at, **right})) == (404, "no_index")
    assert code(asked.get("/ready", headers=at)) == (503, "loading")
    assert asked.get("/metrics", headers=at).status_code == 401
    assert "s3cret" not in repr(asked.app.state.server.settings)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="give an API key"):
        Settings(host="0.0.0.0")
    for unsendable in ("", " ", "s3cret\n", " s3cret", "s3\x00cret", "sécret"):
        with pytest.raises(ConfigError, match="must not be empty"):
            Settings(host="::", api_key=unsendable)
    for host in ("127.0.0.1", "::1", "localhost", "127.3.4.5"):
        assert Settings(host=host).on_loopback


def test_without_the_key_nothing_is_named_and_one_image_computed_for_all() -> None:
    app = create_app(Settings(host="0.0.0.0", api_key="s3cret", models=("demo",)))
    with TestClient(app, base_url="http://photos.example") as asked:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: asked.get("/health"), range(24)))
        assert {answer.text for answer in answers} == {'{"healthy":true}'}
        assert asked.get("/ready").json() == {"ready": True}
        key = {"x-api-key": "s3cret"}
        assert asked.get("/health", headers=key).json() == {"healthy": True, "model": "demo"}
        assert asked.get("/ready", headers=key).json() == {"ready": True, "models": ["demo"]}
        counts = asked.get("/metrics", headers=key).text
    computed = re.search(r'batch_items_sum\{model="demo"\} (\d+)', counts)
    assert computed
    assert int(computed[1]) < 24


def test_without_the_key_no_path_is_told(tmp_path: Path) -> None:
    broken = str(tmp_path / "private")
    asked = client(host="0.0.0.0", api_key="s3cret", models=(broken,))
    assert code(asked.get("/health")) == (503, "model")
    assert "private" not in asked.get("/health").text
    assert "private" in asked.get("/health", headers={"x-api-key": "s3cret"}).text


def test_a_body_may_be_only_so_large() -> None:
    asked = client(max_bytes=1000)
    assert code(asked.post("/v1/classify", content=b"x" * 1001)) == (413, "too_large")
    assert code(asked.post("/v1/classify", content=iter([b"x" * 600] * 2))) == (413, "too_large")
    assert asked.post("/v1/classify", content=iter([b"x" * 400] * 2)).status_code == 400


def test_a_body_may_take_only_so_long_and_who_left_is_forgotten() -> None:
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

        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/classify",
            "raw_path": b"/v1/classify", "query_string": b"", "scheme": "http", "root_path": "",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
            "client": None, "server": None,
        }  # fmt: skip
        await app(scope, receive, send)  # type: ignore[arg-type]
        return sent

    part = {"type": "http.request", "body": b"{", "more_body": True}
    assert asyncio.run(ask([part]))[0]["status"] == 408
    assert asyncio.run(ask([part, {"type": "http.disconnect"}])) == []


def test_a_client_that_leaves_stops_its_work() -> None:
    app = create_app(Settings())
    stopped = threading.Event()

    @app.get("/slow")
    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    app.router.routes.insert(0, app.router.routes.pop())
    with _running(app) as (host, port), socket.create_connection((host, port)) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.1)
        connection.close()
        assert stopped.wait(5)


def test_the_log_names_requests_and_nothing_they_hold(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "patchword.serve")
    logging.getLogger("patchword.serve").propagate = True
    asked = client()
    named = {"x-request-id": "mine-1"}
    body = {"images": [sent(RING)], "labels": ["a secret"], "model": "none"}
    answer = asked.post("/v1/classify?key=secret", json=body, headers=named)
    assert answer.headers["x-request-id"] == "mine-1"
    asked.get("/v1/%0Afake%20line", headers={"x-request-id": "new\tline"})
    lines = [record.getMessage() for record in caplog.records if record.name == "patchword.serve"]
    assert lines[0].startswith("mine-1 POST /v1/classify 404 ")
    assert "secret" not in "".join(lines)
    assert "\n" not in lines[1]
    assert "new" not in lines[1]


def test_a_fault_of_ours_says_nothing_of_itself() -> None:
    app = create_app(Settings())

    @app.get("/fault")
    async def fault() -> None:
        raise RuntimeError("a secret")

    answer = TestClient(app, base_url=AT).get("/fault")
    assert code(answer) == (500, "internal")
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
def test_addresses_inside_are_never_fetched(address: str) -> None:
    assert not fetching.public(address)


def test_addresses_outside_may_be() -> None:
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
    """A site at outside.example, which is this machine and taken for a public one; the name
    inside.example is a private address, and rebound.example both, one after the other."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
    rebound = iter(["127.0.0.1", "10.0.0.1"])
    names = {
        "outside.example": lambda: ["127.0.0.1"],
        "inside.example": lambda: ["10.0.0.1"],
        "rebound.example": lambda: [next(rebound)],
        "both.example": lambda: ["127.0.0.1", "10.0.0.1"],
    }
    usual = fetching.public

    def resolved(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (a, port)) for a in names[host]()]

    monkeypatch.setattr(fetching.socket, "getaddrinfo", resolved)
    monkeypatch.setattr(fetching, "public", lambda a: a == "127.0.0.1" or usual(a))
    yield f":{port}"
    server.shutdown()
    server.server_close()


def test_each_connection_is_checked_where_it_is_made(site: str) -> None:
    settings = Settings(allow_urls=True, max_bytes=100_000)
    assert fetching.fetched(f"http://outside.example{site}/", settings) == RING.read_bytes()
    first = fetching.fetched(f"http://rebound.example{site}/", settings)
    assert first == RING.read_bytes()
    for address in (
        f"http://outside.example{site}/inside",
        f"http://inside.example{site}/",
        f"http://rebound.example{site}/",
        f"http://both.example{site}/",
    ):
        with pytest.raises(ImageError, match="not on the open internet"):
            fetching.fetched(address, settings)
    for address in ("http://[", f"http://outside.example:{10**20}/"):
        with pytest.raises(ImageError, match="cannot be fetched"):
            fetching.fetched(address, settings)
    with pytest.raises(ImageError, match="more than 0 MB"):
        fetching.fetched(f"http://outside.example{site}/", Settings(max_bytes=1000))


def test_a_port_in_use_and_a_wrong_name_are_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = CliRunner().invoke(commands, ["serve", "--port", port]).exception
        assert isinstance(found, PatchwordError)
        assert str(found).startswith(f"port {port} of 127.0.0.1 cannot be had: Address already")
    found = CliRunner().invoke(commands, ["serve", "--port", "0", "-m", "nothing"]).exception
    assert "nothing: no such file" in str(found)
    for option, wrong in (("--device", "cuda:9"), ("--dtype", "float8")):
        found = CliRunner().invoke(commands, ["serve", "--port", "0", option, wrong]).exception
        assert wrong in str(found)
    found = CliRunner().invoke(commands, ["serve", "--host", "0.0.0.0"]).exception
    assert "give an API key" in str(found)
    found = CliRunner().invoke(commands, ["serve", "--port", "0", "--api-key", ""]).exception
    assert "must not be empty" in str(found)


@pytest.mark.parametrize("library", ["uvicorn", "httptools", "fastapi", "prometheus_client"])
def test_a_missing_library_is_one_clear_error(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for command in (["serve", "--port", "0"], ["mcp"]):
        found = CliRunner().invoke(commands, command).exception
        assert f'needs {library}, which is not installed: pip install "patchword[serve]"' in str(
            found
        )


def _running(app: Any) -> Any:
    import contextlib

    from local_server import running

    @contextlib.contextmanager
    def found() -> Iterator[tuple[str, int]]:
        with running(app) as address:
            host, _, port = address.removeprefix("http://").partition(":")
            yield host, int(port)

    return found()
