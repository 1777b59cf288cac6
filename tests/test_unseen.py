"""What of a photo was not looked at is said, once, and taken in where that is asked."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Run
from PIL import Image
from small_models import tiny_bundle, tiny_clip

import patchword
from patchword import UnseenWarning
from patchword.config import PreprocessConfig
from patchword.images.preprocess import Preprocess, whole
from patchword.scenes import scene
from patchword.scope import together as scopes
from patchword.visible_area import Sight, together

SHAPES = ((96, 96), (100, 131), (30, 300), (300, 30), (777, 500), (64, 64))
RESIZES = ("shortest", "square", "squash", "cover", "contain")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A perfect wafer between one with a scratch and one with a stain: a crop shows it alone."""
    kinds = ("a wafer with a scratch", "a perfect wafer", "a wafer with a stain")
    parts = [scene(3, number, 128, label=kind).image for number, kind in enumerate(kinds)]
    path = tmp_path_factory.mktemp("wide") / "wide.png"
    Image.fromarray(np.concatenate(parts, axis=1)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    small = Image.fromarray(scene(3, 1, 256, label="a perfect wafer").image)
    small.resize((2000, 2000)).save(path)
    return str(path)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_share_that_is_cropped_away_is_that_of_pixels_not_shown(
    resize: str, shape: tuple[int, int], demo: patchword.Model
) -> None:
    """Counted pixel by pixel: a map over the input has no value where the input shows nothing."""
    config: PreprocessConfig = replace(
        demo.config.preprocess, resize=resize, resize_to=110 if resize == "square" else 96
    )
    geometry = Preprocess(config).geometry(*shape)
    hidden = np.isnan(geometry.to_source(np.ones((1, 96, 96)))).mean()
    sight = Sight.of("a", geometry)
    rounding = sum(1 / side for side in shape)  # a row or column more or less
    assert sight.cropped == pytest.approx(hidden, abs=rounding)
    squashed = Sight.of("a", whole(config).geometry(*shape))
    assert squashed.cropped == pytest.approx(0)
    if resize in ("shortest", "cover"):
        assert sight.scale == pytest.approx(min(shape) / 96, rel=0.03)


def test_a_defect_beyond_the_crop(blip: patchword.Model, wide: str) -> None:
    with pytest.warns(UnseenWarning, match="67% of .*wide.png is cropped away.*squash=True"):
        assert blip.ask(wide, "is the wafer perfect?").text == "yes"
    assert blip.ask(wide, "is the wafer perfect?", squash=True).text == "no"


def test_a_jpeg_is_judged_by_its_own_size(
    demo: patchword.Model, large: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """It is decoded at a quarter of it."""
    demo.embed_images([large])
    Image.open(large).save(tmp_path / "large.png")
    demo.embed_images([tmp_path / "large.png"])
    Image.open(large).resize((700, 700)).save(tmp_path / "small.png")
    demo.embed_images([tmp_path / "small.png"])
    told = [str(one.message) for one in recwarn if one.category is UnseenWarning]
    assert len(told) == 2
    for message in told:
        assert "at 1:21: tiles=True" in message


def test_said_once_with_counts(
    demo: patchword.Model, wide: str, large: str, recwarn: pytest.WarningsRecorder
) -> None:
    many = [wide, np.zeros((50, 99, 3), np.uint8), large, np.zeros((96, 96, 3), np.uint8)]
    demo.embed_images(many)
    with together():
        for image in many:
            demo.classify(image, ["a wafer", "a ring"])
    told = [str(one.message) for one in recwarn if one.category is UnseenWarning]
    assert len(told) == 4
    for message in told[::2]:
        assert message.startswith("2 of 4 photos are seen in part, 67% of ")
        assert "67% of wide.png, 49% of image 2 is cropped away: squash=" in message
    for message in told[1::2]:
        assert message.startswith("1 of 4 photos is seen very small, large.jpg at 1:21: ")


def test_one_colour_is_told_once_by_name(
    demo: patchword.Model,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    run: Run,
) -> None:
    """Of files, also JPEG that are decoded small, and of arrays of uint8; of floats when they are
    opened; not of a photo whose corner and middle alone are alike."""
    Image.new("RGB", (2000, 1500), (10, 90, 200)).save(tmp_path / "blue.jpg")
    Image.new("L", (96, 96), 255).save(tmp_path / "white.png")
    nearly = np.full((96, 96, 3), 255, np.uint8)
    nearly[5, 90, 1] = 254
    Image.fromarray(nearly).save(tmp_path / "nearly.png")
    grey = np.full((96, 96, 3), 7, np.uint8)
    files = [tmp_path / name for name in ("blue.jpg", "nearly.png", "white.png")]
    demo.embed_images([*files, grey, grey / 255.0])
    told = [str(one.message) for one in recwarn if one.category is patchword.ImageWarning]
    blue = "#{:02x}{:02x}{:02x}".format(*np.asarray(Image.open(files[0]))[0, 0])
    names = f"blue.jpg ({blue}), white.png (#ffffff), image 4 (#070707)"
    rest = f"have one colour alone, about which no answer means anything: {names}"
    assert told[1:] == [f"3 of 5 photos {rest}"]
    assert told[0].endswith("floats are from 0 (black) to 1 (white)")
    for command in (
        ["classify", tmp_path, "-l", "hat,wafer"],
        ["attention", *files, "--head", "0", "--save", tmp_path / "maps" / "a.png"],
        ["inspect", files[1], *files, "--threshold", "1"],
    ):
        done = run(*command, "--json")
        found = {
            Path(r.get("image", r.get("path"))).name: r.get("one_colour") for r in done.records
        }
        assert found == {"blue.jpg": blue, "nearly.png": None, "white.png": "#ffffff"}
        assert done.err.count("one colour") == 1
        assert "2 of 3 photos have one colour alone, about" in done.err
        assert f"blue.jpg ({blue}), white.png (#ffffff)" in done.err


def test_what_is_seen_whole_is_passed_over(
    demo: patchword.Model, wide: str, recwarn: pytest.WarningsRecorder
) -> None:
    demo.heatmap(wide, "a wafer", present=0.5)  # in windows
    demo.embed_images([wide], squash=True)
    demo.embed_images([scene(1, 1, 96).image, scene(1, 2, 500).image])
    assert not [one for one in recwarn if one.category is UnseenWarning]


def test_squashed_vectors_are_others(demo: patchword.Model, wide: str) -> None:
    squashed = demo.opening(squash=True)
    assert squashed.fingerprint == f"{demo.fingerprint}-squashed"
    assert squashed.options == {"squash": True}
    both = squashed.opening(stretch=True)
    assert both.fingerprint == f"{demo.fingerprint}-stretched-squashed"
    assert both.opening(stretch=False, squash=False).fingerprint == demo.fingerprint
    assert patchword.load("demo", squash=True).fingerprint == squashed.fingerprint
    assert squashed.to("bfloat16").options["squash"] is True
    small = np.asarray(Image.open(wide).resize((96, 96), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(squashed.embed_images([wide]), demo.embed_images([small]), atol=1e-6)
    whole_already = tiny_bundle(tiny_clip())
    already = replace(
        whole_already,
        preprocess=Preprocess(replace(whole_already.config.preprocess, resize="contain")),
        config=replace(
            whole_already.config,
            preprocess=replace(whole_already.config.preprocess, resize="contain"),
        ),
    )
    assert already.opening(squash=True) is already


def test_an_index_remembers(
    run: Run,
    wide: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("index", wide, "--squash").code == 0
    index = patchword.open_index("patchword.index")
    assert index.options == {"squash": True}
    (hit,) = index.search(image=wide)
    assert hit.score == pytest.approx(1, abs=1e-5)


def test_commands(
    run: Run,
    wide: str,
    large: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (
        ("classify", "-l", "wafer,ring"), ("similarity", "-t", "a wafer"), ("embed",),
        ("attention",), ("ask", "-t", "is the wafer perfect?"), ("caption",), ("match", "-t", "a"),
    ):  # fmt: skip
        name, *options = command
        done = run(name, wide, large, *options, *(() if name == "embed" else ("--json",)))
        warned = [line for line in done.err.splitlines() if "seen" in line]
        assert len(warned) == 2, (name, done.err)
        assert warned[0].startswith("warning: 1 of 2 photos is seen in part, 67% of wide.png is")
        assert warned[1].startswith("warning: 1 of 2 photos is seen very small, large.jpg at 1:21")
        assert max(map(len, warned)) < 130
        tiles = name in ("classify", "ask", "caption", "match")
        assert ("--tiles" in warned[0]) is ("--tiles looks closer" in warned[1]) is tiles
        assert "--squash shows the whole" in warned[0]
        assert "=True" not in done.err
        first, second = done.records[0], done.records[-1]
        assert first["cropped"] == pytest.approx(2 / 3)
        assert second["scale"] == pytest.approx(2000 / 96)
        assert "scale" not in first
        assert "cropped" not in second
    done = run("classify", wide, "-l", "wafer,ring", "--squash", "--json")
    assert "seen" not in done.err
    assert done.records[0].keys() - {"outside"} == {
        "image",
        "scores",
    }  # three wafers are unlike one


def test_a_link_to_a_photo_is_that_photo(tmp_path: Path) -> None:
    """An index knows files by where they are, commands as they were named."""
    photo = tmp_path / "photo.png"
    Image.new("RGB", (300, 100)).save(photo)
    (tmp_path / "link.png").symlink_to(photo)
    model = patchword.load("demo")

    def twice() -> None:
        with scopes(), together():
            model.embed_images([photo])
            model.embed_images([tmp_path / "link.png"])

    with pytest.warns() as told:
        twice()
    said = [str(one.message) for one in told]
    assert [one.split(" ")[:3] for one in said] == [
        ["the", "photo", "is"],
        ["the", "photo", "has"],
        ["the", "image", "looks"],
    ]
