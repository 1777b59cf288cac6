"""The tabs that use a model show the results of the same calls in Python."""

from pathlib import Path

import numpy as np
import pytest
from driving import SAMPLES, Visit, drawn, errors, give, percent, submit
from matplotlib import colormaps
from PIL import Image
from playwright.sync_api import Page, expect
from scipy import ndimage

import patchword

RING, STAR = SAMPLES / "shapes" / "red-ring.jpg", SAMPLES / "shapes" / "purple-star.jpg"
SCRATCH, STAIN = SAMPLES / "wafers" / "scratch-1.jpg", SAMPLES / "wafers" / "stain-1.jpg"
BAD_LABEL = "<img src=x onerror=document.title='bad'>"


def bars(page: Page, within: str) -> list[list[str]]:
    """The labels and numbers of bars."""
    return [
        row.locator("span").all_text_contents() for row in page.locator(f"{within} .bars li").all()
    ]


def test_classify(visit: Visit, demo: patchword.Model, tmp_path: Path) -> None:
    page = visit("classify")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(RING.read_bytes()[:200])
    give(page, "classify", RING, broken, STAR)
    labels = ["red ring", "purple star", BAD_LABEL]
    page.fill("#panel-classify [name=labels]", f"{labels[0]}\n{labels[1]}，{labels[2]}")
    submit(page, "classify")
    cards = page.locator("#panel-classify .card")
    assert cards.locator("h3").all_text_contents() == [
        "red-ring.jpg",
        "broken.jpg",
        "purple-star.jpg",
    ]
    for number, scores in zip((1, 3), demo.classify([RING, STAR], labels), strict=True):
        shown = bars(page, f"#panel-classify .card:nth-child({number})")
        assert shown == [[score.label, percent(score.probability)] for score in scores]
    assert shown[0] == ["purple star", percent(scores[0].probability)]
    bar = page.locator("#panel-classify .bar i")
    widths = [float(w.rstrip("%")) for w in bar.evaluate_all("all => all.map(i => i.style.width)")]
    assert widths[0] > 90 > 10 > widths[1]
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


STAGE = "#panel-where .layers canvas"


def test_where_draws_the_models_own_map(visit: Visit, demo: patchword.Model) -> None:
    page = visit("where")
    give(page, "where", SCRATCH)
    page.fill("#panel-where [name=texts]", "a scratch\na stain")
    page.fill("#panel-where [name=opacity]", "1")
    submit(page, "where")
    found = demo.heatmap(SCRATCH, ["a scratch", "a stain"])
    shown = drawn(page, STAGE)
    assert shown.shape == (768, 768, 4)
    grid = found.grid[0]
    levels = (grid - found.grid.min()) / np.ptp(found.grid)
    y, x = np.mgrid[8:768:16, 8:768:16]  # places in what is drawn
    rows, columns = (
        (each + 0.5) / 768 * n - 0.5 for each, n in zip((y, x), grid.shape, strict=True)
    )
    values = ndimage.map_coordinates(levels, [rows, columns], order=1, mode="nearest")
    wanted = colormaps["inferno"](values)[..., :3] * 255
    (_, left, top), *_ = found.peaks()
    away = np.hypot(x - 3 * left, y - 3 * top) > 40  # from the ring around the peak
    assert (shown[y, x, 3] == 255).all()
    # Two levels of 255 and the colours between the stops of the page's table.
    assert np.abs(shown[y, x, :3] - wanted)[away].max() < 9
    page.fill("#panel-where [name=opacity]", "0.4")
    assert np.median(drawn(page, STAGE)[..., 3]) == 102
    buttons = page.locator("#panel-where .texts button")
    assert found.present is not None
    assert buttons.nth(1).inner_text() == f"a stain {percent(found.present[1])} (not found)"
    buttons.nth(1).click()
    assert drawn(page, STAGE).max() == 0  # no map
    assert "“a stain” was not found" in page.inner_text("#panel-where figcaption")


def where(visit: Visit, photo: Path, texts: list[str], job: str) -> Page:
    """The tab Where after it has done one job, "boxes" or "masks", with a photo and texts."""
    page = visit("where")
    give(page, "where", photo)
    page.fill("#panel-where [name=texts]", "\n".join(texts))
    page.uncheck("#panel-where [name=heatmap]")
    page.check(f"#panel-where [name={job}]")
    submit(page, "where")
    return page


