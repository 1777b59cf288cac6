"""Pictures and pages: they show the numbers, for texts and photos of any size."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageDraw

from patchword.errors import PatchwordError, UnsupportedError
from patchword.show import html_page, plots, text_drawing
from patchword.show.answers_picture import SIDE, Answer, answers_picture
from patchword.show.colours import CHOICES as COLOURS
from patchword.show.colours import SHARES, numbered, shade
from patchword.show.matrix_picture import (
    MAX_CELL,
    MIN_CELL,
    NAME_WIDTH,
    ROW,
    THUMB,
    side_by_side,
    similarity_matrix,
)
from patchword.show.peak import peak
from patchword.show.percent import share
from patchword.show.plots import GAP, TILE, Tile
from patchword.show.text_drawing import PAPER

LONG = "a wafer with a scratch that runs from the notch to the other side " * 5
WORD = "pneumonoultramicroscopicsilicovolcanoconiosis" * 4
TEXTS = ["a hat", LONG, WORD, "", "划痕"]


def photo(height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def ramp(height: int = 60, width: int = 90) -> np.ndarray:
    """0 at the left, 1 at the right."""
    return np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width)).copy()


def panel_of(*arguments: Any, **options: Any) -> Image.Image:
    return plots.maps_beside(plots.heatmap_tiles(*arguments, **options))


def nearly_grey(image: np.ndarray) -> np.ndarray:
    """The photo with 30% of its colour."""
    grey = image.astype(float).sum(axis=2, keepdims=True) / 3
    return image * 0.3 + grey * 0.7


def test_overlay_is_transparent_where_the_map_is_low_and_coloured_where_it_is_high() -> None:
    image = photo()
    drawn = np.asarray(plots.overlay(image, ramp()), float)
    assert_allclose(drawn[:, :18], nearly_grey(image)[:, :18], atol=1)
    top = np.array(colormaps["inferno"](255)[:3]) * 255
    assert_allclose(drawn[:, -1], 0.25 * nearly_grey(image)[:, -1] + 0.75 * top, atol=1.5)


def test_overlay_of_a_flat_map_is_transparent() -> None:
    image = photo()
    for value in (0.0, 0.27, -3.0):
        drawn = plots.overlay(image, np.full((60, 90), value, np.float32))
        assert_allclose(np.asarray(drawn, float), nearly_grey(image), atol=1)


def test_overlay_veils_nan_and_ignores_it_for_the_scale() -> None:
    image, values = photo(), ramp()
    values[:, :30] = np.nan
    drawn = np.asarray(plots.overlay(image, values), float)
    assert_allclose(drawn[:, :30], 0.25 * nearly_grey(image)[:, :30] + 0.75 * 214, atol=1)
    assert_allclose(drawn[:, 30], nearly_grey(image)[:, 30], atol=1)  # the smallest that is known


def test_overlay_of_nan_alone() -> None:
    drawn = plots.overlay(photo(), np.full((60, 90), np.nan, np.float32))
    assert drawn.size == (90, 60)


def check_panel(texts: list[str]) -> None:
    """The width fits two to four columns, and nothing is drawn over the margin."""
    panel = panel_of(photo(), np.stack([ramp()] * len(texts)), texts)
    columns = len(texts) + 1 if len(texts) < 4 else (panel.width - GAP) // (TILE + GAP)
    assert columns in (2, 3, 4)
    assert panel.width == GAP + columns * (TILE + GAP)
    pixels = np.array(panel)
    pixels[GAP:-GAP, GAP:-GAP] = 255
    assert pixels.min() == 255


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:5])
def test_heatmap_panel_holds_every_text(text: str) -> None:
    check_panel([text])


@pytest.mark.parametrize("count", range(2, 11))
def test_heatmap_panel_of_several_texts(count: int) -> None:
    check_panel((TEXTS * 2)[:count])


def test_captions_are_written_and_longer_ones_take_more_room() -> None:
    values = ramp()[None]
    short, long = (panel_of(photo(), values, [t]) for t in ("a hat", LONG))
    assert long.height > short.height
    below = np.asarray(short)[GAP + TILE * 60 // 90 + 8 :, : GAP + TILE]
    assert (below != PAPER).any()  # "photo"


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3), (1500, 2000)])
def test_panels_of_any_shape(shape: tuple[int, int]) -> None:
    panel = panel_of(photo(*shape), ramp(*shape)[None], ["a hat"])
    assert max(panel.size) < 3 * TILE


def test_a_picture_that_is_too_large_for_its_format(tmp_path: Path) -> None:
    for name, side in (("a.webp", 16_383), ("a.jpg", 65_500), ("a.pdf", 65_500)):
        plots.save(Image.new("RGB", (1, side)), tmp_path / name)
        message = f"{name}: the picture has 1 x {side + 1:,} pixels, and .* at most {side:,} a side"
        with pytest.raises(UnsupportedError, match=message):
            plots.save(Image.new("RGB", (1, side + 1)), tmp_path / name)
    plots.save(Image.new("RGB", (1, side + 1)), tmp_path / "a.png")


def test_the_ring_lies_on_the_largest_value() -> None:
    values = np.zeros((180, 180), np.float32)
    values[40:50, 120:130] = 1
    values[44, 127] = 1.5
    tile = Tile(np.zeros((180, 180, 3), np.uint8), values=values)
    plain = np.asarray(plots.picture(tile), int)
    ringed = np.asarray(plots.picture(Tile(tile.photo, values=values, ring=True)), int)
    ys, xs = np.nonzero(np.abs(plain - ringed).sum(axis=2) > 60)
    assert_allclose([xs.mean(), ys.mean()], [127.5 * 2, 44.5 * 2], atol=1.5)
    assert 8 < xs.max() - xs.min() < 30


def test_a_ring_at_the_border_is_whole() -> None:
    for y, x in ((0, 0), (0, 90), (179, 179), (90, 179)):
        values = np.zeros((180, 180), np.float32)
        values[y, x] = 1
        black = np.zeros((180, 180, 3), np.uint8)
        plain = np.asarray(plots.picture(Tile(black, values=values)), int)
        ringed = np.asarray(plots.picture(Tile(black, values=values, ring=True)), int)
        ys, xs = np.nonzero(np.abs(plain - ringed).sum(axis=2) > 300)
        assert np.ptp(ys) == np.ptp(xs) == 2 * (plots.RING - 1)


def test_the_ring_of_a_tall_photo_is_where_the_peak_is() -> None:
    """Enlarged to 720 pixels it is 18.7 wide, drawn as 19. That does not scale its height."""
    values = np.zeros((500, 13), np.float32)
    values[430] = 1
    tile = Tile(np.zeros((500, 13, 3), np.uint8), values=values)
    side = plots.side_of(tile.photo)
    plain = np.asarray(plots.picture(tile, side), int)
    ringed = plots.picture(Tile(tile.photo, values=values, ring=True), side)
    ys, _ = np.nonzero(np.abs(plain - np.asarray(ringed, int)).sum(axis=2) > 60)
    assert ys.mean() == pytest.approx(430.5 * side / 500, abs=1.5)


@pytest.mark.parametrize("kind", ["flat", "infinite"])
def test_no_ring_without_a_peak(kind: str) -> None:
    """On a shared scale, a flat map has colour but no peak. Infinite values are no peak."""
    values = np.full((60, 60), 0.5, np.float32)
    if kind == "infinite":
        values[:9] = np.inf
        values[40, 40] = 0.9
    tiles = [Tile(photo(60, 60), values=values, scale=(0, 1), ring=on) for on in (False, True)]
    plain, ringed = (np.asarray(plots.picture(tile), int) for tile in tiles)
    ys, _ = np.nonzero(np.abs(plain - ringed).sum(axis=2) > 60)
    if kind == "flat":
        assert not len(ys)
    else:
        assert ys.mean() == pytest.approx(40.5 * TILE / 60, abs=1.5)


def test_small_scales_have_digits() -> None:
    assert numbered((0.0, 0.95)) == ("0.000", "0.950")
    assert numbered((-0.004, 0.00482)) == ("-0.0040", "0.0048")
    assert numbered((0.0, 1.86e-5)) == ("0.000000", "0.000019")
    assert numbered((0.0, 2e-12)) == ("0.0e+00", "2.0e-12")
    assert numbered((0.0, 0.0)) == ("0.000", "0.000")


def test_a_probability_that_is_no_number_is_a_dash() -> None:
    assert share(float("nan")) == "-"
    some = [("a", float("nan")), ("b", 0.5)]
    answers_picture(photo(), ["which?"], [("a", None, some)])
    plots.classify_panel([photo()], [some], ["name"])
    assert "nan" not in html_page.cards([html_page.Card(photo(), "name", bars=some)]).lower()


def test_a_peak_lies_between_patches() -> None:
    """A map that is interpolated between the centres 10, 30, 50, ... of patches."""
    middles = np.arange(10, 200, 20)
    grid = np.zeros(10)
    grid[4:6] = 1.0, 0.9
    line = np.interp(np.arange(200), middles, grid)
    value, x, y = peak(np.minimum.outer(line, line).astype(np.float32))
    assert value == 1
    assert x == y
    assert 93 <= x <= 107  # the centres are at 90 and 110
    assert peak(np.full((5, 7), 2.0)) == (2.0, 0, 0)
    with pytest.raises(PatchwordError, match="a map of NaN alone"):
        peak(np.full((5, 7), np.nan))


def test_the_middle_of_a_ring_is_no_peak() -> None:
    y, x = np.indices((100, 100)) - 50
    values = np.where(np.abs(np.hypot(y, x) - 30) < 3, 1.0, 0.0)
    values[50, 80] = 1.1
    values[:, :5] = np.nan
    assert peak(values) == (1.1, 80, 50)


@pytest.mark.parametrize("size", [(3000, 700), (513, 1024)])
def test_a_peak_of_a_large_map(size: tuple[int, int]) -> None:
    y, x = np.indices(size)
    values = -np.hypot(y - 333, x - 555).astype(np.float32).clip(0, 150)
    high, column, row = peak(values)
    assert high == 0
    assert_allclose([row, column], [333, 555], atol=2)


def test_maps_share_a_scale_and_a_transparent_one_has_no_ring() -> None:
    values = np.stack([ramp(), 0.1 * ramp()])
    panel = np.asarray(panel_of(photo(), values, ["a hat", "a dress"], each=False), int)
    last = panel[GAP : GAP + TILE * 60 // 90, -GAP - TILE : -GAP]
    shown = Image.fromarray(nearly_grey(photo()).astype(np.uint8))
    expected = shown.resize((TILE, TILE * 60 // 90), Image.Resampling.LANCZOS)
    assert_allclose(last, np.asarray(expected, int), atol=3)


class TextBoxes(list[tuple[float, float, float, float]]):
    """The boxes of all texts in a picture."""

    def overlap(self) -> bool:
        return any(
            a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
            for i, a in enumerate(self)
            for b in self[:i]
        )


@pytest.fixture
def text_boxes(monkeypatch: pytest.MonkeyPatch) -> TextBoxes:
    boxes, text = TextBoxes(), ImageDraw.ImageDraw.text

    def record(draw, xy, words, fill=None, font=None, anchor=None):
        boxes.append(draw.textbbox(xy, words, font=font, anchor=anchor))
        text(draw, xy, words, fill, font, anchor=anchor)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return boxes


@pytest.mark.parametrize("images", [1, 2, 7])
@pytest.mark.parametrize("text", ["a", "a wafer with a scratch", LONG], ids=lambda t: t[:5])
def test_no_text_of_a_matrix_lies_on_another(images: int, text: str, text_boxes: TextBoxes) -> None:
    names = ["a-long-name-of-a-photo.jpg"] * images
    matrix = np.linspace(-0.593, 0.76, 2 * images).reshape(images, 2)
    drawn = similarity_matrix([photo()] * images, [text, "b"], matrix, names, text)
    assert len(text_boxes) > 2 * images + 4
    assert not text_boxes.overlap()
    assert max(box[2] for box in text_boxes) <= drawn.width
    text_boxes.clear()
    side_by_side([drawn, drawn], [text, "the same"])
    assert len(text_boxes) >= 2
    assert not text_boxes.overlap()


def test_a_single_number_has_no_scale() -> None:
    one = np.asarray(similarity_matrix([photo()], ["a hat"], np.array([[0.655]])))
    assert not (np.abs(one.astype(int) - [68, 1, 84]).sum(axis=2) == 0).any()  # the lowest colour
    sure = similarity_matrix([photo()], ["a hat"], np.array([[0.99]]), scale=(0.0, 1.0))
    assert sure.height > one.shape[0]


@pytest.mark.parametrize("question", ["is it?", LONG], ids=["short", "long"])
@pytest.mark.parametrize(
    "answer",
    [("scratch", 0.993, []), (LONG, 0.0001, []), ("yes", 0.9, [("yes", 0.9), (LONG, 0.1)])],
    ids=["short", "long", "chosen"],
)
def test_an_answer_has_its_probability(
    question: str, answer: Answer, text_boxes: TextBoxes
) -> None:
    picture = answers_picture(photo(), [question], [answer])
    assert not text_boxes.overlap()
    assert max(box[2] for box in text_boxes) <= picture.width
    assert len([box for box in text_boxes if box[0] < box[2] == SIDE]) == (len(answer[2]) or 1)
    assert answers_picture(photo(), [question], [answer], "a title").height > picture.height


def test_large_photos_are_coloured_at_the_size_that_is_shown() -> None:
    values = ramp(1000, 1600)
    drawn = plots.picture(Tile(np.full((1000, 1600, 3), 128, np.uint8), values=values))
    assert drawn.size == (TILE, TILE * 1000 // 1600)
    row = np.asarray(drawn, int)[100]
    assert (np.diff(row[150:, 0]) >= -2).all()  # red rises with the map


def test_similarity_matrix_paints_each_number_in_its_colour() -> None:
    matrix = np.array([[0.1, 0.3], [0.2, 0.15], [0.0, 0.05]])
    drawn = np.asarray(similarity_matrix([photo()] * 3, ["a hat", "a dress"], matrix), int)
    first = drawn.shape[0] - 3 * ROW - GAP - text_drawing.line_height(text_drawing.SMALL) - 12 - GAP
    levels = (matrix / 0.3 * 255).astype(int)
    for i in range(3):
        for t in range(2):
            colour = (np.array(colormaps["viridis"](levels[i, t])[:3]) * 255).astype(int)
            x = GAP + THUMB + 10 + MIN_CELL * t + 10
            y = first + ROW * i + 10
            assert_array_equal(drawn[y, x], colour)


@pytest.mark.parametrize(("images", "texts"), [(1, 1), (1, 10), (13, 3), (4, 20)])
def test_similarity_matrix_of_any_size(images: int, texts: int) -> None:
    matrix = np.random.default_rng(1).normal(size=(images, texts))
    matrix[0, 0] = np.nan
    drawn = similarity_matrix([photo()] * images, [LONG] * texts, matrix)
    assert drawn.width <= 3 * GAP + THUMB + NAME_WIDTH + 8 * MAX_CELL
    assert set(np.asarray(drawn)[-GAP + 4 :].ravel().tolist()) == {255}


def test_one_value_has_a_colour() -> None:
    assert shade(0.3, (0.3, 0.3)) == shade(0.0, (0.0, 1.0))


def test_bars_are_as_long_as_probabilities() -> None:
    scores = [("hat", 0.75), ("a label far longer than the photo is wide, and then some", 0.25)]
    panel = np.asarray(plots.classify_panel([photo()], [scores], [LONG]), int)
    bars = (np.abs(panel - np.array(plots.BAR)).sum(axis=2) == 0).sum(axis=1)
    lengths = [n for n in dict.fromkeys(bars.tolist()) if n > 20]
    assert max(lengths) == pytest.approx(0.75 * TILE, abs=3)
    assert any(abs(n - 0.25 * TILE) <= 3 for n in lengths)


def test_rank_and_name_of_a_hit_do_not_overlap(text_boxes: TextBoxes) -> None:
    plots.search_panel([photo(), plots.empty()], ["a.jpg", LONG], ["rank 1", "rank 2"], "hats")
    assert len(text_boxes) >= 5
    assert not text_boxes.overlap()


def test_search_panel_writes_its_title() -> None:
    with_title, without = (
        plots.search_panel([photo()], ["a.jpg"], ["rank 1"], t) for t in ("a hat", "")
    )
    assert with_title.height > without.height
    assert (np.asarray(with_title)[GAP : GAP + 20] != PAPER).any()


@settings(max_examples=30, deadline=None)
@given(text=st.text(), width=st.integers(5, 300), lines=st.integers(1, 5))
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: int, lines: int) -> None:
    face = text_drawing.font(18)
    out = text_drawing.wrap(text, face, width, lines)
    assert len(out) <= lines
    assert all(face.getlength(line) <= width or len(line) <= 2 for line in out)
    expected = "".join(text.split())
    joined = "".join("".join(out).split())
    assert joined == expected or (
        len(out) == lines and joined.endswith("…") and expected.startswith(joined[:-1])
    )


def test_drawing_leaves_pyplot_alone() -> None:
    code = """
