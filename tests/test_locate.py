"""Regions of what texts name: boxes, masks, boxes that are given, and what is not there."""

from pathlib import Path

import numpy as np
import pytest
from cli_runner import Run
from PIL import Image
from scipy import ndimage
from small_models import tiny_vit

import patchword
from patchword import models
from patchword.bundle import Bundle, make
from patchword.errors import UnsupportedError
from patchword.images.preprocess import Geometry
from patchword.scenes import scene
from patchword.where.locate import locate, regions_of
from patchword.where.regions import parts
from patchword.where.windows import Grid

SAMPLES = Path(__file__).parents[1] / "samples"

RNG = np.random.default_rng(0)


def photo(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_regions_are_above_half_of_the_way_to_the_peak() -> None:
    """Two plateaus, one that only touches by a corner, one too low, one too small."""
    values = np.full((40, 60), 0.1, np.float32)
    values[5:15, 10:30] = 0.9
    values[15:20, 30:36] = 0.8  # joined by a corner
    values[25:35, 5:25] = 0.7
    values[30:38, 40:58] = 0.45  # below half of the way
    values[2:4, 50:55] = 0.9  # smaller than a tenth of the largest
    geometry = Geometry((40, 60), (40, 60), (0, 0), (40, 60))
    regions = regions_of("a hat", 0, Grid(values[None], geometry, 1))
    assert [(r.box, r.area) for r in regions] == [((10, 5, 36, 20), 230), ((5, 25, 25, 35), 200)]
    assert [r.score for r in regions] == pytest.approx([0.9, 0.7])
    parts, _ = ndimage.label(values > 0.5, np.ones((3, 3)))
    np.testing.assert_array_equal(regions[0].mask, parts[5:20, 10:36] == parts[10, 20])
    assert regions_of("a hat", 0, Grid(np.ones((1, 4, 4), np.float32), geometry, 10)) == []


def test_a_line_keeps_its_faint_ends_and_a_blob_grows_no_rim() -> None:
    """0.03 below the background's map it goes on; not farther below, nor beside the line."""
    background = np.zeros((100, 100), np.float32)
    values = np.full((100, 100), -1, np.float32)
    values[46:55, 10:90] = -0.03  # around the line, and beyond it
    values[49:52, 25:75] = 1
    ((box, mask),) = parts(values, values, background)
    assert (box[1].start, box[1].stop) == (10, 90)
    assert mask[:, 25:40].sum() == 3 * 15  # of the line's middle nothing beside it
    values[46:55, 10:90] -= 0.1
    ((box, _),) = parts(values, values, background)
    assert (box[1].start, box[1].stop) == (25, 75)
    blob = np.full((100, 100), -1, np.float32)
    blob[30:70, 30:70], blob[40:60, 40:60] = -0.03, 1
    ((box, mask),) = parts(blob, blob, background)
    assert (box, mask.sum()) == ((slice(40, 60), slice(40, 60)), 400)


@pytest.mark.parametrize("shape", [(30, 1500), (1500, 30), (3, 3), (97, 64)])
def test_boxes_are_in_the_pixels_of_a_photo_of_any_shape(clip: Bundle, shape: tuple) -> None:
    located = locate(clip, photo(*shape), ["a cat", "a dog"], present=0)
    assert located.missing == ()
    assert [r.area for r in located.regions] == sorted(
        (r.area for r in located.regions), reverse=True
    )
    for region in located.regions:
        x1, y1, x2, y2 = region.box
        assert 0 <= x1 < x2 <= shape[1]
        assert 0 <= y1 < y2 <= shape[0]
        assert region.mask.shape == (y2 - y1, x2 - x1)
        mask = located.mask(region)
        assert mask.shape == shape
        assert mask.sum() == region.area
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == region.box
    assert max(located.picture().size) > 600


def test_what_is_there_is_found_and_what_is_not_is_not(blip: patchword.Model) -> None:
    """On scenes that it was not trained on."""
    names = ("a scratch", "a stain", "an edge chip", "particles")
    overlaps, false_alarms, absent = [], 0, 0
    for index in range(12):
        wafer = scene(91, index, kind="wafer")
        regions = blip.locate(wafer.image, names).regions
        present = [defect.name for defect in wafer.objects]
        for name in names:
            of_name = [region for region in regions if region.text == name]
            if name in present:
                x1, y1, x2, y2 = of_name[0].box
                overlaps.append(wafer.objects[0].mask[y1:y2, x1:x2].any())
            else:
                absent += 1
                false_alarms += bool(of_name)
    assert false_alarms <= 0.1 * absent
    assert np.mean(overlaps) >= 0.5
    nothing = np.full((128, 128, 3), 120, np.uint8)
    missing = blip.locate(nothing, ["a hat", "a red ring"], method="surgery")
    assert missing.regions == ()
    assert missing.missing == ("a hat", "a red ring")
    assert max(missing.present) < 0.5
    assert missing.picture().width > 600


def test_regions_of_a_head_are_above_the_background(blip: patchword.Model) -> None:
    picture = scene(91, 0, kind="shapes")
    name = picture.objects[0].name
    located = blip.locate(picture.image, name, method="head")
    maps = blip.heatmap(picture.image, [name, "background"], "head").values
    above = maps[0] > maps[1]
    for region in located.regions:
        assert above[located.mask(region)].all()
    mask = located.mask(located.regions[0])
    assert (mask & picture.objects[0].mask).sum() > 0.5 * (mask | picture.objects[0].mask).sum()


@pytest.mark.parametrize("name", ["demo", "demo-blip"])
def test_a_text_has_regions_where_its_heatmap_finds_it(name: str) -> None:
    model = patchword.load(name)
    texts = ["a scratch", "a stain", "particles", "an edge chip"]
    for path in sorted(SAMPLES.glob("wafers/*.jpg")):
        heatmap, located = model.heatmap(path, texts), model.locate(path, texts)
        assert located.present == pytest.approx(heatmap.present, abs=1e-6)
        assert located.missing == tuple(
            text for text, found in zip(texts, heatmap.found, strict=True) if not found
        )
    doubtful = model.locate(path, texts, present=0)
    assert set(doubtful.missing) <= set(located.missing)


def test_boxes_that_are_given_are_scored(clip: Bundle) -> None:
    """Of a box that is the photo: the mean of all features; the crop is the photo itself."""
    model = patchword.api.model.with_methods(clip)
    image, texts = photo(48, 48), ["a cat", "a dog"]
    boxes = [(0, 0, 48, 48), (0, 0, 16, 32), (4, 0, 12, 20)]
    located = model.locate(image, texts, boxes, method="value")
    assert [(r.box, r.text) for r in located.regions] == [(b, t) for b in boxes for t in texts]
    with pytest.raises(UnsupportedError, match=r"^box 1 of 1 3 of 4 is 10\.5"):
        model.locate(image, texts, [(0, 0, 10.5, 10)])
    assert located.present is None
    from patchword.where.dense import dense, edit_of

    pixels = clip.tensor(clip.open(image)[0])[None]
    features = dense(clip, pixels, edit_of("value"))[0].reshape(3, 3, -1).numpy().astype(np.float64)
    vectors = model.embed_texts(texts).astype(np.float64)
    weights = [np.ones((3, 3)), np.zeros((3, 3)), np.zeros((3, 3))]
    weights[1][:2, 0] = 256
    weights[2][:2, 0] = 8 * 16, 8 * 4  # what each patch of 16 pixels shares with the box
    for number, weight in enumerate(weights):
        mean = (features * weight[..., None]).sum(axis=(0, 1))
        expected = vectors @ (mean / np.linalg.norm(mean))
        regions = located.regions[2 * number : 2 * number + 2]
        np.testing.assert_allclose([r.score for r in regions], expected, atol=1e-5)
        x1, y1, x2, y2 = boxes[number]
        crop = model.similarity(np.ascontiguousarray(image[y1:y2, x1:x2]), texts, squash=True)
        np.testing.assert_allclose([r.crop for r in regions], crop[0], atol=1e-5)


def test_what_cannot_be_asked_for(clip: Bundle) -> None:
    image = photo(20, 30)
    for texts, options, says in (
        ([], {}, "at least one text"),
        ([" "], {}, "a text without words"),
        (["a", "a"], {}, "given twice"),
        (["a"], {"present": 2}, "present is 2"),
        (["a"], {"negatives": []}, "negatives is empty"),
        (["a"], {"negatives": [], "present": 0.5}, "negatives is empty"),
        (["a"], {"method": "legrad"}, "'legrad' has no cosines"),
        (["a"], {"boxes": [(0, 0, 5)]}, "x1, y1, x2, y2 in pixels"),
        (["a"], {"boxes": [(0, 0, 31, 5)]}, "within the photo, 30 x 20"),
        (["a"], {"boxes": [(5, 0, 5, 5)]}, "x1 < x2"),
        (["a"], {"boxes": [(0, 0, 5, 5)], "refine": True}, "leave out refine, present"),
        (["a"], {"boxes": [(0, 0, 5, 5)], "method": "resclip"}, "no features of boxes"),
        (["a"], {"boxes": [(0, 0, 5, 5)], "method": "maskclip-keys"}, "no features of boxes"),
        (["a"], {"boxes": [(0, 0, 5, 5)], "method": "legrad"}, "there are cosine, maskclip"),
        (["a"], {"boxes": [(0, 0, 5, 5)], "present": 0.5}, "leave out refine, present"),
        (["a"], {"boxes": [(0, 0, 5, 5)], "negatives": ["b"]}, "leave out refine, present"),
    ):
        with pytest.raises(UnsupportedError, match=says):
            locate(clip, image, texts, **options)
    config = tiny_vit("learned")
    with pytest.raises(UnsupportedError, match=r"has an image tower only.*load a CLIP"):
        locate(make(models.build(config), config, None, "tiny"), image, ["a cat"])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    Image.fromarray(scene(91, 0, kind="shapes").image).save("0.png")
    return tmp_path


def test_the_command(run: Run, place: Path, blip: patchword.Model) -> None:
    name = scene(91, 0, kind="shapes").objects[0].name
    completed = run(
        "locate", "0.png", "gone.png", name, "--present", "0", "-m", "demo-blip", "--json"
    )
    assert completed.code == 1
    direct = blip.locate("0.png", name, present=0)
    assert completed.records[:-1] == [
        {
            "image": "0.png", "path": "0.png", "text": r.text, "score": r.score,
            "box": list(r.box), "area": r.area, "segmentation": direct.rle(r),
        }
        for r in direct.regions
    ]  # fmt: skip
    assert completed.records[-1] == {"image": "gone.png", "error": "no such file"}
    completed = run("locate", "0.png", "a hat", "-m", "demo-blip", "--json")
    assert (completed.code, completed.out) == (0, "")
    completed = run(
        "locate", "0.png", "a hat", "--present", "1", "-m", "demo-blip", "--save", "x.png"
    )
    assert "a hat" in completed.out
    assert "not found" in completed.out
    assert Image.open("x.png").width > 600
    completed = run("locate", "0.png", name, "--box", "0,0,64,64", "-m", "demo-blip", "--csv")
    assert completed.out.splitlines()[0] == "image,text,score,crop,box,area,outside,error"
    assert '"[0, 0, 64, 64]",4096' in completed.out
    assert "x1,y1,x2,y2" in run("locate", "0.png", "a hat", "--box", "1,2,3").err
    assert "give texts after the images" in run("locate", "0.png").err
