"""The real application on loopback, and Chromium to look at it: `make check-page`."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from driving import ODD_NAMES, SAMPLES, Visit
from photos import ASTRONAUT, CAT, COFFEE, ROCKET
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

import patchword
from patchword.serve.app import create_app
from patchword.serve.settings import Settings


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """49 photos: the generated samples, real ones, odd names, and near-duplicates."""
    root = tmp_path_factory.mktemp("photos")
    for kind in ("shapes", "wafers"):
        shutil.copytree(SAMPLES / kind, root / kind)
    (root / "world").mkdir()
    for path in (CAT, COFFEE, ASTRONAUT, ROCKET):
        with Image.open(path) as photo:
            photo.thumbnail((320, 320))
            photo.convert("RGB").save(root / "world" / f"{path.stem}.jpg")
    with Image.open(SAMPLES / "shapes" / "green-heart.jpg") as heart:
        for name in ODD_NAMES:
            heart.resize((96, 64)).save(root / name)
    for name in ("red-ring", "purple-star"):
        with Image.open(SAMPLES / "shapes" / f"{name}.jpg") as photo:
            photo.save(root / f"{name}-again.jpg", quality=80)
    return root


@pytest.fixture(scope="session")
def demo() -> patchword.Model:
    return patchword.load("demo")


@pytest.fixture(scope="session")
def writer() -> patchword.Model:
    return patchword.load("demo-blip")


@pytest.fixture(scope="session")
def index(folder: Path, demo: patchword.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collection") / "photos.index"
    index = patchword.open_index(path)
    index.add(folder, demo)
    table = path.parent / "lots.csv"
    table.write_text(
        "path,lot\n" + "".join(f"{one},lot of {Path(one).name}\n" for one in index.paths())
    )
    assert index.describe(table) == []
    return path


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The address of an application that runs in a thread."""
    config = uvicorn.Config(create_app(settings), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            thread.join(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="session")
def site(index: Path) -> Iterator[str]:
    with serving(Settings(index=index, models=("demo", "demo-blip"))) as address:
        yield address


@pytest.fixture(scope="session")
def bare() -> Iterator[str]:
    """A server without an index, of a model that writes no captions, behind a key."""
    with serving(Settings(models=("demo",), api_key="open sesame")) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "no Chromium: apt-get install chromium, or CHROMIUM=PATH"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, site: str) -> Iterator[Visit]:
    """Opens a tab of the page. At the end no page has asked another machine for anything, and none
    has complained of a script or of its policy."""
    complaints: list[str] = []
    contexts = []

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def opened(
        tab: str = "search",
        *,
        address: str = site,
        width: int = 1280,
        ready: bool = True,
        query: str = "",
        **options: object,
    ) -> Page:
        phone = width < 600
        context = browser.new_context(
            viewport={"width": width, "height": 800}, is_mobile=phone, has_touch=phone, **options
        )
        contexts.append(context)

        def requested(request: Request) -> None:
            if not request.url.startswith((f"{address}/", "data:", f"blob:{address}/")):
                complaints.append(f"asked {request.url}")

        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", listen)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", requested)
        page.goto(f"{address}/{query}#{tab}")
        if ready:
            page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
