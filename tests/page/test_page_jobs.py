"""The tabs that use a model: what they show is what the model says when it is asked in Python."""

from pathlib import Path

import numpy as np
import pytest
from driving import SAMPLES, Visit, errors, give, percent, submit
from matplotlib import colormaps
from PIL import Image
from playwright.sync_api import Page

import patchword

RING, STAR = SAMPLES / "shapes" / "red-ring.jpg", SAMPLES / "shapes" / "purple-star.jpg"
SCRATCH, STAIN = SAMPLES / "wafers" / "scratch-1.jpg", SAMPLES / "wafers" / "stain-1.jpg"
BAD_LABEL = "<img src=x onerror=document.title='bad'>"


def bars(page: Page, within: str) -> list[list[str]]:
    """Labels and numbers of bars."""
    return [row.locator("span").all_text_contents() for row in page.locator(f"{within} .bars li").all()]


def test_classify(visit: Visit, demo: patchword.Model, tmp_path: Path) -> None:
    page = visit("classify")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(RING.read_bytes()[:200])
    give(page, "classify", RING, broken, STAR)
    labels = ["red ring", "purple star", BAD_LABEL]
    page.fill("#panel-classify [name=labels]", f"{labels[0]}\n{labels[1]}，{labels[2]}")
    submit(page, "classify")
    cards = page.locator("#panel-classify .card")
    assert cards.locator("h3").all_text_contents() == ["red-ring.jpg", "broken.jpg", "purple-star.jpg"]
    for number, scores in zip((1, 3), demo.classify([RING, STAR], labels), strict=True):
        shown = bars(page, f"#panel-classify .card:nth-child({number})")
        assert shown == [[score.label, percent(score.probability)] for score in scores]
    assert shown[0] == ["purple star", percent(scores[0].probability)]
    filled = page.locator("#panel-classify .bar i").first.evaluate("bar => bar.style.width")
    assert float(filled.rstrip("%")) == pytest.approx(100 * demo.classify([RING], labels)[0][0].probability, abs=0.1)
    assert len(errors(page, "classify")) == 1
    assert errors(page, "classify")[0].startswith("broken.jpg: ")
    assert "does not know" in page.inner_text("#panel-classify .warnings")
    assert page.title() == "patchword"
    page.check("#panel-classify [name=multi]")
    submit(page, "classify")
    several = demo.classify([RING], labels, multi_label=True)[0]
    assert bars(page, "#panel-classify .card:nth-child(1)") == [
        [score.label, percent(score.probability)] for score in several
    ]


def canvas(page: Page, selector: str) -> np.ndarray:
    """What is drawn over a photo, (H, W, 4) of 0 to 255."""
    width, data = page.evaluate(
        """selector => {
          const canvas = document.querySelector(selector);
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return [canvas.width, btoa(data.reduce((all, byte) => all + String.fromCharCode(byte), ""))];
        }""",
        selector,
    )
    import base64

    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(-1, width, 4)


def test_where_draws_the_models_own_map(visit: Visit, demo: patchword.Model) -> None:
    page = visit("where")
    give(page, "where", SCRATCH)
    page.fill("#panel-where [name=texts]", "a scratch\na stain")
    page.fill("#panel-where [name=opacity]", "1")
    submit(page, "where")
    found = demo.heatmap(SCRATCH, ["a scratch", "a stain"])
    drawn = canvas(page, "#panel-where .stage canvas")
    low, high = float(found.grid.min()), float(found.grid.max())
    rows, columns = found.grid.shape[1:]
    levels = (found.grid[0] - low) / (high - low)
    # In the middle of a cell nothing of its neighbours counts. Away from the ring at the peak:
    (_, x, y), *_ = found.peaks()
    checked = 0
    for row in range(rows):
        for column in range(columns):
            place = (column + 0.5) / columns * 256, (row + 0.5) / rows * 256
            if np.hypot(place[0] - x, place[1] - y) < 16:
                continue
            r, g, b, alpha = drawn[int(place[1] * 3), int(place[0] * 3)].astype(float)
            assert alpha == 255
            wanted = np.array(colormaps["inferno"](float(levels[row, column]))[:3]) * 255
            assert [r, g, b] == pytest.approx(wanted, abs=14), (row, column)
            checked += 1
    assert checked > 0.9 * rows * columns
    page.fill("#panel-where [name=opacity]", "0.4")
    assert set(np.unique(canvas(page, "#panel-where .stage canvas")[..., 3])) <= {102, *range(103, 256)}
    assert np.median(canvas(page, "#panel-where .stage canvas")[..., 3]) == 102
    buttons = page.locator("#panel-where .texts button")
    share = found.present[1]
    assert buttons.nth(1).inner_text() == f"a stain {share:.0%} (not found)"
    buttons.nth(1).click()
    assert canvas(page, "#panel-where .stage canvas").max() == 0  # no map of what is not there
    assert "“a stain” was not found" in page.inner_text("#panel-where figcaption")


