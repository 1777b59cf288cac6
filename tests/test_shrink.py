"""Photos made smaller by torch: Pillow's values within 2 of 255, and which photos are."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import patchword
from patchword.config import PreprocessConfig
from patchword.images import Opener, Preprocess
from patchword.images.photo import Photo
from patchword.images.preprocess import FILTERS
from patchword.shrink import shrunk
from patchword.visible_area import Look

CONFIG = replace(patchword.load("demo").config.preprocess, size=(96, 96), resize_to=96)
Box = tuple[float, float, float, float]


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """Black and white pixels at random, for which filters differ most."""
    return np.random.default_rng(height).choice([0, 255], (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("shape", "box", "size"),
    [
        ((300, 400), (0, 0, 400, 300), (224, 298)),
        ((300, 400), (0, 0, 400, 300), (299, 399)),
        ((750, 1000), (0, 0, 1000, 750), (96, 128)),
        ((161, 214), (0, 0, 213.5, 160.25), (112, 149)),  # of a JPEG at half its size
        ((40, 900), (0, 0, 900, 40), (7, 31)),
    ],
)
def test_values_of_pillow(
    shape: tuple[int, int], box: Box, size: tuple[int, int], interpolation: str
) -> None:
    pixels = noise(*shape)
    found = shrunk(Photo(pixels, shape, box), size, interpolation)
    picture = Image.fromarray(pixels).resize(size[::-1], FILTERS[interpolation], box)
    apart = np.abs(found.astype(int) - np.asarray(picture))
    assert found.shape == (*size, 3)
    assert apart.max() <= 2
    assert (apart > 0).mean() < 0.01


def jpeg(height: int, width: int) -> Photo:
    return replace(Photo.whole(noise(height, width)), jpeg=True)


def shrinks(config: PreprocessConfig, photo: Photo) -> bool:
    preprocess = Preprocess(config)
    return preprocess.shrinks(photo, preprocess.geometry(*photo.size))


def test_which_photos() -> None:
    photo = jpeg(120, 200)
    assert shrinks(CONFIG, photo)
    assert not shrinks(CONFIG, replace(photo, jpeg=False))
    assert not shrinks(replace(CONFIG, interpolation="lanczos"), photo)
    assert not shrinks(replace(CONFIG, interpolation="nearest"), photo)
    assert not shrinks(CONFIG, jpeg(96, 200))  # already of the size
    assert not shrinks(CONFIG, jpeg(90, 200))  # enlarged
    assert not shrinks(replace(CONFIG, resize="squash"), jpeg(90, 200))
    squashed = replace(CONFIG, resize="squash", size=(224, 224))
    assert shrinks(squashed, jpeg(427, 640))
    assert not shrinks(squashed, jpeg(640, 427))  # Pillow resizes rows first
    assert not shrinks(CONFIG, jpeg(1200, 300))
    assert shrinks(CONFIG, jpeg(640, 427))
    assert not shrinks(CONFIG, replace(photo, box=(0.5, 0.0, 200.0, 120.0)))  # turned by 180
    assert not shrinks(CONFIG, jpeg(2050, 2050))


SIDES = [97, 99, 120, 161, 224, 300, 427, 640, 1000]


@pytest.mark.parametrize("resize", ["shortest", "squash", "contain", "cover"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_all_shapes(resize: str, interpolation: str) -> None:
    config = replace(CONFIG, resize=resize, interpolation=interpolation)
    preprocess, found = Preprocess(config), 0
    for height in SIDES:
        for width in SIDES:
            photo = jpeg(height, width)
            if shrinks(config, photo):
                fast, exact = preprocess.seen(photo, shrunk)[0], preprocess.seen(photo)[0]
                assert np.abs(fast.astype(int) - exact).max() <= 2, (height, width)
                found += 1
    assert found > len(SIDES) ** 2 / 3


def test_read_only_arrays() -> None:
    pixels = noise(300, 400)
    pixels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of such an array
        shrunk(Photo.whole(pixels), (96, 128), "bicubic")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(noise(60, 80)).resize((400, 300)).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize("resize", ["shortest", "squash", "square", "cover", "contain"])
def test_the_input_of_a_network(resize: str, photo: Path) -> None:
    preprocess = Preprocess(replace(CONFIG, resize=resize, size=(96, 96), resize_to=110))
    exact, known = Look(Opener(), preprocess, True, True)(photo)
    fast, known_fast = Look(Opener(), preprocess, False, True)(photo)
    assert known == known_fast
    assert fast.flags.c_contiguous
    apart = np.abs(fast.astype(int) - exact)
    assert 0 < apart.max() <= 1


def test_exact_is_pillow(photo: Path) -> None:
    preprocess = Preprocess(CONFIG)
    expected = preprocess.seen(Opener(exact=True).sized(photo))[0]
    for look in (
        Look(Opener(), preprocess, True, True),
        Look(Opener(exact=True), preprocess, False, True),
        Look(Opener(), preprocess, False, False),
    ):
        assert (look(photo)[0] == expected).all()
    model = patchword.load("demo")
    assert (model.open(photo, exact=True)[0] == preprocess.normalised(expected)).all()


def test_images_that_lost_nothing_are_exact(tmp_path: Path) -> None:
    pixels = noise(300, 400)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    preprocess = Preprocess(CONFIG)
    expected = preprocess.seen(Photo.whole(pixels))[0]
    for image in (tmp_path / "photo.png", pixels, Image.fromarray(pixels)):
        assert (Look(Opener(), preprocess, False, True)(image)[0] == expected).all()
