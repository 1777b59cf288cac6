"""Preprocessing, tiles and decoding against their references, on photos of phones, of COCO and of
ordinary things."""

import numpy as np
import pytest
import test_preprocess  # first: it prepares the libraries' imports
import test_tiles
from corpora import DATA
from PIL import Image

from patchword import images

ORDINARY = sorted(p for p in (DATA / "photos").iterdir() if p.suffix in (".jpg", ".bmp"))
COCO = sorted((DATA / "coco" / "images").glob("*.jpg"))
PHONE = sorted((DATA / "clothing" / "validation").rglob("*.jpg"))

test_equals_transformers = test_preprocess.test_equals_transformers
test_equals_open_clip = test_preprocess.test_equals_open_clip
test_equals_torchvision = test_preprocess.test_equals_torchvision
test_equals_siglips_processor = test_preprocess.test_equals_siglips_processor
test_equals_naflex = test_preprocess.test_equals_naflex


@pytest.fixture(scope="module")
def photos():
    return test_preprocess.pictures([*ORDINARY, *COCO[:6], *PHONE[:4]])


@pytest.mark.parametrize("path", [*ORDINARY, *COCO[:8]], ids=lambda path: path.name)
def test_tiles_of_photos(path):
    test_tiles.test_pixels_of_photos(path)


def test_photos_are_what_pillow_decodes():
    paths = [*ORDINARY, *COCO, *PHONE]
    assert len(paths) > 400
    for path in paths:
        with Image.open(path) as picture:
            if path in COCO and "icc_profile" in picture.info:
                continue
            expected = np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(images.open(path), expected, err_msg=path.name)
