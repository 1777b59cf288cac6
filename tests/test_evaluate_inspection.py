"""eval inspect: folders as of MVTec AD, each measure, and what is wrong with a folder."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Run
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

import patchword
from patchword.errors import PatchwordError
from patchword.evaluate.anomaly_metrics import aupro
from patchword.evaluate.defect_masks import Saturation, read, saturations
from patchword.evaluate.inspection import Inspecting, categories, category
from patchword.inspect.memory import Memory
from patchword.inspect.protocol import View
from patchword.inspect.subspace import Subspace
from patchword.inspect.winclip import WinCLIP

MEMORY = Memory(view=View(layers=(0,)))


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good photos to learn from, two of the test, and two kinds of two bad ones."""
    root = tmp_path_factory.mktemp("mvtec") / "board"
    rng = np.random.default_rng(0)
    plain = rng.integers(90, 130, (60, 80, 3))

    def photo() -> np.ndarray:
        return (plain + rng.integers(0, 20, plain.shape)).astype(np.uint8)

    for number in range(3):
        save(root / f"train/good/{number:03}.png", photo())
    for number in range(2):
        save(root / f"test/good/{number:03}.png", photo())
        for kind, (tall, wide) in {"hole": (8, 9), "line": (3, 20)}.items():
            seen, mask = photo(), np.zeros((60, 80), np.uint8)
            y, x = rng.integers(5, 45), rng.integers(5, 55)
            seen[y : y + tall, x : x + wide] = (250, 20, 20)
            mask[y : y + tall, x : x + wide] = 255
            save(root / f"test/{kind}/{number:03}.png", seen)
            save(root / f"ground_truth/{kind}/{number:03}_mask.png", mask)
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "board"))


@pytest.fixture(scope="module")
def model() -> patchword.Model:
    return patchword.load("demo")


def test_measures_are_of_the_scores_and_maps_that_the_method_gives(made: Path, model) -> None:
    measured = Inspecting(model).measure(category(made), MEMORY)
    assert (measured.learned, measured.images, measured.bad) == (3, 6, 4)
    good = [model.opener(path, exact=True) for path in sorted((made / "train/good").iterdir())]
    paths = sorted((made / "test").rglob("*.png"))
    photos = [model.opener(path, exact=True) for path in paths]
    each = list(MEMORY.score(model, MEMORY.fit(model, good), photos))
    bad = [path.parent.name != "good" for path in paths]
    scores = [finding.score for finding in each]
    maps = [finding.geometry.to_source(finding.grid) for finding in each]
    truth = made / "ground_truth"
    masks = [
        np.asarray(Image.open(truth / path.parent.name / f"{path.stem}_mask.png")) > 0
        if is_bad
        else np.zeros((60, 80), bool)
        for path, is_bad in zip(paths, bad, strict=True)
    ]
    pixels, inside = np.stack(maps).ravel(), np.stack(masks).ravel()
    assert measured.values["image_auroc"] == pytest.approx(roc_auc_score(bad, scores))
    assert measured.values["image_ap"] == pytest.approx(average_precision_score(bad, scores))
    assert measured.values["pixel_auroc"] == pytest.approx(roc_auc_score(inside, pixels))
    assert measured.values["pixel_ap"] == pytest.approx(average_precision_score(inside, pixels))
    assert measured.values["aupro"] == pytest.approx(aupro(maps, masks))
    assert 0.9 < measured.values["aupro"] <= 1
    assert measured.values["aupimo"] is None
    assert "9,600 pixels of good images" in measured.missing["aupimo"]


def test_maps_may_be_compared_at_fewer_pixels_and_after_fewer_photos(made: Path, model) -> None:
    measured = Inspecting(model, side=40, shots=1).measure(category(made), MEMORY)
    assert measured.learned == 1
    assert "2,400 pixels" in measured.missing["aupimo"]
    assert measured.record()["settings"]["side"] == 40
    with pytest.raises(PatchwordError, match="0 good photos, and memory needs 1"):
        Inspecting(model, shots=0).measure(category(made), MEMORY)
    with pytest.raises(PatchwordError, match="fewer than the 99 shots"):
        Inspecting(model, shots=99).measure(category(made), MEMORY)


