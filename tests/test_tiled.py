"""A photo looked at in tiles: what is small or beyond the crop is found, and where."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Run
from numpy.typing import NDArray
from PIL import Image

import patchword
from patchword import ImageError, ScopeWarning, UnseenWarning, UnsupportedError
from patchword.images.views import CLOSE, views
from patchword.scenes import scene
from patchword.scenes.base import finish
from patchword.scenes.wafer import add_scratch, draw_wafer, paint_wafer

LABELS = ["perfect wafer", "wafer with a scratch", "wafer with a stain"]
TEXTS = ["a wafer with a scratch", "a perfect wafer"]
SCRATCH = (940, 630, 1040, 694)  # on the large wafer
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def wide() -> Pixels:
    """A perfect wafer between one with a scratch and one with a stain."""
    kinds = ("a wafer with a scratch", "a perfect wafer", "a wafer with a stain")
    parts = [scene(3, number, 128, label=kind).image for number, kind in enumerate(kinds)]
    return np.concatenate(parts, axis=1)


@pytest.fixture(scope="module")
def large() -> Pixels:
    """A wafer of 1,500 pixels with a scratch of 100 x 64."""
    rng = np.random.default_rng(2003)
    wafer, _ = draw_wafer(rng)
    image, present = paint_wafer(wafer, 1500)
    angle, out = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.75) * wafer.radius
    place = wafer.centre[0] + out * np.cos(angle), wafer.centre[1] + out * np.sin(angle)
    small = replace(wafer, radius=wafer.radius / 8, centre=place)
    mask, _ = add_scratch(rng, small, image, present)
    rows, columns = np.nonzero(mask)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == SCRATCH
    return finish(image, wafer.noise, np.random.default_rng(2003))


@pytest.mark.parametrize("shape", [(96, 96), (500, 500), (128, 384), (1500, 97), (4000, 3000)])
def test_tiles_cover_the_photo_and_are_seen_close(shape: tuple[int, int]) -> None:
    photo = np.zeros((*shape, 3), np.uint8)
    whole, *tiles = views(photo, (96, 96))
    assert whole.box == (0, 0, shape[1], shape[0])
    covered = np.zeros(shape, np.int64)
    for tile in tiles:
        left, top, right, bottom = tile.box
        assert right - left == bottom - top
        assert tile.pixels.shape[:2] == (bottom - top, right - left)
        covered[top:bottom, left:right] += 1
    if min(shape) >= 192 or max(shape) > 1.1 * min(shape):
        assert covered.min() >= 1
        last = tiles[-1].box
        assert (last[2] - last[0]) / 96 <= CLOSE
        inner = covered[shape[0] // 2, min(shape) // 2 : -min(shape) // 2]
        assert (inner >= 2).all()  # they overlap
    else:
        assert tiles == []
    side = min(shape)
    assert all(tile.pixels.shape[0] == side for tile in views(photo, (96, 96), 9999)[1:])


def test_too_many_tiles() -> None:
    with pytest.raises(UnsupportedError, match=r"has 4,356 tiles of 31 pixels.*--tile-size"):
        views(np.zeros((1000, 1000, 3), np.uint8), (96, 96), 31)


def crops(photo: Pixels) -> tuple[list[Pixels], list[tuple[int, int, int, int]]]:
    """The whole and every square of the shorter side, half of one apart, cut here by hand."""
    side, width = photo.shape[:2]
    lefts = range(0, width - side + 1, side // 2)
    boxes = [(0, 0, width, side)] + [(left, 0, left + side, side) for left in lefts]
    return [photo[:, left:right] for left, _, right, _ in boxes], boxes


def test_the_greatest_of_the_views_counts(
    demo: patchword.Model, blip: patchword.Model, wide: Pixels
) -> None:
    parts, boxes = crops(wide)
    alone = blip.match(parts, TEXTS, squash=True)
    joined = blip.match([wide, wide], TEXTS, tiles=True)
    np.testing.assert_allclose(joined.probabilities, [alone.probabilities.max(axis=0)] * 2, 1e-5)
    best = alone.probabilities.argmax(axis=0)
    assert joined.boxes is not None
    np.testing.assert_array_equal(joined.boxes, [[boxes[n] for n in best]] * 2)
    np.testing.assert_allclose(joined.cosines[0], alone.cosines[best, [0, 1]], rtol=1e-4)
    each = demo.classify(parts, LABELS, multi_label=True, squash=True)
    (scores,) = demo.classify(wide, LABELS, multi_label=True, tiles=True)
    for score in scores:
        actual = [next(s.probability for s in one if s.label == score.label) for one in each]
        assert score.probability == pytest.approx(max(actual), rel=1e-4)
        assert score.box == boxes[int(np.argmax(actual))]


def test_labels_that_exclude_each_other_sum_to_one_and_strange_tiles_do_not_count(
    demo: patchword.Model, wide: Pixels
) -> None:
    parts, _ = crops(wide)
    assert demo.scope is not None
    known = demo.scope.novelty(demo.embed_images(parts, squash=True)) <= 1
    known[0] = True
    assert 1 < known.sum() < len(parts)
    each = demo.classify(parts, LABELS, squash=True)
    counted = [one for one, counts in zip(each, known, strict=True) if counts]
    best = {
        label: max(s.probability for one in counted for s in one if s.label == label)
        for label in LABELS
    }
    (scores,) = demo.classify(wide, LABELS, tiles=True)
    for score in scores:
        expected = best[score.label] / sum(best.values())
        assert score.probability == pytest.approx(expected, rel=1e-4)
    assert sum(score.probability for score in scores) == pytest.approx(1)


def test_rejected_where_every_view_is(demo: patchword.Model, wide: Pixels) -> None:
    (none, *_) = demo.classify(wide, ["red ring", "blue star"], reject=0.999, tiles=True)[0]
    assert none.label == "none of these"
    (first, *_) = demo.classify(wide, LABELS, reject=0.5, tiles=True)[0]
    assert first.label in LABELS
    assert first.box is not None


def test_with_reject_strange_tiles_count_where_all_are(demo: patchword.Model, wide: Pixels) -> None:
    parts, _ = crops(wide)
    each = demo.classify(parts, LABELS, reject=0.0, squash=True)
    counted = [one for one in each if not one[0].outside]
    assert 1 < len(counted) < len(parts)
    (scores,) = demo.classify(wide, LABELS, reject=0.0, tiles=True)
    for score in scores:
        actual = [s.probability for one in counted for s in one if s.label == score.label]
        assert score.probability == pytest.approx(max(actual), rel=1e-4)
    strange = np.random.default_rng(0).integers(0, 256, (192, 384, 3), np.uint8)
    (none, *rest) = demo.classify(strange, LABELS, reject=0.0, tiles=True)[0]
    assert (none.label, none.probability, none.outside) == ("none of these", 1.0, True)
    assert rest[0].probability > 0


def test_defects_beyond_the_crop_are_found_and_placed(blip: patchword.Model, wide: Pixels) -> None:
    asked = ["is there a scratch?", "is there a stain?", "are there particles?"]
    assert [a.text for a in blip.ask(wide, asked)] == ["no", "no", "no"]
    scratch, stain, particles = blip.ask(wide, asked, tiles=True)
    assert (scratch.text, stain.text, particles.text) == ("yes", "yes", "no")
    assert (scratch.box, stain.box) == ((0, 0, 128, 128), (256, 0, 384, 128))
    # In other words too, though parts of a photo may look like what such are not asked of.
    put = blip.ask(wide, "can you see a scratch?", tiles=True)
    assert (put.text, put.understood, put.box) == ("yes", asked[0], scratch.box)
    chosen = blip.ask(wide, asked[:2], ["no", "yes"], tiles=128)
    assert [answer.text for answer in chosen] == ["yes", "yes"]
    assert blip.ask([wide], asked[0], tiles=True)[0].box == scratch.box


def test_a_small_scratch_on_a_large_wafer(blip: patchword.Model, large: Pixels) -> None:
    assert blip.ask(large, "is there a scratch?").text == "no"
    answer = blip.ask(large, "is there a scratch?", tiles=True)
    assert answer.text == "yes"
    left, top, right, bottom = answer.box or (0, 0, 0, 0)
    assert (left, top) <= SCRATCH[:2]
    assert right >= SCRATCH[2]
    assert bottom >= SCRATCH[3]
    assert right - left == 750


def test_a_yes_of_a_tile_counts_however_it_is_written(blip: patchword.Model, wide: Pixels) -> None:
    usual = blip.ask(wide, "is there a stain?", ["yes", "no"], tiles=True)
    answer = blip.ask(wide, "is there a stain?", ["Yes", "No"], tiles=True)
    assert (usual.text, answer.text) == ("yes", "Yes")
    assert answer.box == usual.box != (0, 0, 384, 128)


def test_none_of_these_as_a_label(demo: patchword.Model, wide: Pixels) -> None:
    labels = ["perfect wafer", "none of these"]
    (actual,) = demo.classify(wide, labels, tiles=True)
    assert {score.label for score in actual} == set(labels)
    with pytest.raises(UnsupportedError, match="'none of these' is what reject answers"):
        demo.classify(wide, labels, reject=0.5)


def test_what_tiles_cannot_say_of_another_wording(blip: patchword.Model, wide: Pixels) -> None:
    said = "'is there a defect.', which is asked as 'is the wafer perfect.', is answered from"
    with pytest.warns(UnseenWarning, match=said):
        blip.ask(wide, "is there a defect?", tiles=True)


def test_what_tiles_cannot_say_is_said(
    blip: patchword.Model, wide: Pixels, recwarn: pytest.WarningsRecorder
) -> None:
    whole = blip.ask(wide, "is the wafer perfect?", squash=True)
    tiled = blip.ask(wide, "is the wafer perfect?", tiles=True)
    assert tiled == replace(whole, box=(0, 0, 384, 128))
    told = [str(one.message) for one in recwarn if one.category is UnseenWarning]
    assert len(told) == 1
    assert told[0].startswith("'is the wafer perfect?' is answered from the whole photo alone")
    scope = [str(one.message) for one in recwarn if one.category is ScopeWarning]
    assert all("the image looks unlike" in message for message in scope)


def test_captions_of_tiles_stand_behind_that_of_the_whole(
    blip: patchword.Model, wide: Pixels
) -> None:
    parts, _ = crops(wide)
    whole, *others = (one.text for one in blip.caption(parts, squash=True))
    (actual,) = blip.caption(wide, tiles=True)
    assert actual.text == whole
    assert {one.text for one in actual.others} == set(others) - {whole}
    (several,) = blip.caption(wide, tiles=True, count=3)
    (beams,) = blip.caption(wide, squash=True, count=3)
    assert [one.text for one in several.others[:2]] == [one.text for one in beams.others]
    assert {one.text for one in several.others} >= set(others) - {whole}


def test_wrong_use(demo: patchword.Model, blip: patchword.Model, wide: Pixels) -> None:
    with pytest.raises(UnsupportedError, match="tiles needs labels"):
        demo.classify(wide, tiles=True)
    with pytest.raises(UnsupportedError, match="tiles is -1"):
        blip.match(wide, TEXTS, tiles=-1)
    with pytest.raises(ImageError, match="no such file"):
        blip.match(["missing.png"], TEXTS, tiles=True)
    with pytest.raises(UnsupportedError, match="answers no questions"):
        demo.ask(wide, "is there a scratch?", tiles=True)


@pytest.fixture
def place(wide: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder has that photo, wide.png."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(wide).save("wide.png")


def commands(photo: str) -> Sequence[tuple[str, ...]]:
    return (
        ("ask", photo, "is there a scratch?"),
        ("match", photo, "a wafer with a scratch"),
        ("classify", photo, "-l", "wafer with a scratch,perfect wafer"),
        ("caption", photo),
    )


def test_commands(run: Run, place: None) -> None:
    for command in commands("wide.png"):
        name, photo, *rest = command
        done = run(name, photo, "missing.png", *rest, "--each-tile", "--json", "--tile-size", "128")
        assert done.code == 1, command
        joined, *tiles = (record for record in done.records if "error" not in record)
        assert "tile" not in joined
        assert "cropped" not in joined
        assert [record["tile"][0] for record in tiles] == [0, 0, 64, 128, 192, 256]
        assert tiles[0]["tile"] == [0, 0, 384, 128]
    ask = run("ask", "wide.png", "is there a scratch?", "--tiles", "--json").records
    assert [(r["answer"], r["box"]) for r in ask] == [("yes", [0, 0, 128, 128])]
    table = run("ask", "wide.png", "is there a scratch?", "--each-tile")
    assert "wide.png [0,0 - 128,128]" in table.out


def test_the_command_heatmap(run: Run, demo: patchword.Model, place: None) -> None:
    (record,) = run("heatmap", "wide.png", "a scratch", "--tile-size", "128", "--json").records
    heat = demo.heatmap("wide.png", "a scratch", tiles=128)
    assert (record["value"], record["x"], record["y"]) == pytest.approx(heat.peaks()[0])
    assert record["probability"] == pytest.approx(heat.present[0])  # type: ignore[index]
    wrong = run("heatmap", "wide.png", "a scratch", "--tiles", "--window", "96")
    assert wrong.code == 2
    assert "leave out window, stride and short_side, or tiles" in wrong.err
