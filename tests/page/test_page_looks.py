"""Accessibility, phones, the two languages, and error messages of the page."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import SAMPLES, Visit, errors, give, submit
from PIL import Image
from playwright.sync_api import Page
from test_page_chinese import FILES, chinese, sentences_of

from patchword.serve.page import TABS, words

RING, SCRATCH = SAMPLES / "shapes" / "red-ring.jpg", SAMPLES / "wafers" / "scratch-1.jpg"

# Texts whose contrast with their background is below WCAG 2.2 AA: 4.5, for large text 3.
FAINT = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = rgb(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  let checked = 0;
  const look = (element, colour, what) => {
    const style = getComputedStyle(element);
    const [a, b] = [light(rgb(colour)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    checked += 1;
    if (ratio < (large ? 3 : 4.5)) faint.push(`${what} ${ratio.toFixed(2)}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest(":disabled, script")) continue;
    if (element.closest("label")?.querySelector(":disabled")) continue;
    look(element, getComputedStyle(element).color, text);
  }
  for (const field of document.querySelectorAll("[placeholder]")) {
    if (!field.checkVisibility()) continue;
    look(field, getComputedStyle(field, "::placeholder").color, field.placeholder);
  }
  return [checked, faint];
}"""
CONTROLS = {
    "button", "checkbox", "combobox", "dialog", "link", "radio", "searchbox", "slider",
    "spinbutton", "tab", "tablist", "tabpanel", "textbox", "region", "DisclosureTriangle",
}  # fmt: skip


