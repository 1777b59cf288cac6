"""The page's Inspect tab: the verdicts, maps and guarantee of Python's inspector."""

from pathlib import Path

import numpy as np
from driving import SAMPLES, Visit, drawn, errors, give, submit
from PIL import Image
from playwright.sync_api import Route

import patchword

GOOD = sorted((SAMPLES / "wafers").glob("perfect-*.jpg"))
PARTS = [SAMPLES / "wafers" / f"{name}.jpg" for name in ("stain-1", "perfect-2", "scratch-2")]


def guarantee(inspector: patchword.Inspector) -> str:
    """As on the page, which knows no folders."""
    return " ".join(inspector.guarantee()).replace(f"{GOOD[0].parent}/", "")


def test_inspect(visit: Visit, demo: patchword.Model) -> None:
    page = visit("inspect")
    give(page, "good", *GOOD)
    give(page, "parts", *PARTS)
    submit(page, "inspect")
    assert errors(page, "inspect") == []
    inspector = patchword.inspector(demo, GOOD, false_alarms=0.05)
    found = sorted(inspector.inspect(PARTS), key=lambda result: -result.score)
    cards = page.locator("#panel-inspect .card")
    assert cards.locator("h3").all_text_contents() == [
        result.path.rsplit("/")[-1] for result in found
    ]
    verdicts = cards.locator(".verdict").all_text_contents()
    assert verdicts == ["✗ rejected" if result.rejected else "✓ passed" for result in found]
    assert "✗ rejected" in verdicts
    assert "✓ passed" in verdicts
    text = cards.nth(0).locator("p").last.inner_text()
    score, places = found[0].score, len(found[0].boxes)
    assert text == f"Score {score:.3f}, no p-value, places marked, roughly: {places}"
    assert page.inner_text("#panel-inspect .note") == guarantee(inspector)
    shown = drawn(page, "#panel-inspect .card:nth-child(1) .layers canvas")
    assert (shown[..., 3] == 255).all()
    with Image.open(PARTS[0]) as photo:
        plain = np.asarray(photo.convert("RGB").resize((768, 768))).astype(int)
    assert np.abs(shown[..., :3] - plain).max() > 100  # a frame around the defect


def test_the_slider_changes_the_guarantee_without_sending_photos(
    visit: Visit, demo: patchword.Model
) -> None:
    page = visit("inspect")
    give(page, "good", *GOOD)
    give(page, "parts", PARTS[0])
    submit(page, "inspect")
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data or ""))
    with page.expect_response("**/v1/inspect"):
        page.fill("#panel-inspect [name=false_alarms]", "0.2")
    page.wait_for_selector("#panel-inspect:not([aria-busy])")
    inspector = patchword.inspector(demo, GOOD, false_alarms=0.2)
    assert page.inner_text("#panel-inspect .note") == guarantee(inspector)
    assert page.inner_text("#panel-inspect [name=false_alarms] + output") == "20%"
    assert len(bodies) == 1
    assert len(bodies[0]) < 200  # no photo is sent again
    assert page.locator("#panel-inspect .card .verdict").inner_text() == "✗ rejected"


def test_broken_photos_are_named(visit: Visit, tmp_path: Path) -> None:
    for name in ("good.jpg", "part.jpg"):
        (tmp_path / name).write_bytes(GOOD[0].read_bytes()[:300])
    page = visit("inspect")
    give(page, "good", tmp_path / "good.jpg", *GOOD)
    give(page, "parts", PARTS[0], tmp_path / "part.jpg")
    submit(page, "inspect")
    assert [error.split(":")[0] for error in errors(page, "inspect")] == ["good.jpg", "part.jpg"]
    assert page.locator("#panel-inspect .card").count() == 1


def test_good_photos_are_sent_again_when_the_server_forgot_the_inspector(visit: Visit) -> None:
    page = visit("inspect")
    give(page, "good", *GOOD)
    give(page, "parts", PARTS[0])
    submit(page, "inspect")
    refused = '{"error": {"message": "nothing fitted is called that", "code": "not_fitted"}}'

    def forget(route: Route) -> None:
        if "fitted" in route.request.post_data_json:
            route.fulfill(status=404, body=refused)
        else:
            route.continue_()

    page.route("**/v1/inspect", forget)
    submit(page, "inspect")
    assert errors(page, "inspect") == []
    assert page.locator("#panel-inspect .card").count() == 1