def test_where_draws_boxes_and_masks(visit: Visit, demo: patchword.Model) -> None:
    page = visit("where")
    photo = SAMPLES / "shapes" / "yellow-circle-above-blue-star.jpg"
    give(page, "where", photo)
    labels = ["a yellow circle", "a blue star"]
    page.fill("#panel-where [name=texts]", "\n".join(labels))
    page.uncheck("#panel-where [name=heatmap]")
    page.check("#panel-where [name=boxes]")
    submit(page, "where")
    regions = demo.locate(photo, labels).regions
    found = page.locator("#panel-where .found li").all_text_contents()
    assert len(regions) == 2
    for region in regions:
        box = ", ".join(str(round(edge)) for edge in region.box)
        assert f"{region.text}: score {region.score:.3f}, box {box}" in found
        x1, y1, x2, _ = (round(3 * edge) for edge in region.box)
        edge = canvas(page, "#panel-where .stage canvas")[y1 : y1 + 2, (x1 + x2) // 2]
        assert (edge[:, 3] == 255).all()
    page.uncheck("#panel-where [name=boxes]")
    page.check("#panel-where [name=masks]")
    page.fill("#panel-where [name=opacity]", "1")
    submit(page, "where")
    segmented = demo.segment(photo, labels)
    listed = page.locator("#panel-where .found li").all_text_contents()
    assert listed == [f"{s.label or 'background'}: {percent(s.share)} of the photo" for s in segmented.shares]
    drawn = canvas(page, "#panel-where .stage canvas")[::3, ::3, :3].astype(int)
    colours = {tuple(drawn[y, x]) for y, x in np.argwhere(segmented.map == 1)[::50]}
    others = {tuple(drawn[y, x]) for y, x in np.argwhere(segmented.map == 2)[::50]}
    assert len(colours) <= 8  # one, and what is smoothed at its edge
    assert not colours & others


def test_where_takes_a_method(visit: Visit, writer: patchword.Model) -> None:
    page = visit("where")
    page.select_option("#model", "demo-blip")
    give(page, "where", SCRATCH)
    page.fill("#panel-where [name=texts]", "a scratch")
    page.select_option("#panel-where [name=method]", "gradcam")
    submit(page, "where")
    assert page.inner_text("#panel-where figcaption").startswith("Where “a scratch” is, by gradcam")
    page.select_option("#panel-where [name=layer]", "99") if False else None


def test_ask(visit: Visit, writer: patchword.Model) -> None:
    page = visit("ask")
    notice = page.locator("#panel-ask .cannot")
    assert "demo does not caption images" in notice.inner_text() or "answers no questions" in notice.inner_text()
    assert page.is_disabled("#panel-ask [name=question]")
    notice.get_by_role("button", name="Use demo-blip").click()
    assert notice.is_hidden()
    give(page, "ask", STAIN)
    page.click("#panel-ask .caption")
    page.wait_for_selector("#panel-ask .talk li")
    assert page.inner_text("#panel-ask .talk .answer") == writer.caption([STAIN])[0].text
    page.fill("#panel-ask [name=question]", "where is the stain?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel-ask .talk li:nth-child(2)")
    answer = writer.ask(STAIN, "where is the stain?")
    assert page.locator("#panel-ask .answer").first.inner_text() == f"{answer.text} ({answer.probability:.0%})"
    page.fill("#panel-ask [name=answers]", "left, right")
    submit(page, "ask")
    ranked = writer.ask(STAIN, "where is the stain?", answers=["left", "right"]).ranking
    assert bars(page, "#panel-ask .talk li:nth-child(1)") == [
        [choice.text, percent(choice.probability)] for choice in ranked
    ]


def test_compare(visit: Visit, demo: patchword.Model, writer: patchword.Model) -> None:
    page = visit("compare")
    give(page, "compare", RING, SCRATCH)
    texts = ["a red ring", "a wafer with a scratch"]
    page.fill("#panel-compare [name=texts]", "\n".join(texts))
    submit(page, "compare")

    def cells() -> list[list[str]]:
        rows = page.locator("#panel-compare tbody tr").all()
        return [row.locator("td").all_text_contents() for row in rows]

    cosines = demo.similarity([RING, SCRATCH], texts)
    assert cells() == [[f"{value:.3f}" for value in row] for row in cosines.tolist()]
    best = page.locator("#panel-compare td.best").all_text_contents()
    assert best == [f"{row.max():.3f}" for row in cosines]
    assert page.is_disabled("#panel-compare [value=match]")
    page.select_option("#model", "demo-blip")
    page.check("#panel-compare [value=match]")
    submit(page, "compare")
    matches = writer.match([RING, SCRATCH], texts)
    assert cells() == [[percent(value) for value in each.probabilities] for each in matches]


def test_a_file_that_browsers_cannot_open(visit: Visit, demo: patchword.Model, tmp_path: Path) -> None:
    page = visit("classify")
    tiff = tmp_path / "deep.tif"
    with Image.open(RING) as photo:
        photo.save(tiff)
    give(page, "classify", tiff)
    page.fill("#panel-classify [name=labels]", "red ring, red star")
    submit(page, "classify")
    page.wait_for_function("document.querySelector('#panel-classify .card img').naturalWidth === 256")
    scores = demo.classify([tiff], ["red ring", "red star"])[0]
    assert bars(page, "#panel-classify .card") == [[s.label, percent(s.probability)] for s in scores]


def test_what_is_missing_is_said(visit: Visit) -> None:
    page = visit("classify")
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
