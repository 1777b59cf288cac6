"""What cannot be opened: an ImageError that names image and reason, and nothing else."""

import io
import os
import pickle
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_writers import encoded, png16, random_pixels, tiff
from photos import ROCKET
from PIL import Image

import patchword
from patchword import images
from patchword.errors import ImageError, UnsupportedError
from patchword.images import pillow


def bomb():
    """A hundred bytes of PNG that claim 60000 x 60000 pixels."""
    small = encoded(Image.new("L", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">2I5B", 60000, 60000, 8, 0, 0, 0, 0)
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (ROCKET.read_bytes()[:20000], "truncated: .* download it again"),
        (ROCKET.read_bytes()[:20], "not an image"),
        (encoded(Image.open(ROCKET), "PNG")[:50000], "truncated"),
        (encoded(Image.open(ROCKET), "TIFF")[:50000], "truncated|not an image"),
        (encoded(Image.open(ROCKET), "WEBP")[:9000], "."),
        (bomb(), "60000 x 60000 are more than 300000000 pixels, refused"),
        (encoded(Image.new("RGB", (8, 8)), "EPS"), "PostScript"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "not an image in a format"),
    ],
)
def test_unusable_data(data, reason, tmp_path):
    file = tmp_path / "picture.dat"
    file.write_bytes(data)
    for image, name in ((data, f"<bytes, {len(data)} B>"), (file, str(file))):
        with pytest.raises(ImageError, match=reason) as caught:
            images.open(image, at_least=10)
        assert caught.value.image == name
        assert str(caught.value).startswith(f"{name}: ")
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.image, again.reason) == (name, caught.value.reason)


def test_unusable_paths(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    (tmp_path / "link.png").symlink_to("gone.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for path, reason in [
        (tmp_path / "link.png", "link.png: a link to gone.png, which is missing"),
        (tmp_path / "loop.png", "Too many levels"),
        (tmp_path / "missing.png", "no such file"),
        ("s3://bucket/a.png", "only https:// and http:// addresses are opened"),
        (tmp_path, "not one image, but maybe several: patchword.find_images lists them"),
        (pipe, "not a regular file"),
        ("nul\0.png", "null byte"),
        ("x" * 5000, "too long"),
    ]:
        with pytest.raises(ImageError, match=reason):
            images.open(path)


@pytest.mark.parametrize("suffix", [".tiff", ".dcm", ".npy", ".jpg"])
def test_named_pipes_keep_nobody_waiting(suffix, tmp_path):
    """Of those that may have several pages the header is read before they are opened."""
    pipe = tmp_path / f"pipe{suffix}"
    os.mkfifo(pipe)
    for place in (tmp_path, pipe):
        (path,) = patchword.find_images(place)
        with pytest.raises(ImageError, match="not a regular file"):
            images.open(path)


def test_the_limit_of_pixels_is_an_option_and_pillows_is_left_alone(monkeypatch):
    """Pillow's limit is of the whole process: it is neither changed nor followed."""
    data = encoded(Image.new("L", (100, 100)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    assert images.open(data).shape == (100, 100, 3)
    assert images.open(data, max_pixels=10_000).shape == (100, 100, 3)
    with pytest.raises(ImageError, match=r"100 x 100 are more than 9999 pixels.*--max-pixels"):
        images.open(data, max_pixels=9_999)
    with pytest.raises(UnsupportedError, match="max_pixels is 0"):
        images.open(data, max_pixels=0)
    assert Image.MAX_IMAGE_PIXELS == 4_000


def test_no_warning_leaks_and_filters_stay():
    """A damaged EXIF block, which Pillow warns about, in eight threads at once."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x0f\x01\x02\0\xff"
    data = encoded(Image.new("RGB", (60, 40)), "JPEG", exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()  # ours may be there already, from images that were opened before
        warnings.simplefilter("always")
        with Image.open(io.BytesIO(data)) as picture:
            picture.getexif()
        assert caught, "the file no longer makes Pillow warn"
        caught.clear()
        filters = list(warnings.filters)
        shapes = []
        threads = [
            threading.Thread(target=lambda: shapes.append(images.open(data).shape))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert shapes == [(60, 40, 3)] * 8  # its orientation, 6, is still read
        assert not caught
        # But for the one that stays, which is of Pillow alone.
        assert [f for f in warnings.filters if f != pillow.filter_of("PIL")] == filters


def test_a_users_picture_is_left_alone():
    with Image.open(ROCKET) as picture:
        size = picture.size
        images.open(picture, at_least=32)
        assert picture.size == size
        assert images.open(picture, at_least=32).shape[:2] == size[::-1]


SEEDS = {
    kind: encoded(Image.fromarray(random_pixels(24, 17, 3)), kind)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000")
}
SEEDS["TIFF 16"] = tiff(random_pixels(9, 8, 3, kind=np.uint16), white=60000, deflate=True)
SEEDS["PNG 16"] = png16(random_pixels(9, 8, 4, kind=np.uint16), bits=12)
SEEDS["PGM 16"] = b"P5 9 8 4095\n" + bytes(144)


@pytest.mark.filterwarnings("error", "ignore::patchword.errors.ImageWarning")
@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(SEEDS)), st.data())
def test_damage_is_an_image_error_or_an_image(kind, data):
    """Any bytes changed, cut or added: never another exception, never a wrong shape or type."""
    content = bytearray(SEEDS[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    try:
        pixels = images.open(bytes(content), at_least=data.draw(st.sampled_from([None, 4])))
    except ImageError as error:
        reason = error.reason
    else:
        reason = "none"
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
    assert reason
    assert "\n" not in reason
