"""eval segment: the measures of mmsegmentation, folders of photos and masks, and what is wrong with
them."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Run
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score

from patchword import Model, checkpoints
from patchword.bundle import Bundle
from patchword.errors import ImageError, PatchwordError, UnsupportedError
from patchword.evaluate.segmentation import (
    Segmenting,
    Settings,
    masked,
    read_classes,
    read_mask,
    settled,
)
from patchword.show.label_map import palette
from patchword.where.segment import segment
from patchword.where.windows import Scale

RNG = np.random.default_rng(0)
CLASSES = "background, wall\na cat|cat\na dog\na bus\n"


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos with masks as VOC has them, and one without."""
    folder = tmp_path_factory.mktemp("voc")
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for number, (height, width) in enumerate([(48, 60), (70, 50), (48, 48)]):
        photo = RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(photo).save(folder / "JPEGImages" / f"{number}.jpg")
        mask = RNG.integers(0, 3, (height, width), dtype=np.uint8)  # no bus is anywhere
        mask[:4] = 255
        drawn = Image.fromarray(mask)
        drawn.putpalette(palette().ravel().tolist())
        drawn.save(folder / "SegmentationClass" / f"{number}.png")
    shutil.copy(folder / "JPEGImages" / "0.jpg", folder / "JPEGImages" / "alone.jpg")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("0\n2\n")
    (folder / "classes.txt").write_text(CLASSES)
    return folder


def plan(clip: Bundle, voc: Path, **options: object) -> Settings:
    return settled(clip, read_classes(voc / "classes.txt"), method="value", **options)


@pytest.mark.parametrize("reduce_zero_label", [False, True])
def test_measures_are_those_of_scikit_learn(
    clip: Bundle, voc: Path, reduce_zero_label: bool
) -> None:
    settings = plan(clip, voc, reduce_zero_label=reduce_zero_label, logit_scale=30.0)
    data = masked(voc)
    assert data.unmasked == 1
    measured = Segmenting(clip).measure(data, settings)
    right, said = [], []
    for image, file in zip(data.images, data.masks, strict=True):
        mask = np.asarray(Image.open(file)).astype(int)
        if reduce_zero_label:
            mask = np.where(mask == 255, 255, mask - 1)
            mask[mask == -1] = 255
        answer = segment(
            clip, str(image), ["a cat|cat", "a dog", "a bus"], ["background", "wall"],
            method="value", logit_scale=30.0, scale=Scale(even=True),
        ).map  # fmt: skip
        right.append(mask[mask != 255])
        said.append(answer[mask != 255])
    right, said = np.concatenate(right), np.concatenate(said)
    np.testing.assert_array_equal(measured.counts, confusion_matrix(right, said, labels=range(4)))
    present = np.union1d(right, said)
    expected = jaccard_score(right, said, labels=present, average=None)
    np.testing.assert_allclose(measured.iou[present], expected, rtol=1e-12)
    assert np.isnan(np.delete(measured.iou, present)).all()
    assert measured.mean_iou == pytest.approx(expected.mean(), rel=1e-12)
    assert measured.pixel_accuracy == pytest.approx((right == said).mean(), rel=1e-12)
    for number in np.unique(right):
        own = (said == number)[right == number].mean()
        assert measured.accuracy[number] == pytest.approx(own, rel=1e-12)
    assert measured.images == 3


def test_templates_are_those_of_segment(clip: Bundle, demo: Model) -> None:
    """By default words stay as they are for a head, which has learned from such."""
    assert settled(clip, [["a cat"]]).record()["templates"] == ["a photo of a {}"]
    assert settled(demo, [["a stain"]]).record()["templates"] == ["{}"]
    assert settled(demo, [["a stain"]], ["a {}"]).record()["templates"] == ["a {}"]


def test_a_split_is_read(voc: Path) -> None:
    data = masked(voc, "val")
    assert [file.stem for file in data.images] == ["0", "2"]
    with pytest.raises(PatchwordError, match=r"test\.txt: no such file"):
        masked(voc, "test")