@pytest.mark.filterwarnings("ignore::patchword.errors.ScopeWarning")
def test_without_good_photos_and_masks(folder: Path, model) -> None:
    shutil.rmtree(folder / "train")
    shutil.rmtree(folder / "ground_truth")
    measured = Inspecting(model).measure(category(folder), WinCLIP(exact=False))
    assert measured.learned == 0
    assert measured.values["image_auroc"] is not None
    assert measured.missing["aupro"] == "there is no folder ground_truth"
    shutil.rmtree(folder / "test" / "good")
    measured = Inspecting(model).measure(category(folder), WinCLIP(exact=False))
    assert measured.missing["image_auroc"] == "AUROC needs good and bad: 4 of 4 are bad"


def test_what_is_wrong_with_a_mask_names_it(folder: Path, model) -> None:
    mask = folder / "ground_truth/line/001_mask.png"
    save(mask, np.full((30, 40), 255, np.uint8))
    with pytest.raises(PatchwordError, match=r"001_mask\.png: 40 x 30 px, and its photo .*80 x 60"):
        Inspecting(model).measure(category(folder), MEMORY)
    save(mask, np.zeros((60, 80), np.uint8))
    with pytest.raises(PatchwordError, match=r"line/001_mask\.png: all black"):
        Inspecting(model).measure(category(folder), MEMORY)
    mask.write_bytes(b"no image")
    with pytest.raises(PatchwordError, match=r"001_mask\.png: not a mask that can be read"):
        Inspecting(model).measure(category(folder), MEMORY)
    mask.unlink()
    with pytest.raises(PatchwordError, match=r"line/001\.png: no mask; it must be .*001_mask\.png"):
        category(folder)