import sys
import numpy as np
from patchword.show import plots
assert "matplotlib" not in sys.modules
photo = np.zeros((9, 9, 3), np.uint8)
plots.maps_beside(plots.heatmap_tiles(photo, np.random.rand(1, 9, 9), ["a hat"]))
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_page_holds_its_pictures_and_no_markup_of_others() -> None:
    evil = '<script>alert("x")</script>'
    card = html_page.Card(photo(), evil, evil, [(evil, 0.5)], "wrong")
    table = html_page.matrix([photo()], [evil], [evil, "b"], np.array([[0.1, np.nan]]))
    html = html_page.page(
        evil, evil, [html_page.section(evil, evil, [html_page.cards([card]), table], [evil])]
    )
    assert "<script" not in html
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', html)
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", html)
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for data in pictures]
    assert sizes == [(90, 60), (90, 60)]


def test_a_page_shrinks_large_pictures() -> None:
    url = html_page.data_url(photo(900, 1800))
    picture = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
    assert picture.size == (html_page.SIDE, html_page.SIDE // 2)


def test_a_page_marks_the_best_text_and_shows_every_number() -> None:
    values = np.array([[0.123, 0.456], [0.9, -0.1]])
    html = html_page.matrix([photo()] * 2, ["one", "two"], ["a hat", "a dress"], values)
    cells = re.findall(r"<td( class=\"best\")? style=[^>]+>([^<]+)</td>", html)
    best = ' class="best"'
    assert cells == [("", "0.12"), (best, "0.46"), (best, "0.90"), ("", "-0.10")]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The contrast ratio of two colours of 0 to 255 (WCAG 2.2, 1.4.3)."""
    bright = []
    for colour in (one, other):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
                  for v in (each / 255 for each in colour)]  # fmt: skip
        bright.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(bright) + 0.05) / (min(bright) + 0.05)


def test_a_page_can_be_read_in_the_light_and_in_the_dark() -> None:
    style = html_page.page("", "", [])
    light, dark = (
        {
            name: tuple(int(sign * (2 if len(value) == 3 else 1), 16) for sign in
                        re.findall("." * (len(value) // 3), value))
            for name, value in re.findall(r"--(\w+): #(\w+)", part)
        }
        for part in style.split("prefers-color-scheme: dark", 1)
    )  # fmt: skip
    assert set(light) == set(dark)
    for colours in (light, dark):
        for ground in ("paper", "card"):
            for ink in ("ink", "faint", "right", "wrong"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert contrast(colours["bar"], colours["line"]) >= 3


@pytest.mark.parametrize("colours", [*COLOURS, SHARES])
def test_numbers_can_be_read_in_every_colour(colours: str) -> None:
    for level in range(256):
        fill, ink = shade(level / 255, (0.0, 1.0), colours)
        assert contrast(fill, ink) >= 4, level


def test_a_page_keeps_pictures_whole_and_lets_them_be_enlarged() -> None:
    page = html_page.page("", "", [html_page.cards([html_page.Card(photo(), "a hat")])])
    assert "object-fit: cover" not in page
    assert page.count('<label class="zoom"><input type="checkbox"') == 1
    assert ".zoom input:checked + img { position: fixed" in page
