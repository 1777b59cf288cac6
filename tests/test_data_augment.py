"""The pixels of samples: exactly preprocessed without augmentation, changed as described with
it."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from photos import PREPROCESS, photo
from PIL import Image

from patchword.config import PreprocessConfig
from patchword.data import AugmentConfig
from patchword.data.augment import Transform, colour_jitter, random_crop, random_erasing
from patchword.errors import ConfigError, RecipeError
from patchword.images.preprocess import Preprocess

STILL = AugmentConfig(crop=(1, 1), mirror=False, colour=0, erase=0)
CONFIGS = [
    PREPROCESS,
    PreprocessConfig(size=(24, 40), resize="squash", interpolation="bilinear"),
    PreprocessConfig(size=(48, 48), resize_to=40, rescale=1 / 127.5, mean=(1, 1, 1)),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("augment", [None, STILL])
def test_nothing_changed_is_the_preprocessing(
    config: PreprocessConfig, augment: AugmentConfig | None
) -> None:
    image = np.asarray(photo(0))
    seen = Transform(config, augment)(image, np.random.default_rng(0))
    assert seen.dtype == np.uint8
    preprocess = Preprocess(config)
    assert_array_equal(preprocess.normalised(seen), preprocess(image)[0])


@pytest.mark.parametrize("config", CONFIGS)
def test_half_are_mirrored(config: PreprocessConfig) -> None:
    image = np.asarray(photo(1))
    plain = Transform(config, None)(image, np.random.default_rng(0))
    transform = Transform(config, replace(STILL, mirror=True))
    turned = 0
    for seed in range(200):
        seen = transform(image, np.random.default_rng(seed))
        turned += np.array_equal(seen, plain[:, :, ::-1])
        assert np.array_equal(seen, plain) or np.array_equal(seen, plain[:, :, ::-1])
    assert 70 < turned < 130


def test_a_random_part_of_the_image() -> None:
    """Red is the column and green the row, so that the box of the crop can be read from its
    pixels."""
    image = np.zeros((200, 240, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(240), np.arange(200)[:, None]
    shares, ratios, lefts = [], [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        planes = random_crop(image, (50, 60), (0.3, 0.8), Image.Resampling.BILINEAR, rng)
        assert planes.shape == (3, 50, 60)
        # Away from the edges a step is exactly the box's side over the number of pixels.
        width = (planes[0, 0, 55] - planes[0, 0, 5]) / 50 * 60
        height = (planes[1, 45, 0] - planes[1, 5, 0]) / 40 * 50
        shares.append(width * height / (200 * 240))
        ratios.append(width / height)
        lefts.append(planes[0, 0, 0])
    assert min(shares) > 0.29
    assert max(shares) < 0.82
    assert_allclose(np.mean(shares), 0.55, atol=0.03)
    assert min(ratios) > 0.73
    assert max(ratios) < 1.36
    assert_allclose(np.mean(np.log(ratios)), 0, atol=0.05)
    assert np.ptp(lefts) > 60


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (2, 2)])
def test_thin_images_have_parts_too(size: tuple[int, int]) -> None:
    transform = Transform(PREPROCESS, AugmentConfig(crop=(0.01, 0.1)))
    for seed in range(20):
        image = np.full((*size, 3), 77, np.uint8)
        assert transform(image, np.random.default_rng(seed)).shape == (3, 32, 32)


def test_colours_as_in_three_steps() -> None:
    """Against brightness, contrast and saturation one after the other, in float64."""
    planes = np.random.default_rng(0).uniform(60, 160, (3, 20, 30)).astype(np.float32)
    for seed in range(5):
        out = colour_jitter(planes.copy(), 0.2, np.random.default_rng(seed))
        light, contrast, colour = 0.8 + 0.4 * np.random.default_rng(seed).random(3)
        expected = planes.astype(np.float64) * light
        expected = expected.mean() + (expected - expected.mean()) * contrast
        grey = expected.mean(axis=0)
        expected = grey + (expected - grey) * colour
        assert_allclose(out, np.clip(expected, 0, 255), atol=1e-3)
        assert np.abs(out - planes).max() > 3


def test_colours_stay_in_range() -> None:
    planes = np.random.default_rng(0).choice([0, 255], (3, 9, 9)).astype(np.float32)
    out = np.stack([colour_jitter(planes, 0.9, np.random.default_rng(s)) for s in range(20)])
    assert out.min() == 0
    assert out.max() == 255


def test_a_rectangle_is_random_erasing() -> None:
    planes = np.zeros((3, 100, 100), np.float32)
    for seed in range(50):
        gone = random_erasing(planes, np.random.default_rng(seed)) != 0
        rows, columns = gone[0].any(axis=1).sum(), gone[0].any(axis=0).sum()
        assert 10 <= rows <= 40
        assert 10 <= columns <= 40
        assert gone.sum() == 3 * rows * columns
    assert not planes.any()
    transform = Transform(PREPROCESS, replace(STILL, erase=0.25))
    image = np.zeros((40, 40, 3), np.uint8)
    changed = sum(np.ptp(transform(image, np.random.default_rng(s))[0]) > 0 for s in range(400))
    assert 70 < changed < 130


def test_decoded_as_large_as_a_crop_needs() -> None:
    """The decoder gives twice `at_least`. The narrowest crop of a square photo then still has as
    many pixels as the network's input."""
    assert Transform(PREPROCESS, None).at_least == Preprocess(PREPROCESS).at_least
    for low in (0.05, 0.3, 0.9):
        side = 2 * Transform(PREPROCESS, AugmentConfig(crop=(low, 1))).at_least
        assert np.sqrt(low * side * side / (4 / 3)) >= 32


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"crop": (0.0, 1.0)}, "augment.crop"),
        ({"crop": (0.9, 0.5)}, "augment.crop"),
        ({"crop": (0.5, 1.5)}, "augment.crop"),
        ({"colour": 1.0}, "augment.colour"),
        ({"erase": 1.5}, "augment.erase"),
    ],
)
def test_bad_augmentation_is_named(change: dict, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(AugmentConfig(), **change)


def test_sizes_must_be_one() -> None:
    config = PreprocessConfig(resize="patches", max_patches=16)
    with pytest.raises(RecipeError, match="one size"):
        Transform(config, None)
