"""The page's Search tab shows the index's hits in its order: by words, photos and both."""

from pathlib import Path

import numpy as np
import pytest
from driving import ODD_NAMES, SAMPLES, Visit, drawn, errors, give, submit
from playwright.sync_api import Page

import patchword
from patchword.index.query import WITHOUT

SCRATCH = "a wafer with a scratch"


@pytest.fixture
def expected(index: Path, demo: patchword.Model):
    opened = patchword.open_index(index)

    def hits(query: object = None, k: int = 24, **more: Path) -> list[tuple[str, str]]:
        found = opened.search(query, k, model=demo, **more)
        return [(Path(hit.path).name, f"{hit.score:.3f}") for hit in found]

    return hits


def search(page: Page, text: str) -> None:
    page.fill("#panel-search [name=text]", text)
    submit(page, "search")


def shown(page: Page, gallery: str = "#panel-search .gallery") -> list[tuple[str, str]]:
    """The names and scores of the hits on the page."""
    cards = page.locator(f"{gallery} .hit").all()
    return [tuple(card.locator("span").all_text_contents()) for card in cards]


def test_search_by_words(visit: Visit, expected) -> None:
    page = visit()
    status = page.inner_text("#panel-search .status")
    assert status == "photos.index: 49 photos, encoded by demo"
    search(page, SCRATCH)
    hits = shown(page)
    assert hits[:24] == expected(SCRATCH)
    assert {name[:7] for name, _ in hits[:4]} == {"scratch"}
    first = page.locator("#panel-search .hit img").first
    first.evaluate("image => image.decode()")
    assert first.evaluate("image => image.naturalWidth") == 256


def test_scrolling_loads_more_hits(visit: Visit, expected) -> None:
    page = visit()
    search(page, SCRATCH)
    for _ in range(20):
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(50)
        if page.locator("#panel-search .more").is_hidden():
            break
    page.wait_for_selector("#panel-search:not([aria-busy])")
    assert shown(page) == expected(SCRATCH, 1000)  # all of them, each once
    assert page.inner_text("#panel-search .status") == "49 of 49 photos, the best first"


def test_search_by_a_photo_and_by_both(
    visit: Visit, expected, index: Path, demo: patchword.Model
) -> None:
    page = visit()
    ring = SAMPLES / "shapes" / "red-ring.jpg"
    give(page, "search", ring)
    assert page.locator("#panel-search .both").is_hidden()
    submit(page, "search")
    assert shown(page)[:24] == expected(image=ring)
    assert shown(page)[0] == ("red-ring.jpg", "1.000")
    page.fill("#panel-search [name=text]", "a green heart")
    page.fill("#panel-search [name=balance]", "0.25")  # a quarter of the photo
    submit(page, "search")
    both = 0.75 * demo.embed_texts(["a green heart"])[0] + 0.25 * demo.embed_images([ring])[0]
    assert shown(page)[:24] == expected(both.astype(np.float64))
    page.click("#panel-search details summary")
    page.fill("#panel-search [name=without]", "a green heart")
    page.fill("#panel-search [name=text]", "")
    submit(page, "search")
    less = demo.embed_images([ring])[0] - WITHOUT * demo.embed_texts(["a green heart"])[0]
    assert shown(page)[:24] == expected(less.astype(np.float64))


@pytest.mark.parametrize("action", ["drop", "paste"])
def test_a_photo_is_dropped_or_pasted(visit: Visit, action: str) -> None:
    page = visit()
    content = list((SAMPLES / "shapes" / "red-ring.jpg").read_bytes())
    data = page.evaluate_handle(
        """bytes => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "ring.jpg", { type: "image/jpeg" }));
          return data;
        }""",
        content,
    )
    if action == "drop":
        page.dispatch_event("[data-photos=search]", "drop", {"dataTransfer": data})
    else:
        page.evaluate(
            "data => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))",
            data,
        )
    page.wait_for_selector("[data-photos=search] .chosen img[alt='ring.jpg']")
    submit(page, "search")
    assert shown(page)[0] == ("red-ring.jpg", "1.000")


