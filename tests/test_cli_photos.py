"""Commands and photos: pages of files, dark scans, other files in folders, limits."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cli_runner import Run
from photos import CAT, FLOWER
from PIL import Image
from small_models import tiny_bundle, tiny_clip
from typer.main import get_command

import patchword
from patchword import checkpoints
from patchword.cli import app


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a CLIP of random weights."""
    return str(checkpoints.save(tiny_bundle(tiny_clip()), tmp_path_factory.mktemp("m") / "tiny"))


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))


def test_every_command_that_takes_images_takes_their_options() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    takes = {"classify", "embed", "similarity", "heatmap", "attention", "caption", "ask", "match"}
    for name in takes | {"segment", "locate", "index", "eval", "capfilt"}:
        options = {option for each in commands[name].params for option in each.opts}
        assert {"--stretch", "--squash", "--max-pixels", "--exact"} <= options, name


def test_other_files_of_a_folder_are_counted_at_the_end(
    run: Run,
    model: str,
    tmp_path: Path,
) -> None:
    """The folder is as phones, cameras and network drives leave it. Every page is an image."""
    folder = tmp_path / "photos"
    (folder / "@eaDir").mkdir(parents=True)
    for name, content in {
        "a.png": CAT.read_bytes(), "IMG_1.MOV": b"x", "scan.pdf": b"x", "old.pdf": b"x",
        "@eaDir/SYNOPHOTO_THUMB_XL.jpg": CAT.read_bytes(), "._a.png": b"x",
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    tifffile.imwrite(folder / "stack.tif", np.arange(704, dtype=np.uint8).reshape(11, 8, 8))
    for arguments in (("classify", "photos", "-l", "cat,dog"), ("index", "photos")):
        done = run(*arguments, "-m", model, "--json")
        assert done.code == 0
        last_line = done.err.strip().splitlines()[-1]
        assert last_line.endswith("cannot be opened: 2 PDF, 1 video"), done.err
        assert done.err.count("warning") == 2  # and that a.png is cropped
    names = [each["image"] for each in run("embed", "photos", "-m", model).records]
    assert names == ["photos/a.png", *(f"photos/stack.tif#{page}" for page in range(1, 12))]
    done = run("classify", "photos/stack.tif#10", "-l", "cat", "-m", model, "--json")
    assert [each["image"] for each in done.records] == ["photos/stack.tif#10"]
    done = run("heatmap", "photos/stack.tif", "cat", "-m", model)
    assert done.err.splitlines()[1] == "wrote stack-page-2-heatmap.png"
    assert len(list(Path().glob("stack-page-*-heatmap.png"))) == 11
    done = run("heatmap", "photos/stack.tif#2", "cat", "-m", model)
    assert (done.code, done.err) == (0, "wrote stack-page-2-heatmap.png\n")
    (folder / "stack.tif").unlink()
    tifffile.imwrite(folder / "stack.tif", np.full((2, 8, 8), 99, np.uint8))
    assert run("index", "photos", "-m", model, "--prune", "--json").records[0]["pruned"] == 9


def test_options_that_messages_advise_work(run: Run, model: str) -> None:
    """A scratch of 12 bits in 16, floats, and too many pixels."""
    scan = np.random.default_rng(0).integers(0, 4096, (30, 40)).astype(np.uint16)
    scan[0, 0] = 4095
    tifffile.imwrite("scan.tif", scan)
    tifffile.imwrite("float.tif", scan.astype(np.float32))
    options = ("-l", "cat,dog", "-m", model, "--json")
    dark = run("classify", "scan.tif", *options)
    assert dark.code == 0
    assert "scan.tif: its samples reach 4095 and 65535 is taken for white" in dark.err
    assert "--stretch" in dark.err
    wide = run("classify", "scan.tif", "--stretch", "--squash", *options)
    assert (wide.code, wide.err) == (0, "")
    assert wide.out != dark.out
    refused = run("classify", "float.tif", *options)
    assert (refused.code, "--stretch" in refused.err) == (2, True)
    assert run("classify", "float.tif", "--stretch", *options).code == 0
    large = run("classify", CAT, "scan.tif", "--stretch", "--max-pixels", 1200, *options)
    assert (large.code, ["error" in r for r in large.records]) == (1, [True, False])
    assert "are more than 1200 pixels" in large.err
    assert "--max-pixels" in large.err


def test_warnings_of_many_dark_images_are_joined(run: Run, model: str) -> None:
    Path("scans").mkdir()
    for number in range(5):
        scan = np.full((9, 9), 40 + number, np.uint16)
        scan[0] = 4095 - number
        tifffile.imwrite(f"scans/{number}.tif", scan)
    done = run("embed", "scans", "-m", model)
    assert done.err.count("seen nearly black") == 1
    assert done.err.count("4 more images are seen so dark or grey: ") == 1
    assert done.err.count(" and 1 more") == 1


def test_exact_goes_to_the_model_of_every_command(run: Run, model: str) -> None:
    (record,) = run("embed", FLOWER, "-m", model, "--exact").records
    expected = patchword.load(model, exact=True).embed_images(FLOWER)[0]
    np.testing.assert_allclose(record["vector"], expected, atol=1e-6)
    assert run("index", FLOWER, "-m", model, "--exact", "--into", "ix").code == 0
    found = run("search", "ix", "--image", FLOWER, "--json").records[0]
    assert found["cosine"] == pytest.approx(1, abs=1e-6)


def test_an_index_of_stretched_images_stays_one(run: Run, model: str) -> None:
    Image.fromarray(np.arange(900, dtype=np.uint8).reshape(30, 30) // 8).save("a.png")
    assert run("index", "a.png", "-m", model, "--stretch", "--into", "ix").code == 0
    found = run("search", "ix", "--image", "a.png", "--json").records[0]
    assert found["cosine"] == pytest.approx(1, abs=1e-6)
    done = run("index", "a.png", "-m", model, "--into", "ix")
    assert done.code == 2
    assert "-stretched" in done.err


@pytest.mark.parametrize(
    ("command", "target"),
    [
        ("classify a.png x,y", "a.png"), ("similarity a.png x", "a.png"),
        ("heatmap a.png x", "a.png"), ("segment a.png x", "a.png"), ("locate a.png x", "a.png"),
        ("attention a.png", "a.png"), ("caption a.png", "a.png"), ("ask a.png x?", "a.png"),
        ("match a.png x", "a.png"), ("embed a.npy", "a.npy"), ("caption a.png", "link.png"),
    ],
)  # fmt: skip
def test_no_result_is_written_over_an_image_that_is_read(
    run: Run, model: str, command: str, target: str
) -> None:
    image = Path(command.split()[1])
    pixels = np.zeros((8, 8, 3), np.uint8)
    np.save(image, pixels) if image.suffix == ".npy" else Image.fromarray(pixels).save(image)
    before = image.read_bytes()
    if target != image.name:
        Path(target).symlink_to(image)
    option = "-o" if command.startswith("embed") else "--save"
    done = run(*command.split(), option, target, "-m", model)
    assert done.code == 2
    assert "is one of the images" in done.err
    assert image.read_bytes() == before


def test_pictures_of_several_images_are_not_written_over_one_of_them(run: Run, model: str) -> None:
    for name in ("a.png", "b.png", "x-a.png"):
        Image.new("RGB", (8, 8)).save(name)
    done = run("heatmap", "a.png", "b.png", "x-a.png", "x", "--save", "x.png", "-m", model)
    assert (done.code, "x-a.png: is one of the images" in done.err) == (2, True)


@pytest.mark.parametrize("command", ["heatmap a.png x", "attention a.png"])
def test_a_default_picture_that_cannot_be_written_is_refused_before_any_work(
    run: Run, command: str
) -> None:
    Image.new("RGB", (8, 8)).save("a.png")
    Path(f"a-{command.split()[0]}.png").mkdir()
    done = run(*command.split(), "-m", "no-such-model")
    assert (done.code, "a folder; give a file in it" in done.err) == (2, True)


def test_a_warning_that_python_makes_an_error_is_one_line(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite("dark.tif", np.arange(900, dtype=np.uint16).reshape(30, 30))
    warnings.simplefilter("error")
    done = run("embed", "dark.tif", "-m", model)
    assert done.code == 2
    assert done.err.startswith("error: dark.tif: its samples reach 899")
