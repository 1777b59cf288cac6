"""Segmentation: label maps, shares, run lengths, pictures, and what cannot be asked for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Run
from PIL import Image
from pycocotools import mask as coco
from small_models import shrunk, tiny_bundle, tiny_clip, tiny_vit

import patchword
from patchword import models, variants
from patchword.bundle import Bundle, make
from patchword.errors import UnsupportedError
from patchword.images.preprocess import Geometry
from patchword.scenes import scene
from patchword.show import label_map
from patchword.where.presence import LEAST
from patchword.where.rle import rle
from patchword.where.segment import Rule, Segmentation, probabilities, read_labels, segment
from patchword.where.windows import Scale

RNG = np.random.default_rng(0)


def photo(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)


# --- from cosines to labels -----------------------------------------------------------------------


def by_loops(
    cosines: np.ndarray, owners: list[int], count: int, rule: Rule, absent: list[int]
) -> np.ndarray:
    """SCLIP's `postprocess_result`, pixel by pixel in float64, without absent labels."""
    height, width = cosines.shape[1:]
    classes = np.zeros((count, height, width))
    for y in range(height):
        for x in range(width):
            powers = np.exp(rule.logit_scale * cosines[:, y, x].astype(np.float64))
            for word, owner in enumerate(owners):
                share = powers[word] / powers.sum()
                classes[owner, y, x] = max(classes[owner, y, x], share)
    classes[absent] = 0
    if rule.least_area:
        first = classes.argmax(axis=0)
        total = (first > 0).sum()
        for label in range(1, count):
            if not (first == label).sum() > rule.least_area * total:
                classes[label] = 0
    out = classes.argmax(axis=0)
    out[classes.max(axis=0) < rule.threshold] = 0
    return out


def test_a_box_of_a_tall_photo_is_around_all_of_it() -> None:
    """A photo of 1500 x 32 pixels is drawn 20 or 21 wide: its height is not scaled by that."""
    tall = np.zeros((1500, 32, 3), np.uint8)
    drawn = label_map.picture(tall, np.zeros((1500, 32), np.uint8), [], "", [(1, (0, 0, 32, 1500))])
    rows, _ = np.nonzero((np.asarray(drawn)[22:] == label_map.palette()[1]).all(axis=-1))
    foot = label_map.side_of(tall, label_map.SIDE)
    assert rows.max() == pytest.approx(foot - 1, abs=2)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("least_area", [0.0, 0.15])
@pytest.mark.parametrize("least", [0.0, 0.7])
@pytest.mark.parametrize("owners", [(0, 1, 2, 3, 4), (0, 0, 1, 1, 2), (1, 1, 2, 3, 3)])
def test_labels_are_those_of_the_formula(
    owners: tuple[int, ...],
    least: float,
    least_area: float,
    threshold: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("patchword.where.segment.BAND", 5 * 23 * 4)  # four rows at a time
    cosines = RNG.normal(0, 0.1, (5, 19, 23)).astype(np.float32)
    cosines[3] -= 0.1  # a label of small area
    rule, count = Rule(12.0, threshold, least_area, least), max(owners) + 1
    present = (0.7, *[0.2] * (count - 2))
    labels = tuple(f"label {n}" for n in range(1, count))
    geometry = Geometry((19, 23), (19, 23), (0, 0), (19, 23))
    actual = Segmentation(
        photo(19, 23), labels, owners, cosines, geometry, 1, "value", rule, present
    )
    absent = list(range(2, count)) if least else []
    expected = by_loops(cosines, list(owners), count, rule, absent)
    np.testing.assert_array_equal(actual.map, expected)
    assert actual.map.dtype == np.uint8
    assert [each.label for each in actual.shares] == ["background", *labels]
    for number, each in enumerate(actual.shares):
        here = expected == number
        assert each.share == pytest.approx(here.mean())
        assert (each.probability is None) == (not here.any())
    assert sum(each.share for each in actual.shares) == pytest.approx(1)


def test_mean_probabilities_are_of_the_pixels_of_a_label() -> None:
    cosines = RNG.normal(0, 0.1, (3, 8, 9)).astype(np.float32)
    geometry = Geometry((8, 9), (8, 9), (0, 0), (8, 9))
    actual = Segmentation(
        photo(8, 9), ("a", "b"), (0, 1, 2), cosines, geometry, 1, "value", Rule(20.0)
    )
    shares = probabilities(cosines, (0, 1, 2), 3, 20.0)
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-6)
    for number, each in enumerate(actual.shares):
        expected = shares[number][actual.map == number].mean()
        assert each.probability == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("owners", [(0, 1, 2), (1, 1, 2)])
