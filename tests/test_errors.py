"""A warning shows the line of the caller's own code."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

import patchword
from patchword.errors import ImageWarning, ScopeWarning, counted, warn
from patchword.images.prefetch import ahead


def lines(caught: pytest.WarningsRecorder) -> list[str]:
    """The source lines that are shown."""
    source = Path(__file__).read_text().splitlines()
    assert {each.filename for each in caught} <= {__file__}
    return [source[each.lineno - 1].strip() for each in caught]


def test_the_line_that_called_patchword(recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    pages = tmp_path / "pages.tif"
    first, second = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    first.save(pages, save_all=True, append_images=[second])
    model = patchword.load("demo")
    model.embed_texts(["a dog"])
    found = model.classify([pages], ["a cat"])  # a page is opened in a thread
    assert found
    kinds = {each.category for each in recwarn}
    assert {ScopeWarning, ImageWarning} <= kinds
    assert set(lines(recwarn)) == {
        'model.embed_texts(["a dog"])',
        'found = model.classify([pages], ["a cat"])  # a page is opened in a thread',
    }


def test_in_threads(recwarn: pytest.WarningsRecorder) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(ahead(pool, warn, ["odd", "even"], 2))
    assert lines(recwarn) == ['list(ahead(pool, warn, ["odd", "even"], 2))'] * 2


def test_filters_hold() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"^odd$"):
            warn("odd")


def test_counted() -> None:
    assert [counted(n, "image") for n in (0, 1, 2, 1200)] == [
        "0 images", "1 image", "2 images", "1,200 images",
    ]  # fmt: skip
    assert counted(2, "photo has", "photos have") == "2 photos have"
