"""What tests of the page do with it."""

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

SAMPLES = Path(__file__).parents[2] / "samples"
ODD_NAMES = ("100%_done.png", '<img src=x onerror="document.title=1">.png', "晶圆 é.png")

Visit = Callable[..., Page]


def give(page: Page, field: str, *files: Path) -> None:
    """Choose files in a field for photos."""
    page.locator(f"[data-photos={field}] input").set_input_files(list(files))


def submit(page: Page, tab: str) -> None:
    """Press a tab's button and wait until it has answered."""
    page.click(f"#panel-{tab} form [type=submit]")
    page.wait_for_selector(f"#panel-{tab}:not([aria-busy])")


def percent(share: float) -> str:
    """As the page writes it in English."""
    return f"{round(share * 100, 1):g}%"


def errors(page: Page, tab: str) -> list[str]:
    return page.locator(f"#panel-{tab} .errors p").all_text_contents()


def png(pixels: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
