"""images.open: each rule against an expectation of its own."""

import io
import os
import struct
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_writers import encoded, grey, random_pixels
from photos import REAL, ROCKET
from PIL import Image, ImageCms, ImageOps

from patchword import images
from patchword.errors import ImageError, LongTextWarning
from patchword.images import pillow
from patchword.images.prefetch import ahead, cores, threads


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_equals_pillows(orientation):
    picture = Image.fromarray(random_pixels(5, 7, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(picture, kind, exif=exif, **options)
        with Image.open(io.BytesIO(data)) as again:
            expected = np.asarray(ImageOps.exif_transpose(again))
            np.testing.assert_array_equal(images.open(again), expected)
        np.testing.assert_array_equal(images.open(data), expected)
        assert expected.shape == ((5, 7, 3) if orientation < 5 else (7, 5, 3))


def test_photos_are_what_pillow_decodes():
    other = {ROCKET, *(path for path in REAL if path.name == "page.png")}  # profiles beside sRGB
    assert len(other) == 2
    for path in REAL:
        with Image.open(path) as picture:
            same = np.array_equal(images.open(path), np.asarray(picture.convert("RGB")))
        assert same == (path not in other), path


def test_a_photo_in_adobe_rgb():
    """By the formulas of Adobe RGB (1998), section 4.3.4, and of IEC 61966-2-1."""
    with Image.open(ROCKET) as picture:
        assert b"Adobe RGB (1998)" in picture.info["icc_profile"]
        stored = np.asarray(picture) / 255
    to_xyz = np.array(
        [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    )
    to_srgb = np.array(
        [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    )
    linear = np.clip(stored ** (563 / 256) @ to_xyz.T @ to_srgb.T, 0, 1)
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(images.open(ROCKET) - 255 * expected).max() <= 2


def test_the_same_from_path_text_bytes_picture_and_array():
    expected = images.open(ROCKET)
    assert expected.flags.writeable
    assert expected.flags.c_contiguous
    for same in (str(ROCKET), ROCKET.read_bytes(), Image.open(ROCKET), expected):
        np.testing.assert_array_equal(images.open(same), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_pillow_modes_without_alpha(mode):
    picture = Image.fromarray(random_pixels(9, 8, 3)).convert(mode)
    np.testing.assert_array_equal(images.open(picture), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "La", "RGBa", "PA"])
def test_alpha_over_white(mode):
    """In exact numbers: colour * a + 255 * (1 - a), within the rounding of 8 bits."""
    rgba = random_pixels(16, 16, 4)
    rgba[..., 1:3] = rgba[..., :1]  # grey, so that every mode can hold it
    rgba[0, 0] = (0, 0, 0, 0)
    source = Image.fromarray(rgba)
    picture = source.convert("LA").convert(mode) if mode == "La" else source.convert(mode)
    if mode == "PA":
        rgba = np.asarray(picture.convert("RGBA"))
    alpha = rgba[..., 3:] / 255.0
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    result = images.open(picture)
    assert (result[0, 0] == 255).all()
    # premultiplied modes ("a") have rounded the colour once before
    assert np.abs(result - expected).max() <= (1.6 if mode.endswith("a") else 0.51)


def test_palette_transparency_over_white():
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    result = images.open(encoded(picture, "PNG", transparency=bytes([255, 0, 51])))
    np.testing.assert_array_equal(result, [[[255, 0, 0], [255, 255, 255], [204, 204, 255]]])
    result = images.open(encoded(picture, "GIF", transparency=2))
    np.testing.assert_array_equal(result, [[[255, 0, 0], [0, 255, 0], [255, 255, 255]]])


def test_cmyk_jpeg_is_not_inverted():
    """Adobe's JPEGs hold CMYK inverted: red stays red, white white."""
    colours = np.array([[255, 0, 0], [255, 255, 255], [0, 0, 0], [0, 120, 255]], np.uint8)
    flat = np.repeat(np.repeat(colours[None], 16, 0), 16, 1)
    data = encoded(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in data[:200]
    assert np.abs(images.open(data).astype(int) - flat).max() <= 3
    data = encoded(Image.fromarray(flat).convert("CMYK"), "TIFF", compression="tiff_lzw")
    np.testing.assert_array_equal(images.open(data), flat)


def swapped_profile():
    """An RGB profile whose red primary is sRGB's green and the reverse: a change that is seen."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = bytearray(srgb)
    count = struct.unpack(">I", data[128:132])[0]
    tags = {bytes(data[132 + 12 * i :][:4]): 132 + 12 * i for i in range(count)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


def test_icc_profile_to_srgb():
    pixels = random_pixels(32, 32, 3)
    swap = swapped_profile()
    for kind in ("PNG", "TIFF"):
        result = images.open(encoded(Image.fromarray(pixels), kind, icc_profile=swap))
        assert np.abs(result.astype(int) - pixels[..., [1, 0, 2]]).max() <= 2
    alpha = np.full((32, 32, 1), 255, np.uint8)
    alpha[0] = 0
    rgba = Image.fromarray(np.concatenate([pixels, alpha], -1))
    result = images.open(encoded(rgba, "PNG", icc_profile=swap))
    assert (result[0] == 255).all()
    assert np.abs(result[1:].astype(int) - pixels[1:, :, [1, 0, 2]]).max() <= 2


def test_srgb_and_damaged_profiles_change_nothing():
    pixels = random_pixels(32, 32, 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"damaged", srgb[:200]):
        data = encoded(Image.fromarray(pixels), "PNG", icc_profile=profile)
        np.testing.assert_array_equal(images.open(data), pixels)


def test_a_profile_of_other_colours_is_passed_over():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    pixels = random_pixels(4, 4, 3)
    data = encoded(Image.fromarray(pixels), "PNG", icc_profile=lab)
    np.testing.assert_array_equal(images.open(data), pixels)


def test_a_tiff_without_exif_under_an_older_pillow(monkeypatch):
    """Before 13 it raised KeyError for a group of tags inside another that is not there."""

    def older(self, tag):
        raise KeyError(tag)

    monkeypatch.setattr(Image.Exif, "get_ifd", older)
    pixels = random_pixels(5, 7, 3)
    assert (images.open(encoded(Image.fromarray(pixels), "TIFF")) == pixels).all()


def test_lab_tiff():
    """White, black and sRGB's red, which is L*a*b* (54.3, 80.8, 69.9) under D50."""
    lab = np.array([[[255, 128, 128], [0, 128, 128], [138, 209, 198]]], np.uint8)
    picture = Image.merge("LAB", [Image.fromarray(lab[..., i]) for i in range(3)])
    result = images.open(encoded(picture, "TIFF"))
    expected = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]])
    assert np.abs(result - expected).max() <= 6  # 8 bits of a* and b* are coarse


def test_arrays():
    rgb = random_pixels(6, 5, 3)
    assert images.open(rgb) is rgb
    flipped = images.open(rgb[:, ::-1])
    assert flipped.flags.c_contiguous
    np.testing.assert_array_equal(flipped, rgb[:, ::-1])
    np.testing.assert_array_equal(images.open(rgb[..., 0]), grey(rgb[..., 0]))
    np.testing.assert_array_equal(images.open(rgb[..., :1]), grey(rgb[..., 0]))
    np.testing.assert_array_equal(images.open(rgb / 255), rgb)
    np.testing.assert_array_equal(images.open((rgb / 255).astype(np.float32)), rgb)
    np.testing.assert_array_equal(images.open(rgb.astype(np.uint16) * 257), rgb)
    np.testing.assert_array_equal(images.open(rgb > 9), np.where(rgb > 9, 255, 0))
    rgba = np.concatenate([rgb, np.full((6, 5, 1), 51, np.uint8)], -1)
    assert np.abs(images.open(rgba) - (rgb * 0.2 + 204)).max() <= 0.51
    assert np.abs(images.open(rgba / 255) - (rgb * 0.2 + 204)).max() <= 0.51
    assert np.abs(images.open(rgba[..., 2:]) - (rgb[..., 2:] * 0.2 + 204)).max() <= 0.51


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.zeros((3, 224, 224), np.uint8), r"\(3, 224, 224\).*channels come last"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"neither \(H, W\)"),
        (np.zeros(7, np.uint8), r"neither \(H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4, 3), np.int64), "int64 array: convert it to uint8"),
        (np.zeros((4, 4, 3), np.complex64), "complex64"),
        (np.full((4, 4, 3), np.nan), "finite"),
        (np.full((4, 4, 3), 200.0), "scale them to 0..1"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (None, "<NoneType>: not an image"),
        ([1, 2], "<list>: not an image"),
    ],
)
def test_what_is_no_image(bad, reason):
    with pytest.raises(ImageError, match=reason):
        images.open(bad)


def test_names():
    assert images.name_of("a/b.png") == "a/b.png"
    assert images.name_of(ROCKET) == str(ROCKET)
    assert images.name_of(b"1234") == "<bytes, 4 B>"
    assert images.name_of(np.zeros((480, 640, 3))) == "<array 480x640x3>"
    assert images.name_of(Image.new("L", (640, 480))) == "<PIL image 640x480 L>"
    with Image.open(ROCKET) as picture:
        assert images.name_of(picture) == str(ROCKET)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 400), st.integers(8, 400), st.integers(1, 120))