def test_filters(visit: Visit, folder: Path) -> None:
    page = visit()
    page.click("#panel-search details summary")
    field = page.get_by_label("Path contains")
    for typed, count in (("/WAFERS/", 18), ("100%_", 1), ("0_d", 0), ("' OR path LIKE '", 0)):
        field.fill(typed)
        search(page, SCRATCH)
        assert len(shown(page)) == count, typed
    field.fill("")
    page.fill("#panel-search [name=where]", "path LIKE '%scratch%' OR path LIKE '%stain%'")
    field.fill("-1.jpg")
    search(page, SCRATCH)
    assert sorted(name for name, _ in shown(page)) == ["scratch-1.jpg", "stain-1.jpg"]
    page.fill("#panel-search [name=where]", "drop table images")
    search(page, SCRATCH)
    assert "drop table images" in errors(page, "search")[0]
    page.fill("#panel-search [name=where]", "")
    field.fill("")
    page.get_by_label("Modified to").fill("2000-01-01")
    search(page, SCRATCH)
    assert shown(page) == []


def test_a_hit_opens_large(visit: Visit, expected, folder: Path, demo: patchword.Model) -> None:
    page = visit()
    search(page, SCRATCH)
    name = shown(page)[0][0]
    page.locator("#panel-search .hit").first.click()
    page.wait_for_selector("#hit:not([aria-busy]) .gallery .hit")
    assert page.inner_text("#hit-name") == name
    facts = page.inner_text("#hit .facts")
    assert str(folder / "wafers" / name) in facts
    assert "256 × 256" in facts
    size = (folder / "wafers" / name).stat().st_size
    assert f"File size\n{round(size / 1000, 1):g} kB" in facts
    assert "hash" not in facts
    assert f"lot of {name}" in facts  # the caller's own column
    assert page.inner_text("#hit figcaption").startswith(f"Where “{SCRATCH}” is")
    others = [hit for hit in expected(image=folder / "wafers" / name, k=13) if hit[0] != name]
    assert shown(page, "#hit .gallery") == others
    map_ = demo.heatmap(folder / "wafers" / name, [SCRATCH])
    x, y = (int(place) for place in brightest(page))
    assert map_.maps[0, y, x] > 0.95 * map_.maps[0].max()  # a scratch has several peaks


def brightest(page: Page) -> tuple[float, float]:
    """Where the map of the open hit is brightest, in pixels of a photo of 256. The opaque ring
    around the peak does not count."""
    shown = drawn(page, "#hit .layers canvas").astype(int)
    light = np.where(shown[..., 3] < 200, shown[..., :3].sum(-1), 0)
    y, x = np.unravel_index(light.argmax(), light.shape)
    return x / light.shape[1] * 256, y / light.shape[0] * 256


def test_by_keyboard_alone(visit: Visit) -> None:
    page = visit("explore")
    page.keyboard.press("/")
    page.keyboard.type("a red ring")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel-search .hit")
    page.wait_for_selector("#panel-search:not([aria-busy])")
    names = [name for name, _ in shown(page)]
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "hit":
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#hit[open]")
    assert page.inner_text("#hit-name") == names[1]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#hit-name") == names[2]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#hit-name") == names[0]
    page.keyboard.press("Escape")
    assert page.locator("#hit").is_hidden()
    assert page.evaluate("document.activeElement.innerText").startswith(names[1])
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    hits = "[...document.querySelectorAll('#panel-search .hit')]"
    assert page.evaluate(f"{hits}.indexOf(document.activeElement)") > 1  # one row down


def test_names_are_not_parsed_as_html(visit: Visit) -> None:
    page = visit()
    search(page, "a green heart")
    names = [name for name, _ in shown(page)]
    assert set(ODD_NAMES) <= set(names)
    page.locator("#panel-search .hit").nth(names.index(ODD_NAMES[1])).click()
    page.wait_for_selector("#hit:not([aria-busy]) .gallery .hit")
    assert page.inner_text("#hit-name") == ODD_NAMES[1]
    assert page.title() == "patchword"
    assert page.locator("img[onerror]").count() == 0


def test_a_hit_is_sent_to_another_tab(visit: Visit) -> None:
    page = visit()
    search(page, "a red ring")
    page.locator("#panel-search .hit").first.click()
    page.get_by_role("button", name="Classify it").click()
    page.fill("#panel-classify [name=labels]", "red ring, red star")
    submit(page, "classify")
    assert page.locator("#panel-classify .bars li").first.inner_text().startswith("red ring")
