"""Answers that come late, or after a change, are not shown as current; and other details."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import SAMPLES, Visit, errors, give, submit
from local_server import running
from PIL import Image
from playwright.sync_api import Page, Route, expect

import patchword
from patchword.serve.app import create_app
from patchword.serve.settings import Settings

RING, STAR = SAMPLES / "shapes" / "red-ring.jpg", SAMPLES / "shapes" / "purple-star.jpg"
GOOD = sorted((SAMPLES / "wafers").glob("perfect-*.jpg"))
PART = SAMPLES / "wafers" / "stain-1.jpg"
KEY = "open sesame"


@pytest.fixture(scope="module")
def locked(
    demo: patchword.Model, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A server with a key, so that the page's scripts fetch the photos; its index has columns with
    the names of the page's own facts. Also the folder of its photos."""
    folder = tmp_path_factory.mktemp("locked")
    for number, path in enumerate((RING, STAR, PART)):
        with Image.open(path) as photo:
            photo.resize((100 + number, 100)).save(folder / f"{number}.png")
    index = patchword.open_index(folder / "photos.index")
    index.add(folder, demo)
    paths = index.paths()
    index.fill(paths, {"score": ["very good"] * 3, "known": ["to all"] * 3})
    settings = Settings(index=Path(index.path), models=("demo",), api_key=KEY)
    with running(create_app(settings)) as address:
        yield address, folder


def open_with_key(visit: Visit, address: str) -> Page:
    page = visit("search", address=address, ready=False)
    page.wait_for_selector("#key[open]")
    page.fill("#key input", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-ready]")
    return page


def hold_requests(page: Page, pattern: str) -> list[Route]:
    """A list that receives the requests to a path; they wait until they are continued."""
    waiting: list[Route] = []
    page.route(pattern, lambda route: waiting.append(route))
    return waiting


def wait_for_requests(page: Page, waiting: list[Route], count: int) -> None:
    for _ in range(200):
        if len(waiting) >= count:
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"{len(waiting)} requests instead of {count}")


def test_a_photo_that_comes_late_is_not_shown_for_another(
    visit: Visit, locked: tuple[str, Path]
) -> None:
    address, folder = locked
    page = open_with_key(visit, address)
    page.fill("#panel-search [name=text]", "a red ring")
    submit(page, "search")
    shown = page.locator("#hit .layers img")
    waiting = hold_requests(page, "**/v1/images/*")
    page.locator("#panel-search .hit").first.click()
    wait_for_requests(page, waiting, 1)
    page.click("#hit .next")
    wait_for_requests(page, waiting, 2)
    waiting[1].continue_()
    name = page.inner_text("#hit-name")
    with Image.open(folder / name) as photo:
        expect(shown).to_have_js_property("naturalWidth", photo.width)
    waiting[0].continue_()
    page.wait_for_timeout(300)
    assert shown.evaluate("image => image.naturalWidth") == photo.width
    page.click("#hit .next")  # a photo with an error does not leave the previous one
    wait_for_requests(page, waiting, 3)
    waiting[2].fulfill(status=404, body='{"error": {"message": "it is gone"}}')
    page.wait_for_selector("#hit .errors p")
    assert shown.evaluate("image => image.naturalWidth") == 0


def test_object_urls_are_revoked_and_the_users_columns_are_facts(
    visit: Visit, locked: tuple[str, Path]
) -> None:
    page = open_with_key(visit, locked[0])
    page.evaluate(
        """() => {
          window.kept = new Set();
          const [make, drop] = [URL.createObjectURL, URL.revokeObjectURL];
          URL.createObjectURL = (blob) => { const url = make(blob); kept.add(url); return url; };
          URL.revokeObjectURL = (url) => { kept.delete(url); drop(url); };
        }"""
    )
    page.fill("#panel-search [name=text]", "a red ring")
    submit(page, "search")
    score = page.locator("#panel-search .hit span").nth(1).inner_text()
    page.locator("#panel-search .hit").first.click()
    page.wait_for_selector("#hit:not([aria-busy]) .gallery .hit")
    facts = page.inner_text("#hit .facts").splitlines()
    values = dict(zip(facts[::2], facts[1::2], strict=True))
    assert (values["Score"], values["score"], values["known"]) == (score, "very good", "to all")
    expect(page.locator("#hit .gallery img").last).not_to_have_js_property("naturalWidth", 0)
    page.wait_for_function("kept.size === 0")