def unnamed(page: Page) -> list[str]:
    """Controls and pictures without a name for screen readers, in Chromium's accessibility tree."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    found = []
    for node in nodes:
        role = node.get("role", {}).get("value")
        if node.get("ignored") or role not in CONTROLS | {"image"}:
            continue
        if not node.get("name", {}).get("value", "").strip():
            found.append(f"{role} {node.get('backendDOMNodeId')}")
    assert len(nodes) > 50
    return found


def actions(page: Page) -> dict[str, Callable[[], None]]:
    """For each tab an action with a result to show."""

    def search() -> None:
        page.fill("#panel-search [name=text]", "a wafer with a scratch")
        give(page, "search", SCRATCH)
        page.click("#panel-search details summary")
        submit(page, "search")

    def classify() -> None:
        give(page, "classify", RING, SCRATCH)
        page.fill("#panel-classify [name=labels]", "red ring, red star, " + "unbroken" * 12)
        submit(page, "classify")

    def where() -> None:
        give(page, "where", SCRATCH)
        page.fill("#panel-where [name=texts]", "a scratch\na stain")
        page.check("#panel-where [name=boxes]")
        submit(page, "where")

    def ask() -> None:
        page.click("#panel-ask .cannot button")
        give(page, "ask", SCRATCH)
        page.fill("#panel-ask [name=question]", "is there a scratch?")
        page.fill("#panel-ask [name=answers]", "yes, no")
        submit(page, "ask")

    def compare() -> None:
        give(page, "compare", RING, SCRATCH)
        texts = [f"a red ring of the number {n}" for n in range(9)]
        page.fill("#panel-compare [name=texts]", "\n".join(texts))
        submit(page, "compare")

    def inspect() -> None:
        give(page, "good", *sorted((SAMPLES / "wafers").glob("perfect-*.jpg")))
        give(page, "parts", SCRATCH)
        submit(page, "inspect")

    return {
        "search": search, "classify": classify, "where": where, "ask": ask, "compare": compare,
        "inspect": inspect, "explore": lambda: None,
    }  # fmt: skip


def test_every_tab_in_both_schemes_and_on_a_phone(visit: Visit) -> None:
    """Each tab with a result."""
    page = visit("search", width=390, color_scheme="light")
    act = actions(page)
    for tab in TABS:
        page.click(f"#tab-{tab}")
        act[tab]()
        assert errors(page, tab) == [], tab
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            checked, faint = page.evaluate(FAINT)
            assert faint == [], (tab, scheme)
            assert checked > 15
        assert unnamed(page) == [], tab
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            over = "document.documentElement.scrollWidth - innerWidth"
            assert page.evaluate(over) <= 0, (tab, width)
        page.set_viewport_size({"width": 390, "height": 800})
    page.click("#tab-search")
    page.locator("#panel-search .hit").first.click()
    page.wait_for_selector("#hit:not([aria-busy]) .gallery .hit")
    assert page.evaluate("document.querySelector('#hit').scrollWidth") <= 390
    assert page.evaluate(FAINT)[1] == []
    assert unnamed(page) == []


def test_the_checks_find_faults(visit: Visit) -> None:
    page = visit()
    page.evaluate("document.querySelector('.about').style.color = 'rgb(150 150 150)'")
    assert [text[:22] for text in page.evaluate(FAINT)[1]] == ["Find photos of the ind"]
    page.evaluate("document.querySelector('#model').labels[0].replaceWith('')")
    page.evaluate("document.querySelector('header').append(document.createElement('button'))")
    assert [control.split()[0] for control in unnamed(page)] == ["button"]


def test_tabs_by_keyboard(visit: Visit) -> None:
    page = visit()
    page.focus("#tab-search")
    page.keyboard.press("ArrowLeft")
    assert page.url.endswith("#explore")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-classify"
    assert page.is_visible("#panel-classify")
    assert page.is_hidden("#panel-search")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "file"
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.is_visible("#panel-classify")


def test_chinese_by_the_browsers_language(visit: Visit) -> None:
    page = visit(locale="zh-CN")
    tabs = page.locator("[role=tab]").all_text_contents()
    assert tabs == [words()[tab]["zh"] for tab in TABS]
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    submit(page, "search")
    assert errors(page, "search") == [words()["nothing_asked"]["zh"]]
    page.fill("#panel-search [name=text]", "a zeppelin")
    submit(page, "search")
    assert "不认识 zeppelin" in page.inner_text("#panel-search .warnings")
    page.click("#tab-where")
    page.click("#other-language")
    page.wait_for_selector("body[data-ready]")
    assert page.inner_text("#tab-search") == "Search"
    assert page.is_visible("#panel-where")


def test_the_servers_texts_are_in_chinese(visit: Visit, tmp_path: Path) -> None:
    """As in the tests without a browser, and with the names of photos."""
    page = visit("inspect", locale="zh-CN")
    sentences = [text for path in FILES for text in sentences_of(path) if chinese(text)]
    found = page.evaluate(
        "all => import('/static/translation.js').then(({ translated }) => all.map(translated))",
        sentences,
    )
    assert len(found) > 80
    assert found == [chinese(text) for text in sentences]
    unknown = page.evaluate(
        "import('/static/translation.js').then(({ translated }) => translated('No.'))"
    )
    assert unknown == "（英文）No."
    spent = """import('/static/translation.js').then(({ translated }) => {
      const start = performance.now();
      translated(`a text is given twice: ${'a b '.repeat(25000)}`);
      return performance.now() - start;
    })"""
    assert page.evaluate(spent) < 1000  # milliseconds, of a very long text
    good = sorted((SAMPLES / "wafers").glob("perfect-*.jpg"))
    small, broken = tmp_path / "small.png", tmp_path / "broken.jpg"
    with Image.open(SCRATCH) as photo:
        photo.resize((99, 99)).save(small)
    broken.write_bytes(SCRATCH.read_bytes()[:500])
    give(page, "good", *good)
    give(page, "parts", small, broken, good[0])
    submit(page, "inspect")
    assert errors(page, "inspect") == [
        "broken.jpg: 文件不完整：在最后一个像素之前就结束了；请重新复制或下载"
    ]
    shown = page.inner_text("#panel-inspect .warnings")
    assert "逐像素相同：perfect-1.jpg" in shown
    assert "尺寸与良品照片（256 x 256 像素）不同：small.png (99 x 99)" in shown
    shown += page.inner_text("#panel-inspect .note")
    assert re.search(r"这是 perfect-\d\.jpg 的得分", shown)
    assert "英文）" not in shown.replace("（用英文）", "")
    page.click("#tab-explore")
    submit(page, "explore")
    headings = page.locator("#panel-explore .group h2").all_text_contents()
    assert any("晶圆" in heading for heading in headings)
    assert not re.search(r"unnamed|unlike|wafer（|, like", " ".join(headings))


def test_without_an_index_behind_a_key(visit: Visit, bare: str) -> None:
    page = visit("search", address=bare, ready=False)
    page.wait_for_selector("#key[open]")
    assert page.is_hidden("#key .error")
    page.fill("#key input", "open barley")
    page.keyboard.press("Enter")
    page.wait_for_selector("#key[open] .error")
    assert page.inner_text("#key .error").startswith("a key is needed")
    page.fill("#key input", "芝麻开门")  # which no header can hold
    page.keyboard.press("Enter")
    page.wait_for_selector("#key[open] .error")
    page.reload()
    page.wait_for_selector("#key[open]")
    page.fill("#key input", "open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-ready]")
    for tab in ("search", "explore"):
        page.click(f"#tab-{tab}")
        notice = page.inner_text(f"#panel-{tab} .cannot")
        assert "patchword index FOLDER --into photos.index" in notice
        assert page.is_disabled(f"#panel-{tab} [type=submit]")
    page.click("#tab-ask")
    notice = page.inner_text("#panel-ask .cannot")
    assert "demo answers no questions" in notice
    assert "patchword serve -m MODEL" in notice
    page.click("#tab-classify")
    give(page, "classify", RING)
    page.fill("#panel-classify [name=labels]", "red ring, red star")
    submit(page, "classify")
    assert page.locator("#panel-classify .bars li").first.inner_text().startswith("red ring")


def test_errors_of_the_page_and_of_the_server(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    for tab, sentence in (
        ("search", "Write words or choose a photo."),
        ("classify", "Choose a photo first."),
        ("where", "Choose a photo first."),
        ("compare", "Choose a photo first."),
        ("inspect", "Choose photos of good parts first."),
    ):
        page.click(f"#tab-{tab}")
        submit(page, tab)
        assert errors(page, tab) == [sentence]
    page.click("#tab-where")
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    give(page, "where", text)
    page.fill("#panel-where [name=texts]", "a cat")
    submit(page, "where")
    (sentence,) = errors(page, "where")
    assert "image" in sentence
    assert len(sentence) > 20


@pytest.mark.parametrize("status", [429, 502])
def test_errors_of_a_busy_server_and_of_a_proxy(visit: Visit, status: int) -> None:
    page = visit()
    busy = '{"error": {"message": "too much waits; try again in 1 second", "code": "busy"}}'
    body = busy if status == 429 else "<html>Bad gateway</html>"
    page.route("**/v1/search", lambda route: route.fulfill(status=status, body=body))
    page.fill("#panel-search [name=text]", "a wafer")
    submit(page, "search")
    wanted = {
        429: "too much waits; try again in 1 second",
        502: "The server answered with status 502 and said no more.",
    }
    assert errors(page, "search") == [wanted[status]]
    page.unroute("**/v1/search")
    page.route("**/v1/search", lambda route: route.abort())
    submit(page, "search")
    assert errors(page, "search")[0].startswith("The server cannot be reached")