def test_what_is_unsure_has_the_probability_of_the_background(owners: tuple[int, ...]) -> None:
    """That is 0 where the background has no words."""
    cosines = RNG.normal(0, 0.1, (3, 8, 9)).astype(np.float32)
    geometry = Geometry((8, 9), (8, 9), (0, 0), (8, 9))
    rule = Rule(20.0, threshold=0.7)
    actual = Segmentation(photo(8, 9), ("a", "b"), owners, cosines, geometry, 1, "value", rule)
    assert 0.1 < actual.shares[0].share < 0.9
    shares = probabilities(cosines, owners, 3, 20.0)
    for number, each in enumerate(actual.shares):
        expected = shares[number][actual.map == number].mean()
        assert each.probability == pytest.approx(expected, rel=1e-5)


def test_rows_of_the_source_are_rows_of_the_whole() -> None:
    geometry = Geometry((40, 31), (64, 48), (0, 0), (64, 48))
    values = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    whole = geometry.to_source(values, 16)
    for rows in (range(0, 7), range(7, 40), range(39, 40)):
        np.testing.assert_array_equal(geometry.to_source(values, 16, rows), whole[:, list(rows)])


def test_more_than_255_labels_have_16_bits(tmp_path: Path) -> None:
    cosines = RNG.normal(size=(300, 6, 50)).astype(np.float32)
    geometry = Geometry((6, 50), (6, 50), (0, 0), (6, 50))
    labels = tuple(f"label {n}" for n in range(1, 300))
    actual = Segmentation(
        photo(6, 50), labels, tuple(range(300)), cosines, geometry, 1, "value", Rule(1.0)
    )
    assert actual.map.dtype == np.uint16
    np.testing.assert_array_equal(actual.map, cosines.argmax(axis=0))
    actual.save_map(tmp_path / "map.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "map.png")), actual.map)
    assert 600 < actual.picture().width < 2 * 720 + 3 * 450  # at most three columns of names


# --- a model --------------------------------------------------------------------------------------


def test_a_label_that_is_not_in_the_photo_has_no_pixels() -> None:
    """Unless asked for; by the head's probability, of a label's best word."""
    model, seen = patchword.load("demo"), scene(97, 1, kind="shapes")
    names = [thing.name for thing in seen.objects]
    labels = ["a lamp|" + names[0], *names[1:], "a scratch", "a stain"]
    default = model.segment(seen.image, labels)
    every = model.segment(seen.image, labels, present=0)
    assert default.present == every.present
    maps = model.heatmap(seen.image, [*names, "a lamp", "a scratch", "a stain"]).present
    assert maps is not None
    *found, lamp, scratch, stain = maps
    expected = [max(found[0], lamp), *found[1:], scratch, stain]
    np.testing.assert_allclose(default.present, expected, atol=1e-5)
    absent = [n for n, p in enumerate(expected, 1) if p < LEAST]
    assert len(absent) == 2
    assert not np.isin(default.map, absent).any()
    stays = ~np.isin(every.map, absent)
    np.testing.assert_array_equal(default.map[stays], every.map[stays])
    forced = model.segment(seen.image, labels, present=1)
    assert not forced.map.any()


def test_the_probability_of_labels_is_known_by_a_head_and_a_background() -> None:
    model, image = patchword.load("demo"), photo(96, 96)
    for options, said in (
        ({"method": "value"}, "present is of method 'head', not of 'value'"),
        ({"background": []}, "present needs words for the background"),
    ):
        assert model.segment(image, "a scratch", **options).present is None
        with pytest.raises(UnsupportedError, match=said):
            model.segment(image, "a scratch", present=0.5, **options)
    with pytest.raises(UnsupportedError, match="present is 2"):
        model.segment(image, "a scratch", present=2)


@pytest.mark.parametrize("shape", [(30, 1500), (1500, 30), (3, 3), (97, 64)])
def test_a_photo_of_any_shape_is_labelled_whole(clip: Bundle, shape: tuple[int, int]) -> None:
    segmentation = segment(clip, photo(*shape), ["a cat", "a dog|a puppy"], scale=Scale(48, 48))
    assert segmentation.map.shape == shape
    assert segmentation.labels == ("a cat", "a dog")
    assert segmentation.map.max() <= 2
    every = segment(clip, photo(*shape), ["a cat", "a dog"], background=[])
    assert every.shares[0].share == 0
    assert every.map.min() == 1


def test_labels_follow_the_heatmaps(clip: Bundle) -> None:
    """Without background and synonyms, the label of a pixel is that of the highest map."""
    image, words = photo(60, 80), ["a cat", "a dog", "a house"]
    sentences = [f"a photo of a {word}" for word in words]
    maps = patchword.api.model.with_methods(clip).heatmap(image, sentences, "value").values
    segmentation = segment(clip, image, words, background=[], method="value")
    np.testing.assert_array_equal(segmentation.map, maps.argmax(axis=0) + 1)
    one = segment(clip, image, words, background=[], method="value", logit_scale=1, threshold=0.4)
    assert one.shares[0].share == 1  # of three nearly equal ones none has 0.4


def test_shapes_have_their_labels(demo: patchword.Model) -> None:
    """On scenes that it was not trained on, better than chance by far."""
    both = np.zeros(2)
    for index in range(12):
        seen = scene(91, index, kind="shapes")
        segmentation = demo.segment(
            seen.image, [thing.name for thing in seen.objects], templates="{}"
        )
        for number, thing in enumerate(seen.objects, start=1):
            mask = segmentation.map == number
            both += (mask & thing.mask).sum(), (mask | thing.mask).sum()
    assert both[0] / both[1] > 0.25


def test_run_lengths_are_those_of_coco() -> None:
    masks = [np.zeros((4, 7), bool), np.ones((4, 7), bool), RNG.random((31, 17)) < 0.5]
    big = np.zeros((900, 800), bool)
    big[100:700, 50:790] = True
    big[300:420, 200:260] = False
    for mask in (*masks, big):
        expected = coco.encode(np.asfortranarray(mask, np.uint8))
        actual = rle(mask)
        assert actual == {"size": list(mask.shape), "counts": expected["counts"].decode()}
        np.testing.assert_array_equal(coco.decode(actual), mask)


def test_run_lengths_of_a_result(demo: patchword.Model) -> None:
    segmentation = demo.segment(scene(91, 0, kind="shapes").image, ["red ring", "blue star", "hat"])
    masks = segmentation.rle()
    assert set(masks) == {each.label for each in segmentation.shares[1:] if each.share}
    for label, each in masks.items():
        np.testing.assert_array_equal(
            coco.decode(each), segmentation.map == segmentation.labels.index(label) + 1
        )


# --- pictures -------------------------------------------------------------------------------------


def test_colours_are_apart() -> None:
    colours = label_map.palette()
    assert colours.shape == (256, 3)
    assert len(np.unique(colours, axis=0)) == 256
    first = colours[:21].astype(int)
    distance = np.abs(first[:, None] - first).sum(axis=-1) + 999 * np.eye(21, dtype=int)
    assert distance.min() >= 80


def test_a_picture_shows_each_label_in_its_colour(tmp_path: Path) -> None:
    labels = np.zeros((60, 90), np.uint8)
    labels[:, 30:60], labels[:, 60:] = 1, 2
    grey = np.full((60, 90, 3), 100, np.uint8)
    names = enumerate(("background", "hat", "shoe"))
    panel = label_map.picture(grey, labels, [(number, name, "33%") for number, name in names])
    drawn = np.asarray(panel, int)
    colours = label_map.palette().astype(int)
    right = drawn[22 + 160, 22 * 2 + label_map.SIDE :]
    for x, number in ((80, 0), (240, 1), (400, 2)):
        expected = 100 + label_map.OPACITY * (colours[number] - 100) if number else 100
        np.testing.assert_allclose(right[x], np.broadcast_to(expected, 3), atol=1)
    label_map.save(labels, tmp_path / "map.png")
    read = Image.open(tmp_path / "map.png")
    assert read.mode == "P"
    np.testing.assert_array_equal(np.asarray(read), labels)
    np.testing.assert_array_equal(np.asarray(read.convert("RGB"))[0, 89], colours[2])
    with pytest.raises(UnsupportedError, match=r"saved as \.png"):
        label_map.save(labels, tmp_path / "map.jpg")


# --- what cannot be asked for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "background", "says"),
    [
        ([], None, "at least one label"),
        ([""], None, "an empty label"),
        (["dog|"], None, "an empty label"),
        (["dog", " "], None, "an empty label"),
        (["dog", "dog"], None, "'dog' is given twice"),
        (["dog|puppy", "puppy"], None, "'puppy' is given twice"),
        (["sky"], ["sky"], "'sky' is given twice"),
        (["background"], None, "words for it are given by background"),
    ],
)
def test_labels_that_cannot_be(labels: list, background: list | None, says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        segment(tiny_bundle(tiny_clip()), photo(8, 8), labels, background)


def test_words_and_their_owners() -> None:
    assert read_labels("dog | puppy", ["sky"]) == (("dog",), ["sky", "dog", "puppy"], (0, 1, 1))


def test_numbers_and_models_that_cannot_be(clip: Bundle) -> None:
    image, cats = photo(8, 8), ["a cat"]
    for options, says in (
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"least_area": -1}, "least_area is -1"),
        ({"logit_scale": 0}, "logit_scale is 0"),
        ({"method": "legrad"}, "'legrad' has no cosines"),
        ({"method": "nothing"}, "no heatmap method 'nothing'"),
        ({"templates": ["a photo"]}, r"has no \{\} where the label goes"),
    ):
        with pytest.raises(UnsupportedError, match=says):
            segment(clip, image, cats, **options)
    swin = shrunk(variants.VARIANTS["swin-tiny-7-224"].config)
    for config in (tiny_vit("learned"), swin):
        model = make(models.build(config), config, None, "tiny")
        with pytest.raises(UnsupportedError, match=r"tiny has an image tower only.*load a CLIP"):
            segment(model, image, cats)
    config = replace(tiny_clip(), vision=None)
    with pytest.raises(UnsupportedError, match=r"tiny has a text tower only.*load a CLIP"):
        segment(make(models.build(config), config, clip.tokenizer, "tiny"), image, cats)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    for index in (0, 1):
        Image.fromarray(scene(91, index, kind="shapes").image).save(f"{index}.png")
    return tmp_path


