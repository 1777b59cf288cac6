"""The real application on loopback, and Chromium: `make check-page`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import ODD_NAMES, SAMPLES, Visit
from local_server import running
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
        "path,lot\n" + "".join(f"{path},lot of {Path(path).name}\n" for path in index.paths())
    )
    assert index.describe(table) == []
    return path


@pytest.fixture(scope="session")
def site(index: Path) -> Iterator[str]:
    with running(create_app(Settings(index=index, models=("demo", "demo-blip")))) as address:
        yield address


@pytest.fixture(scope="session")
def bare() -> Iterator[str]:
    """A server without an index, with a key, and with a model that writes no captions."""
    with running(create_app(Settings(models=("demo",), api_key="open sesame"))) as address:
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
    """Opens a tab of the page. Checks at the end that no page sent requests to another machine, and
    that the console has no errors of scripts or of the policy."""
    problems: list[str] = []
    contexts = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            problems.append(message.text)

    def visit(
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

        def on_request(request: Request) -> None:
            if not request.url.startswith((f"{address}/", "data:", f"blob:{address}/")):
                problems.append(f"request to {request.url}")

        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", on_console)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", on_request)
        page.goto(f"{address}/{query}#{tab}")
        if ready:
            page.wait_for_selector("body[data-ready]")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert problems == []