def test_only_photos_that_browsers_cannot_open_are_converted(visit: Visit, tmp_path: Path) -> None:
    tiff = tmp_path / "deep.tif"
    with Image.open(STAR) as photo:
        photo.resize((200, 200)).save(tiff)
    page = visit("where")
    requests = []
    page.on("request", lambda request: requests.append(request.url.rsplit("/")[-1]))
    page.fill("#panel-where [name=texts]", "a star")
    for number, path in enumerate((RING, tiff)):
        give(page, "where", path)
        expect(page.locator("#panel-where .chosen img")).not_to_have_js_property("naturalWidth", 0)
        requests.clear()
        submit(page, "where")
        image = page.locator("#panel-where .layers img")
        expect(image).to_have_js_property("naturalWidth", (256, 200)[number])
    assert requests.count("preview") == 1


def test_more_hits_are_those_of_the_newest_query(visit: Visit) -> None:
    page = visit()
    page.evaluate(
        """() => {
          const read = FileReader.prototype.readAsDataURL;
          FileReader.prototype.readAsDataURL = function (file) {
            window.go = () => read.call(this, file);
          };
        }"""
    )
    give(page, "search", RING)
    page.click("#panel-search form [type=submit]")
    page.click("#panel-search .chosen button")
    page.fill("#panel-search [name=text]", "a star")
    submit(page, "search")
    page.evaluate("window.go()")
    page.wait_for_timeout(200)
    with page.expect_request("**/v1/search") as request:
        page.locator("#panel-search .more").scroll_into_view_if_needed()
    assert request.value.post_data_json == {"text": "a star", "k": 24, "offset": 24}


def test_an_inspector_of_other_good_photos_is_not_used(visit: Visit) -> None:
    page = visit("inspect")
    give(page, "good", *GOOD)
    give(page, "parts", PART)
    waiting = hold_requests(page, "**/v1/inspect")
    page.click("#panel-inspect form [type=submit]")
    wait_for_requests(page, waiting, 1)
    page.locator("#panel-inspect [data-photos=good] .chosen button").first.click()
    page.fill("#panel-inspect [name=false_alarms]", "0.2")
    page.wait_for_timeout(400)
    waiting[0].continue_()
    page.wait_for_selector("#panel-inspect:not([aria-busy])")
    assert page.locator("#panel-inspect .card").count() == 1  # the slider has not stopped it
    page.click("#panel-inspect form [type=submit]")
    wait_for_requests(page, waiting, 2)
    sent = waiting[1].request.post_data_json
    assert len(sent["good"]) == len(GOOD) - 1
    page.fill("#panel-inspect [name=false_alarms]", "0.3")  # only the rate has changed
    waiting[1].continue_()
    wait_for_requests(page, waiting, 3)
    sent = waiting[2].request.post_data_json
    assert (sent["images"], sent["false_alarms"]) == ([], 0.3)
    assert "fitted" in sent
    waiting[2].fulfill(status=404, body='{"error": {"message": "-", "code": "not_fitted"}}')
    wait_for_requests(page, waiting, 4)
    assert "good" in waiting[3].request.post_data_json  # it is fitted again
    waiting[3].continue_()
    page.wait_for_selector("#panel-inspect:not([aria-busy])")
    assert errors(page, "inspect") == []


def test_an_incomplete_answer(visit: Visit) -> None:
    page = visit()
    page.route("**/v1/search", lambda route: route.fulfill(status=200, body='{"hits": ['))
    page.fill("#panel-search [name=text]", "a star")
    submit(page, "search")
    assert errors(page, "search") == ["The server answered with status 200 and said no more."]


def test_focus(visit: Visit) -> None:
    page = visit("classify")
    page.focus(".skip")
    page.keyboard.press("Enter")
    page.wait_for_timeout(100)
    assert page.is_visible("#panel-classify")
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto(page.url.partition("#")[0] + "#toString")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.is_visible("#panel-search")
    page.click("#tab-explore")
    page.fill("#panel-explore [name=clusters]", "2")
    submit(page, "explore")
    page.locator("#panel-explore .group > button").first.focus()
    page.keyboard.press("Enter")
    focused = (
        "document.activeElement.closest('li') === document.querySelector('.group ul').children[12]"
    )
    assert page.evaluate(focused)