def test_other_files_are_no_photos(voc: Path, tmp_path: Path) -> None:
    """Notes beside the photos, and what a Mac leaves on a network drive; suffixes in capitals."""
    photos = shutil.copytree(voc, tmp_path / "data") / "JPEGImages"
    (photos / "0.txt").write_text("a note")
    (photos / ".DS_Store").write_bytes(b"0")
    masks = tmp_path / "data" / "SegmentationClass"
    (masks / "._0.png").write_bytes(b"0")
    (masks / "2.png").rename(masks / "2.PNG")
    data = masked(tmp_path / "data")
    assert [file.name for file in data.images] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [file.name for file in data.masks] == ["0.png", "1.png", "2.PNG"]
    assert data.unmasked == 1


def test_what_is_wrong_is_named(clip: Bundle, voc: Path, tmp_path: Path) -> None:
    shutil.copytree(voc, tmp_path / "data")
    masks = tmp_path / "data" / "SegmentationClass"
    Image.new("L", (9, 9)).save(masks / "0.png")
    Image.fromarray(np.full((70, 50), 7, np.uint8)).save(masks / "1.png")
    for scale in (float("nan"), float("inf"), 0.0):
        with pytest.raises(UnsupportedError, match="a finite number above 0"):
            plan(clip, voc, logit_scale=scale)
    run = Segmenting(clip)
    measured = run.measure(masked(tmp_path / "data"), plan(clip, voc))
    assert measured.images == 1
    said = [str(error) for error in run.broken]
    assert "0.png" in said[0]
    assert "a mask of 9 x 9 pixels, but 0.jpg has 60 x 48" in said[0]
    assert "it has class 7; the 4 classes are 0 to 3" in said[1]
    Image.new("RGB", (9, 9)).save(masks / "2.png")
    with pytest.raises(ImageError, match="one number a pixel"):
        read_mask(masks / "2.png", 4)
    with pytest.raises(PatchwordError, match="none of 3 photos counts"):
        Segmenting(clip).measure(masked(tmp_path / "data"), plan(clip, voc))
    Image.new("L", (9, 9)).save(masks / "lost.png")
    with pytest.raises(PatchwordError, match=r"lost\.png: no photo of that name"):
        masked(tmp_path / "data")
    with pytest.raises(PatchwordError, match="no folders of images and masks"):
        masked(tmp_path)
    for text, says in (
        ("cat\n", "two are the least"),
        ("cat\ncat\n", "'cat' is there twice"),
        ("cat,,x\ndog\n", "line 1: an empty word"),
    ):
        (tmp_path / "wrong.txt").write_text(text)
        with pytest.raises(PatchwordError, match=says):
            read_classes(tmp_path / "wrong.txt")
    with pytest.raises(PatchwordError, match="one a line, synonyms separated by commas"):
        read_classes(tmp_path / "gone.txt")


def test_the_command(
    run: Run, clip: Bundle, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    model = str(checkpoints.save(clip, tmp_path / "tiny"))
    options = ("--method", "value", "--threshold", "0.2", "-m", model)
    completed = run("eval", "segment", voc, *options, "--json")
    assert completed.code == 0
    expected = Segmenting(clip).measure(masked(voc), plan(clip, voc, threshold=0.2)).record()
    record = completed.records[0]
    assert {name: record[name] for name in expected} == expected
    assert record["settings"]["classes"] == ["background|wall", "a cat|cat", "a dog", "a bus"]
    assert record["settings"]["threshold"] == 0.2
    rows = list(csv.DictReader(io.StringIO(run("eval", "segment", voc, *options, "--csv").out)))
    told = completed.records[0]
    for row, own in zip(rows, told["classes"], strict=True):
        assert row["label"] == own["label"]
        for name in ("iou", "accuracy"):
            assert (float(row[name]) if row[name] else None) == own[name]
        assert float(row["mean_iou"]) == told["mean_iou"]
    table = run("eval", "segment", voc, *options)
    assert f"mean IoU {expected['mean_iou']:.1%}" in table.out
    assert "settings: templates" in table.err
    assert "threshold 0.2" in table.err
    assert "1 photo has no mask, left out" in table.err
    assert "no such folder" in run("eval", "segment", "gone").err
