"""Images by their address, from a server of this process: what is opened, and every limit."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError

import pytest
from numpy.testing import assert_array_equal
from photos import CAT, FLOWER

from patchword import images
from patchword.errors import ImageError
from patchword.images import files, urls


class Handler(BaseHTTPRequestHandler):
    """Photos, and what goes wrong."""

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        name, _, number = self.path[1:].partition("/")
        getattr(self, f"answer_{name.partition('.')[0].partition('?')[0]}", self.missing)(number)

    def missing(self, _: str) -> None:
        self.send_error(404)

    def send(self, data: bytes, kind: str = "image/png", length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def answer_cat(self, _: str) -> None:
        self.send(CAT.read_bytes(), "application/octet-stream")

    def answer_page(self, _: str) -> None:
        self.send(b"<!DOCTYPE html><html></html>", "image/jpeg")

    def answer_short(self, _: str) -> None:
        self.send(CAT.read_bytes()[:5000], length=9999)

    def answer_to(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where.replace("HERE", f"http://{self.headers['Host']}"))
        self.end_headers()

    def answer_hops(self, number: str) -> None:
        left = int(number)
        self.answer_to(f"/hops/{left - 1}" if left else "/cat.png")

    def answer_slow(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(20):
            self.wfile.write(b"x")
            time.sleep(0.05)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_the_content_decides_whatever_it_is_called(server: str) -> None:
    right = images.open(CAT)
    odd = ("cat.a b.png", "cat.жü.png?q=é ü", "cat.%C3%BC%2F.png")
    for address in ("cat.png", "cat?width=9&a=[1]", "cat.tif#1", "hops/4", *odd):
        assert_array_equal(images.open(f"{server}/{address}"), right)
    assert_array_equal(images.open(f"{server}/cat".replace("http", "HTTP")), right)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("none.png", "the server answers 404 Not Found"),
        ("page", "web page: download the image itself"),
        ("short", "the connection ended before the image did"),
        ("hops/5", "the server answers 302 .*redirect"),
        ("to/file:///etc/passwd", "not allowed"),
        ("to/ftp://HERE/a", "less safe"),
        ("cat#2", "no page 2"),
        ("not a path", "the server answers 404"),
        ("\N{HEAVY BLACK HEART}.png", "the server answers 404"),
    ],
)
def test_what_goes_wrong_is_told(server: str, address: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        images.open(f"{server}/{address}")
    assert caught.value.image == f"{server}/{address}"
    cause = caught.value.__cause__ and caught.value.__cause__.__cause__
    assert not isinstance(cause, HTTPError) or cause.fp.closed


def test_limits(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="cannot be fetched"):
        images.open("http://127.0.0.1:9/a.png")
    with pytest.raises(ImageError, match=r"cannot be fetched: .*(host|URL)"):
        images.open("https://")
    with pytest.raises(ImageError, match="cannot be fetched"):
        images.open("http://ü..de/a.png")
    monkeypatch.setattr(urls, "MAX_SECONDS", 0.2)
    with pytest.raises(ImageError, match=r"not here after 0\.2 seconds"):
        images.open(f"{server}/slow")
    monkeypatch.setattr(urls, "SILENCE", 0.01)
    with pytest.raises(ImageError, match=r"sent nothing for 0\.01 seconds|timed out"):
        images.open(f"{server}/slow")
    monkeypatch.undo()
    monkeypatch.setattr(urls, "MAX_BYTES", 1000)
    with pytest.raises(ImageError, match="more than 0 MB; download it"):
        images.open(f"{server}/cat.png")


def test_servers_and_indexes_refuse_addresses(server: str) -> None:
    with pytest.raises(ImageError, match="a URL: download it and give its path"):
        images.open(f"{server}/cat.png", urls=False)
    failed: list[ImageError] = []
    assert [file.path for file in files.find([f"{server}/cat.png", FLOWER], failed)] == [
        str(Path(FLOWER).resolve())
    ]
    assert str(failed[0]) == f"{server}/cat.png: a URL: download it, an index holds files"