def test_the_command_tells_shares_and_writes_both_pictures(run: Run, place: Path) -> None:
    completed = run("segment", "0.png", "-l", "red ring|red circle, blue star", "--save", "x.png")
    assert (completed.code, "wrote x.png" in completed.err) == (0, True)
    assert "wrote x-map.png, in each pixel the number of its label" in completed.err
    assert all(word in completed.out for word in ("red ring", "blue star", "background", "share"))
    direct = patchword.load("demo").segment("0.png", ["red ring|red circle", "blue star"])
    np.testing.assert_array_equal(np.asarray(Image.open("x-map.png")), direct.map)
    assert Image.open("x.png").width > 600

    completed = run("segment", "0.png", "gone.png", "1.png", "-l", "red ring,blue star", "--json")
    assert completed.code == 1
    assert [each["image"] for each in completed.records] == ["0.png", "gone.png", "1.png"]
    direct = patchword.load("demo").segment("1.png", ["red ring", "blue star"])
    record = completed.records[2]
    assert record["method"] == direct.method
    assert [row["share"] for row in record["labels"]] == [each.share for each in direct.shares]
    assert direct.present is not None
    assert [row["present"] for row in record["labels"]] == [None, *direct.present]
    assert json.loads(json.dumps(direct.rle())) == {
        row["label"]: row["segmentation"] for row in record["labels"] if row["segmentation"]
    }
    completed = run("segment", "0.png", "-l", "red ring", "--background", "none")
    assert completed.out.splitlines()[0].rstrip().endswith("mean probability")
    widths = {len(line) for line in completed.out.splitlines()}
    assert widths == {len(completed.out.splitlines()[0].rstrip())}  # no column without a heading
    completed = run("segment", "0.png", "-l", "red ring", "--background", "none", "--csv")
    assert completed.out.splitlines()[2] == "0.png,red ring,1.0,1.0,,,"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["0.png"], "give labels"),
        (["0.png", "-l", ","], "an empty text is given"),
        (["0.png", "-l", "dog,dog"], "'dog' is given twice"),
        (["0.png", "-l", "dog", "--threshold", "2"], "threshold is 2.0"),
        (["0.png", "-l", "dog", "--save", "x.txt"], "the name must end in"),
        (["0.png", "-l", "dog", "--method", "gradcam"], "has no cosines"),
    ],
)
def test_what_cannot_be_asked_of_the_command(
    run: Run,
    place: Path,
    arguments: list[str],
    says: str,
) -> None:
    completed = run("segment", *arguments)
    assert completed.code == 2
    assert says in " ".join(completed.err.replace("│", " ").split())