def test_arrow_keys_after_a_button_is_disabled(visit: Visit, locked: tuple[str, Path]) -> None:
    page = open_with_key(visit, locked[0])
    page.fill("#panel-search [name=text]", "a red ring")
    submit(page, "search")
    names = page.locator("#panel-search .hit span:first-of-type").all_text_contents()
    page.locator("#panel-search .hit").first.click()
    page.focus("#hit .next")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.inner_text("#hit-name") == names[2]
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#hit-name") == names[1]
    page.wait_for_selector("#hit:not([aria-busy]) .gallery .hit")
    page.locator("#hit .gallery .hit").first.focus()
    page.keyboard.press("Enter")
    name = page.inner_text("#hit-name")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#hit-name") != name


def test_filters_that_no_photo_meets(visit: Visit) -> None:
    page = visit()
    page.click("#panel-search summary")
    page.fill("[name='filter:modified:from']", "2300-01-02")
    page.fill("#panel-search [name=text]", "a star")
    submit(page, "search")
    assert page.inner_text("#panel-search .status") == "No photo meets the filters."


def test_days_are_in_local_time_and_numbers_in_the_pages_language(visit: Visit) -> None:
    page = visit(timezone_id="Asia/Shanghai")
    page.click("#panel-search summary")
    for part in ("from", "to"):
        page.fill(f"[name='filter:modified:{part}']", "2026-01-02")
    page.fill("#panel-search [name=text]", "a star")
    with page.expect_request("**/v1/search") as request:
        submit(page, "search")
    assert request.value.post_data_json["where"] == (
        "modified >= timestamp '2026-01-01T16:00:00.000Z'"
        " AND modified < timestamp '2026-01-02T16:00:00.000Z'"
    )
    assert errors(page, "search") == []
    script = "import('/static/words.js').then(({ t }) => t('shown', { shown: 24, total: 1234567 }))"
    assert page.evaluate(script) == "24 of 1,234,567 photos, the best first"


def test_a_photo_whose_file_was_not_there_has_no_time(visit: Visit) -> None:
    page = visit()
    never = '{"path": "https://example.org/a.jpg", "modified": "1970-01-01T00:00:00+00:00"}'
    page.route("**/v1/images/*/info", lambda route: route.fulfill(status=200, body=never))
    page.fill("#panel-search [name=text]", "a star")
    submit(page, "search")
    page.locator("#panel-search .hit").first.click()
    page.wait_for_selector("#hit:not([aria-busy]) .gallery .hit")
    assert "Modified" not in page.inner_text("#hit .facts")


def test_the_page_while_the_server_loads_its_models(visit: Visit) -> None:
    page = visit(ready=False)
    page.wait_for_selector("body[data-ready]")
    waiting = hold_requests(page, "**/v1/models")
    page.goto(page.url.replace("#search", "?again#classify"))
    wait_for_requests(page, waiting, 1)
    assert page.inner_text("#opening") == "The server opens its models …"
    page.click("#panel-classify [type=submit]")
    waiting[0].continue_()
    page.wait_for_selector("body[data-ready]")
    assert page.is_hidden("#opening")
    assert page.url.endswith("?again#classify")


def test_back_goes_to_the_previous_tab(visit: Visit) -> None:
    page = visit()
    page.fill("#panel-search [name=text]", "a star")
    submit(page, "search")
    page.click("#tab-classify")
    page.click("#tab-where")
    page.go_back()
    page.wait_for_selector("#panel-classify:not([hidden])")
    page.go_back()
    page.wait_for_selector("#panel-search .hit")
    page.go_forward()
    page.wait_for_selector("#panel-classify:not([hidden])")


def test_dropping_what_is_not_a_file(visit: Visit) -> None:
    page = visit("classify")
    message = page.locator("[data-photos=classify] .error")
    nothing = page.evaluate_handle("() => new DataTransfer()")
    page.dispatch_event("[data-photos=classify]", "drop", {"dataTransfer": nothing})
    expect(message).to_contain_text("is no file")
    give(page, "classify", RING)
    expect(message).to_be_hidden()


def test_a_long_word_fits_on_a_phone(visit: Visit) -> None:
    page = visit("where", width=390)
    give(page, "where", RING)
    page.fill("#panel-where [name=texts]", "x" * 500)
    for name in ("boxes", "masks"):
        page.check(f"#panel-where [name={name}]")
    submit(page, "where")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