def test_where_draws_boxes_and_masks(visit: Visit, demo: patchword.Model) -> None:
    photo = SAMPLES / "shapes" / "yellow-circle-above-blue-star.jpg"
    labels = ["a yellow circle", "a blue star"]
    page = where(visit, photo, labels, "boxes")
    regions = demo.locate(photo, labels).regions
    found = page.locator("#panel-where .legend li").all_text_contents()
    assert len(regions) == 2
    for region in regions:
        box = ", ".join(str(round(edge)) for edge in region.box)
        assert f"{region.text}: score {region.score:.3f}, box {box}" in found
        x1, y1, x2, _ = (round(3 * edge) for edge in region.box)
        edge = drawn(page, STAGE)[y1 : y1 + 2, (x1 + x2) // 2]
        assert (edge[:, 3] == 255).all()
    page.uncheck("#panel-where [name=boxes]")
    page.check("#panel-where [name=masks]")
    page.fill("#panel-where [name=opacity]", "1")
    submit(page, "where")
    segmented = demo.segment(photo, labels)
    listed = page.locator("#panel-where .legend li").all_text_contents()
    assert listed == [
        f"{s.label or 'background'}: {percent(s.share)} of the photo" for s in segmented.shares
    ]
    masks = drawn(page, STAGE)[::3, ::3, :3].astype(int)
    colours = {tuple(masks[y, x]) for y, x in np.argwhere(segmented.map == 1)[::50]}
    others = {tuple(masks[y, x]) for y, x in np.argwhere(segmented.map == 2)[::50]}
    assert len(colours) <= 8  # one, and its smoothed edge
    assert not colours & others


def test_a_label_without_pixels_says_why(visit: Visit, demo: patchword.Model) -> None:
    labels = ["a stain", "an edge chip"]
    page = where(visit, STAIN, labels, "masks")
    chip = demo.segment(STAIN, labels).shares[2]
    assert chip.present is not None
    assert chip.share == 0
    assert page.locator("#panel-where .legend li").all_text_contents()[2] == (
        f"an edge chip: not found, its probability {percent(chip.present)} is below 65%"
    )


def test_scores_are_shown_on_their_side_of_a_limit(visit: Visit) -> None:
    page = visit("where")
    shown = page.evaluate(
        """() => import("/static/words.js").then((words) => [
          ...[0.64981, 0.65, 0.65004, 0.3].map((share) => words.percentBeside(share, 0.65)),
          words.decimalsBeside([0.61, 0.28838], 0.28812), words.decimalsBeside([0.2881], 0.28812),
        ])"""
    )
    assert shown == ["64.98%", "65%", "65%", "30%", 4, 3]


def test_a_text_that_is_not_found_has_no_box(visit: Visit) -> None:
    text = "an edge chip"  # of which the stain's map has some, with too low a probability
    page = visit("where")
    give(page, "where", STAIN)
    page.fill("#panel-where [name=texts]", text)
    page.check("#panel-where [name=boxes]")
    submit(page, "where")
    assert page.locator("#panel-where .legend li").all_text_contents() == [f"{text}: not found"]
    assert drawn(page, STAGE).max() == 0


def test_where_takes_a_method_and_a_layer(visit: Visit, writer: patchword.Model) -> None:
    page = visit("where")
    page.select_option("#model", "demo-blip")
    give(page, "where", SCRATCH)
    page.fill("#panel-where [name=texts]", "a scratch")
    page.select_option("#panel-where [name=method]", "gradcam")
    layers = page.locator("#panel-where [name=layer] option").all_text_contents()
    assert layers == ["usual", "0", "1"]
    maps = []
    for layer in layers:
        page.select_option("#panel-where [name=layer]", layer if layer != "usual" else "")
        submit(page, "where")
        low, high = page.locator("#panel-where .scale").inner_text().split()
        number = None if layer == "usual" else int(layer)
        grid = writer.heatmap(SCRATCH, ["a scratch"], method="gradcam", layer=number).grid
        assert (float(low), float(high)) == pytest.approx((grid.min(), grid.max()), abs=6e-4)
        maps.append(drawn(page, STAGE))
    assert (maps[1] != maps[2]).any()
    assert "by gradcam" in page.inner_text("#panel-where figcaption")
    page.select_option("#panel-where [name=method]", "cosine")
    assert page.is_disabled("#panel-where [name=layer]")


def test_ask(visit: Visit, writer: patchword.Model) -> None:
    page = visit("ask")
    notice = page.locator("#panel-ask .cannot")
    assert notice.inner_text().startswith("demo answers no questions; load a BLIP made for it")
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
    assert (
        page.locator("#panel-ask .answer").first.inner_text()
        == f"{answer.text} ({percent(answer.probability)})"
    )
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
    assert cells() == [[percent(value) for value in row] for row in matches.probabilities.tolist()]


def test_a_file_that_browsers_cannot_open(
    visit: Visit, demo: patchword.Model, tmp_path: Path
) -> None:
    page = visit("classify")
    tiff = tmp_path / "deep.tif"
    with Image.open(RING) as photo:
        photo.save(tiff)
    give(page, "classify", tiff)
    page.fill("#panel-classify [name=labels]", "red ring, red star")
    submit(page, "classify")
    expect(page.locator("#panel-classify .card img")).to_have_js_property("naturalWidth", 256)
    scores = demo.classify([tiff], ["red ring", "red star"])[0]
    assert bars(page, "#panel-classify .card") == [
        [s.label, percent(s.probability)] for s in scores
    ]
