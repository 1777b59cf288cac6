"""Take the screenshots of the server's page for docs/page.md (make page-pictures).

python tools/page_pictures.py FOLDER      (CHROMIUM=PATH: another browser than `chromium`)

Uses the samples and the embedded models. One page is Chinese: the system needs such a font.
"""

import argparse
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright

import patchword
from patchword.serve.app import create_app
from patchword.serve.settings import Settings

SAMPLES = Path(patchword.__file__).parent / "assets" / "samples"
WIDE, PHONE = (1100, 760), (390, 760)


def choose_photos(page: Page, field: str, *names: str) -> None:
    """Choose samples in a field for photos."""
    files = [SAMPLES / name for name in names]
    page.locator(f"[data-photos={field}] input").set_input_files(files)


def send(page: Page, tab: str) -> None:
    """Submit the form of a tab, and wait for the answer."""
    page.click(f"#panel-{tab} form [type=submit]")
    page.wait_for_selector(f"#panel-{tab}:not([aria-busy])")


def search(page: Page) -> None:
    page.fill("#panel-search [name=text]", "a wafer with a scratch")
    send(page, "search")


def where(page: Page) -> None:
    choose_photos(page, "where", "wafers/scratch-1.jpg")
    page.fill("#panel-where [name=texts]", "a scratch")
    page.check("#panel-where [name=boxes]")
    send(page, "where")


def compare(page: Page) -> None:
    choose_photos(page, "compare", *(f"shapes/{name}.jpg" for name in ("red-ring", "green-heart")))
    page.fill("#panel-compare [name=texts]", "a red ring\na green heart\na wafer")
    send(page, "compare")


def inspect(page: Page) -> None:
    choose_photos(page, "good", *(f"wafers/perfect-{number}.jpg" for number in (1, 2, 3)))
    choose_photos(page, "parts", "wafers/stain-1.jpg", "wafers/perfect-1.jpg")
    send(page, "inspect")


LOAD_ALL = """() => Promise.all([...document.images].filter((image) => image.src).map((image) => {
  image.loading = "eager";
  return image.decode().catch(() => {});
}))"""
# For each screenshot its tab, (width, height), colour scheme, language, and actions.
PICTURES: dict[str, tuple[str, tuple[int, int], str, str, Callable[[Page], None]]] = {
    "search": ("search", WIDE, "light", "en", search),
    "where": ("where", WIDE, "dark", "en", where),
    "compare": ("compare", PHONE, "light", "zh-CN", compare),
    "inspect": ("inspect", PHONE, "dark", "en", inspect),
}


def take(address: str, folder: Path) -> None:
    """Write all screenshots."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, (tab, (width, height), scheme, locale, act) in PICTURES.items():
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme, locale=locale
            )
            page.goto(f"{address}/#{tab}")
            page.wait_for_selector("body[data-ready]")
            act(page)
            page.mouse.click(1, height - 1)  # remove the focus from fields
            page.evaluate(LOAD_ALL)
            file = folder / f"{name}.png"
            page.screenshot(path=file, full_page=width == PHONE[0])
            with Image.open(file) as picture:
                picture.convert("RGB").quantize(128).save(file, optimize=True)
            page.close()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        index = Path(temporary) / "samples.index"
        patchword.open_index(index).add(SAMPLES, patchword.load("demo"))
        config = uvicorn.Config(create_app(Settings(index=index)), port=0, log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            thread.join(0.05)
        try:
            port = server.servers[0].sockets[0].getsockname()[1]
            take(f"http://127.0.0.1:{port}", folder)
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
