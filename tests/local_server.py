"""A server that listens on loopback, in a thread, for clients that need a socket."""

import base64
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

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
    """The content of a file as JSON takes it."""
    return base64.b64encode(path.read_bytes()).decode()


def samples_index(model: Model, folder: Path) -> Path:
    """An index of four samples, three of shapes and one of a wafer, in a new folder there."""
    path = folder / "photos.index"
    patchword.open_index(path).add([*SHAPES, SCRATCH], model)
    return path


def uri(path: Path) -> str:
    """A data URI of a JPEG."""
    return f"data:image/jpeg;base64,{sent(path)}"


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of a server that runs as long as the block."""
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(configured(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                thread.join(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