@example(448, 600, 224)
@example(447, 600, 224)
def test_jpeg_is_decoded_at_the_smallest_scale_twice_the_target(height, width, target):
    data = encoded(Image.new("RGB", (width, height)), "JPEG")
    exact = images.open(data, at_least=target, exact=True)
    assert exact.shape == (height, width, 3)
    scale = next(s for s in (8, 4, 2, 1) if s == 1 or min(height, width) >= 2 * target * s)
    fast = images.open(data, at_least=target)
    assert fast.shape == (-(-height // scale), -(-width // scale), 3)


def test_fast_jpeg_looks_the_same():
    """After the reduction both were made for: mean under 1 of 255 (see benchmarks/decode.py)."""
    with Image.open(ROCKET) as photo:
        large = photo.convert("RGB").resize((photo.width * 3, photo.height * 3))
    data = encoded(large, "JPEG", quality=92)
    small = []
    for exact in (True, False):
        pixels = images.open(data, at_least=224, exact=exact)
        shorter = min(pixels.shape[:2])
        size = (224 * pixels.shape[1] // shorter, 224 * pixels.shape[0] // shorter)
        small.append(
            np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), int)
        )
    assert pixels.shape[0] < large.height
    assert np.abs(small[0] - small[1]).mean() < 1


def test_fast_mpo_and_rotated_jpeg():
    """The file of phones with two cameras is a JPEG too; and orientation holds when scaled."""
    picture = Image.new("RGB", (1600, 800), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture, "MPO", save_all=True, append_images=[picture], exif=exif)
    with Image.open(io.BytesIO(data)) as again:
        assert again.format == "MPO"
    assert images.open(data, at_least=100).shape == (400, 200, 3)
    assert images.open(data).shape == (1600, 800, 3)


def test_opening_in_threads_takes_no_warning_of_others_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Filters are of the whole process: what a thread puts there stays, and it takes nothing."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "PNG")
    identify = pillow._identify

    def slow(file: BinaryIO) -> object:
        time.sleep(0.002)
        return identify(file)

    monkeypatch.setattr(pillow, "_identify", slow)
    images.open(buffer.getvalue())
    with warnings.catch_warnings():
        before = list(warnings.filters)
        with ThreadPoolExecutor(4) as pool:
            opened = [pool.submit(images.open, buffer.getvalue()) for _ in range(40)]
            for _ in range(40):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", LongTextWarning)
                    time.sleep(0.001)
        assert all(each.result().shape == (20, 20, 3) for each in opened)
        assert list(warnings.filters) == before
        with pytest.warns(LongTextWarning):
            warnings.warn("cut", LongTextWarning, stacklevel=1)


def test_a_containers_quota_counts_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    able = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    monkeypatch.setattr("patchword.images.prefetch.QUOTA", tmp_path / "cpu.max")
    assert cores() == able
    for text, count in {
        "max 100000\n": able,
        "50000 100000\n": 1,
        "9900000 100000\n": able,
    }.items():
        (tmp_path / "cpu.max").write_text(text)
        assert cores() == count


def test_nobody_waits_for_the_threads_of_a_generator_that_is_given_up() -> None:
    """The garbage collector may end it in a thread that holds what the others need to end."""
    asked = Event()

    def work(number: int) -> bool:
        return number == 0 or asked.wait(20)

    def each() -> Iterator[bool]:
        with threads(1) as pool:
            yield from ahead(pool, work, range(9), 4)

    begun = each()
    assert next(begun)
    start = time.monotonic()
    begun.close()
    assert time.monotonic() - start < 10
    asked.set()