def test_a_test_without_defects_says_so(folder: Path, model) -> None:
    for kind in ("hole", "line"):
        shutil.rmtree(folder / "test" / kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        measured = Inspecting(model).measure(category(folder), MEMORY)
    assert (measured.images, measured.bad) == (2, 0)
    assert set(measured.values.values()) == {None}
    assert set(measured.missing) == set(measured.values)
    assert measured.missing["aupimo"] == "AUPIMO needs bad images: none has a masked pixel"


def test_good_photos_that_are_all_broken_are_named(folder: Path, model) -> None:
    for path in (folder / "train" / "good").iterdir():
        path.write_bytes(b"no image")
    for method in (MEMORY, Subspace()):
        with pytest.raises(
            PatchwordError, match=r"none of 3 good photos can be opened: .*002\.png"
        ):
            Inspecting(model).measure(category(folder), method)


def test_photos_of_the_test_that_were_learned_from_are_told(run: Run, folder: Path) -> None:
    shutil.copy(folder / "train/good/000.png", folder / "test/good/000.png")
    ran = run("eval", "inspect", folder, "--method", "memory,mutual", "--json")
    assert [json.loads(line)["known"] for line in ran.out.splitlines()] == [1, 0]
    assert "memory: 1 of 6 is among the photos that it learned from, pixel for pixel" in ran.err


def test_masks_are_bad_where_they_are_not_black(tmp_path: Path) -> None:
    """In a palette whose first colour is white, in a blue that is nearly black, in 16 bits."""
    where = np.zeros((6, 8), bool)
    where[2:4, 3:7] = True
    white_first = Image.fromarray((~where).astype(np.uint8), "P")
    white_first.putpalette([255, 255, 255, 0, 0, 0])
    blue = np.zeros((6, 8, 3), np.uint8)
    blue[where, 2] = 1
    pictures = {
        "palette": white_first,
        "blue": Image.fromarray(blue),
        "bits": Image.fromarray(where),
        "deep": Image.fromarray(where.astype(np.uint16)),
        "alpha": Image.fromarray(np.dstack([where * 255, np.full((6, 8), 255)]).astype("u1"), "LA"),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        bad, _ = read([tmp_path / f"{name}.png"], "photo.png", (6, 8), (6, 8))
        np.testing.assert_array_equal(bad, where, name)
    content = bytearray((tmp_path / "blue.png").read_bytes())
    content[40:50] = bytes(10)
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(PatchwordError, match=r"broken\.png: not a mask that can be read"):
        read([tmp_path / "broken.png"], "photo.png", (6, 8), (6, 8))


def test_several_masks_and_how_much_of_each_is_enough(folder: Path, model) -> None:
    """As MVTec LOCO AD: a folder of masks for each photo."""
    truth, second = folder / "ground_truth", np.zeros((60, 80), np.uint8)
    second[50:58, 2:12] = 254
    for mask in sorted(truth.rglob("*_mask.png")):
        place = mask.with_name(mask.stem.removesuffix("_mask"))
        save(place / "000.png", np.asarray(Image.open(mask)))
        save(place / "001.png", second)
        mask.unlink()
    whole = Inspecting(model).measure(category(folder), MEMORY)
    assert "spro" not in whole.values
    config = folder / "defects_config.json"
    kinds = [
        {"pixel_value": 255, "saturation_threshold": 30, "relative_saturation": False},
        {"pixel_value": 254, "saturation_threshold": 0.49, "relative_saturation": True},
    ]
    config.write_text(json.dumps(kinds))
    measured = Inspecting(model).measure(category(folder), MEMORY)
    assert measured.values["aupro"] == whole.values["aupro"]
    (bad,) = (photo for photo in category(folder).test if photo.path.endswith("hole/000.png"))
    union, (hole, other) = read(bad.masks, bad.path, (60, 80), (60, 80), saturations(folder))
    assert np.array_equal(union, hole.mask | other.mask)
    assert (hole.mask.sum(), hole.enough) == (72, 30)
    assert (other.mask.sum(), other.enough) == (80, 39)  # 39.2 pixels, rounded down
    assert Saturation(0.1, True).pixels(3) == 1
    assert 0.2 < measured.values["spro"] <= 1
    small = Inspecting(model, side=40).measure(category(folder), MEMORY)
    assert small.values["spro"] == pytest.approx(measured.values["spro"], abs=0.1)
    save(truth / "hole/000/001.png", np.full((60, 80), 9, np.uint8))
    with pytest.raises(PatchwordError, match=r"grey levels 9; .* has 254, 255"):
        Inspecting(model).measure(category(folder), MEMORY)
    config.write_text("[{}]")
    with pytest.raises(PatchwordError, match="not as MVTec LOCO AD has it"):
        category(folder)


def test_what_is_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(PatchwordError, match="no folder 'test'"):
        categories(tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(PatchwordError, match="no photos in its folders"):
        category(tmp_path)


def test_the_command(run: Run, folder: Path) -> None:
    (folder / "test/hole/000.png").write_bytes(b"no image")
    completed = run("eval", "inspect", str(folder.parent), "--method", "memory,mutual", "--json")
    assert completed.code == 1
    measured = [record for record in completed.records if "method" in record]
    assert [record["method"] for record in measured] == ["memory", "mutual"]
    assert [(r["images"], r["bad"]) for r in measured] == [(5, 3), (5, 3)]
    assert completed.records[-1]["image"].endswith("000.png")
    assert "1 of 6 images failed" in completed.err
    assert "settings: maps bilinear, not smoothed" in completed.err
    assert completed.err.count(" unlike ") == 1
    assert "5 of 5 images look unlike what demo was trained on" in completed.err
    assert "; so do 3 of 3 good photos. It" in completed.err
    shutil.rmtree(folder / "test/hole")
    completed = run("eval", "inspect", str(folder), "--layer", "0")
    assert completed.code == 0
    assert "px AUROC AUPRO AUPIMO" in " ".join(completed.out.split())
    assert "board, memory: learned from 3 photos; 2 of 4 are bad" in completed.err
    assert "memory: layers 0, neighbours 1, rotations False" in completed.err.replace("\n", " ")
    completed = run("eval", "inspect", str(folder), "--csv")
    assert completed.out.startswith(
        "category,method,measure,value,image,error\nboard,memory,images,4"
    )
    assert "board,memory,settings aupro limit,0.3,," in completed.out  # of nested values too
    assert "{" not in completed.out
    for words, said in (
        (["--subject", "wafer"], "subject is of winclip"),
        (["--one-pass"], "--one-pass is for winclip, not of memory"),
        (["--method", "memories"], "do you mean memory?"),
        (["--method", "winclip", "--layer", "1"], "it has no layers"),
        ([], "no such folder"),
    ):
        place = str(folder) if words else "elsewhere"
        completed = run("eval", "inspect", place, *words)
        assert completed.code == 2
        assert said in completed.err
