"""Helpers of the page's tests."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

SAMPLES = Path(__file__).parents[2] / "samples"
ODD_NAMES = ("100%_done.png", '<img src=x onerror="document.title=1">.png', "晶圆 é.png")

Visit = Callable[..., Page]
Pixels = NDArray[np.uint8]


def give(page: Page, field: str, *files: Path) -> None:
    """Choose files in a photo field."""
    page.locator(f"[data-photos={field}] input").set_input_files(list(files))


def submit(page: Page, tab: str) -> None:
    """Press a tab's button and wait for the answer."""
    page.click(f"#panel-{tab} form [type=submit]")
    page.wait_for_selector(f"#panel-{tab}:not([aria-busy])")


def percent(share: float) -> str:
    """A percentage as the English page writes it."""
    return f"{round(share * 100, 1):g}%"


def errors(page: Page, tab: str) -> list[str]:
    return page.locator(f"#panel-{tab} .errors p").all_text_contents()


def drawn(page: Page, selector: str) -> Pixels:
    """The pixels of a canvas, (H, W, 4) uint8."""
    address = page.locator(selector).evaluate("canvas => canvas.toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGBA"))
