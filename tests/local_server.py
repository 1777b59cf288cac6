"""A real server on the loopback address, run in a thread, for clients that need a socket; and
photos to send."""

import base64
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

import patchword
from patchword.api import Model
from patchword.cli.serve import configured, listen

SAMPLES = Path(__file__).parents[1] / "src/patchword/assets/samples"
RING, SCRATCH = SAMPLES / "shapes/red-ring.jpg", SAMPLES / "wafers/scratch-1.jpg"
SHAPES = [SAMPLES / f"shapes/{name}.jpg" for name in ("red-ring", "white-square", "green-heart")]
AT = "http://127.0.0.1:8000"


def sent(path: Path) -> str:
    """A file's content in base64."""
    return base64.b64encode(path.read_bytes()).decode()


def samples_index(model: Model, folder: Path) -> Path:
    """Build an index of four samples, three of shapes and one of a wafer, inside a folder."""
    path = folder / "photos.index"
    patchword.open_index(path).add([*SHAPES, SCRATCH], model)
    return path


def uri(path: Path) -> str:
    """The data URI of a JPEG file."""
    return f"data:image/jpeg;base64,{sent(path)}"


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Run a server during the `with` block. Yields its address."""
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(configured(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                thread.join(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[tuple[str, int]]:
    """Host and port of a server that runs during the block."""
    with running(app) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        yield host, int(port)


def http_scope(method: str, path: str) -> dict[str, Any]:
    """The ASGI scope of a JSON request to 127.0.0.1."""
    return {
        "type": "http", "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "scheme": "http", "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": None, "server": None,
    }  # fmt: skip
