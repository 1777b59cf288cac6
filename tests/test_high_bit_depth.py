"""Samples of more than 8 bits against exact integer arithmetic."""

import io
import warnings

import numpy as np
import pytest
import tifffile
from image_writers import encoded, grey, png16, random_pixels, tiff, to_levels
from PIL import Image

from patchword import images
from patchword.errors import ImageError, ImageWarning


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("white", [None, 4095, 1023])
def test_16_bit_grey_tiff(order, deflate, white):
    values = random_pixels(20, 30, kind=np.uint16, limit=white)
    values[0, 0] = white or 65535
    result = images.open(tiff(values, order, white, deflate=deflate))
    np.testing.assert_array_equal(result, grey(to_levels(values, white or 65535)))
    assert len(np.unique(result)) > 150


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", [{}, {"deflate": True}, {"planar": True}])
@pytest.mark.parametrize("white", [None, 4095])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_tiff(order, layout, white, channels):
    values = random_pixels(20, 30, channels, kind=np.uint16, limit=white)
    values[..., 3:] = 65535  # opaque
    result = images.open(tiff(values, order, white, **layout))
    np.testing.assert_array_equal(result, to_levels(values[..., :3], white or 65535))


def test_compressed_16_bit_planes():
    """Pillow gives their high bytes alone: enough for the full range, refused for a part of it."""
    values = random_pixels(20, 30, 3, kind=np.uint16)
    result = images.open(tiff(values, planar=True, deflate=True))
    assert np.abs(result.astype(int) - to_levels(values, 65535)).max() <= 1
    with pytest.raises(ImageError, match="compressed 16-bit planes"):
        images.open(tiff(values // 16, white=4095, planar=True, deflate=True))


def test_a_tiff_that_pillow_wrote_with_its_maximum():
    values = random_pixels(20, 30, kind=np.uint16, limit=4095)
    data = encoded(Image.fromarray(values), "TIFF", tiffinfo={281: 4095})
    np.testing.assert_array_equal(images.open(data), grey(to_levels(values, 4095)))


def test_a_maximum_that_is_always_stated_states_nothing():
    """Twelve bits in sixteen, of a writer that puts the type's maximum into every file."""
    values = random_pixels(20, 30, kind=np.uint16, limit=4095)
    data = encoded(Image.fromarray(values), "TIFF", tiffinfo={281: 65535})
    with pytest.warns(ImageWarning, match="is seen nearly black.*--stretch"):
        images.open(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images.open(encoded(Image.fromarray(values * 16), "TIFF", tiffinfo={281: 65535}))


def test_a_stated_maximum_below_the_samples_is_passed_over():
    values = random_pixels(20, 30, kind=np.uint16)
    result = images.open(tiff(values, white=255))
    np.testing.assert_array_equal(result, grey(to_levels(values, 65535)))


def test_white_is_zero_tiff():
    values = random_pixels(20, 30, kind=np.uint16)
    result = images.open(tiff(values, photometric=0))
    np.testing.assert_array_equal(result, 255 - grey(to_levels(values, 65535)))


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_other_sample_types_of_tiff(order, deflate):
    """int8, int16, int32 and float32, from 0 or from the least value of the type."""

    def levels(values, kind):
        return images.open(tiff(values, order, kind=kind, deflate=deflate))[..., 0]

    positive = random_pixels(8, 9, kind=np.int16)
    expected = grey(to_levels(positive, 32767))[..., 0]
    np.testing.assert_array_equal(levels(positive, 2), expected)
    for kind in (np.int8, np.int16):
        ends = np.iinfo(kind)
        signed = np.array([[ends.min, 0, ends.max]], kind)
        np.testing.assert_array_equal(levels(signed, 2), [[0, 128, 255]])
    wide = np.array([[0, 2**30, 2**31 - 1]], np.int32)
    np.testing.assert_array_equal(levels(wide, 2), [[0, 128, 255]])
    floats = np.array([[0, 0.25, 0.5, 1, np.nan]], np.float32)
    with pytest.warns(
        ImageWarning, match="1 of its 5 samples are NaN or infinite: it is seen black"
    ):
        np.testing.assert_array_equal(levels(floats, 3), [[0, 64, 128, 255, 0]])


@pytest.mark.parametrize("deflate", [False, True])
def test_alpha_in_a_plane_beside_grey_is_refused(deflate):
    content = tiff(random_pixels(8, 9, 2), planar=True, deflate=deflate)
    with pytest.raises(ImageError, match="transparency in a plane of its own; save it"):
        images.open(content)


def test_16_bit_planes_of_cmyk_are_refused():
    """Pillow takes their bytes for samples."""
    file, values = io.BytesIO(), random_pixels(4, 8, 9, kind=np.uint16)
    tifffile.imwrite(file, values, photometric="separated", planarconfig="separate")
    with pytest.raises(ImageError, match="16-bit planes; save it with interleaved colours"):
        images.open(file)


def test_a_tiff_that_pillow_does_not_know_says_what_it_has():
    for options, said in [
        ({"compression": "jpeg2000"}, "JPEG 2000 inside"),
        ({"bigtiff": True, "byteorder": ">"}, "64-bit offsets in big-endian order"),
    ]:
        file = io.BytesIO()
        tifffile.imwrite(file, random_pixels(8, 9, 3), photometric="rgb", **options)
        with pytest.raises(ImageError, match=f"a TIFF with {said}; save it as PNG"):
            images.open(file)


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        (np.zeros((8, 9), np.float64), 3, "1 channel of 64-bit floats"),
        (np.zeros((8, 9, 3), np.float32), 3, "3 channels of 32-bit floats"),
        (np.zeros((8, 9, 2), np.uint16), 1, "2 channels of 16-bit integers"),
        (np.zeros((8, 9, 3), np.int8), 2, "3 channels of 8-bit signed integers"),
    ],
)
def test_a_tiff_of_other_samples_is_refused_by_them(values, kind, said):
    with pytest.raises(ImageError, match=f"a TIFF with {said}; save it as PNG, or give"):
        images.open(tiff(values, kind=kind))


def test_unsigned_32_bit_tiff():
    values = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    np.testing.assert_array_equal(images.open(tiff(values))[..., 0], [[0, 128, 255]])


def test_floats_of_unknown_range_are_refused_unless_stretched():
    floats = np.linspace(-3, 817, 400, dtype=np.float32).reshape(20, 20)
    for image in (tiff(floats, kind=3), floats, Image.fromarray(floats)):
        with pytest.raises(ImageError, match=r"span -3 to 817 .* stretch=True"):
            images.open(image)
        result = images.open(image, stretch=True)
        assert result.min() == 0
        assert result.max() == 255


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png(channels):
    values = random_pixels(20, 30, channels, kind=np.uint16)
    levels = to_levels(values, 65535).astype(float)
    if channels in (2, 4):
        alpha = levels[..., -1:] / 255
        levels = levels[..., :-1] * alpha + 255 * (1 - alpha)
    result = images.open(png16(values))
    assert np.abs(result - np.broadcast_to(levels, result.shape)).max() <= 0.51


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_transparent_colour(channels):
    values = random_pixels(20, 30, channels, kind=np.uint16)
    values[3, 4] = values[0, 0]
    result = images.open(png16(values, clear=[int(v) for v in values[0, 0]]))
    assert (result[0, 0] == 255).all()
    assert (result[3, 4] == 255).all()
    expected = np.broadcast_to(to_levels(values, 65535), result.shape)
    np.testing.assert_array_equal(result[10:], expected[10:])


@pytest.mark.parametrize("channels", [1, 3])
def test_png_significant_bits(channels):
    """sBIT 12: samples scaled to 16 bits, as the standard wants, or as the camera gave them."""
    raw = random_pixels(20, 30, channels, kind=np.uint16, limit=4095)
    expected = np.broadcast_to(to_levels(raw, 4095), (20, 30, 3))
    np.testing.assert_array_equal(images.open(png16(raw, bits=12)), expected)
    if channels == 1:  # with alpha too
        clear = np.concatenate([raw, np.full_like(raw, 65535)], axis=-1)
        np.testing.assert_array_equal(images.open(png16(clear, bits=12)), expected)
    scaled = (raw << 4) | (raw >> 8)
    assert np.abs(images.open(png16(scaled, bits=12)).astype(int) - expected).max() <= 1
    dark = scaled // 17  # a dark, sound image: below 4096, its low bits come from scaling alone
    dark = (dark >> 4) << 4
    assert images.open(png16(dark, bits=12)).max() <= 16


@pytest.mark.parametrize("white", [15, 255, 1000, 4095, 65535])
@pytest.mark.parametrize("kind", [b"P5", b"P6"])
def test_pgm_and_ppm_maxval(white, kind):
    shape = (20, 30, 1 if kind == b"P5" else 3)
    values = random_pixels(*shape, kind=np.uint16, limit=white)
    values[0, 0] = white
    body = values.astype(">u2" if white > 255 else "u1").tobytes()
    data = kind + b"\n# camera\n30 20\n%d\n" % white + body
    expected = np.broadcast_to(to_levels(values, white), (20, 30, 3))
    np.testing.assert_array_equal(images.open(data), expected)
    with pytest.raises(ImageError, match="truncated"):
        images.open(data[:-1])


def test_pillow_pictures_of_more_than_8_bits():
    values = random_pixels(8, 9, kind=np.uint16)
    expected = grey(to_levels(values, 65535))
    for picture in (
        Image.fromarray(values),
        Image.fromarray(values.astype(np.int32)),
        Image.fromarray((values / 65535).astype(np.float32)),
    ):
        np.testing.assert_array_equal(images.open(picture), expected)


@pytest.mark.parametrize("white", [4095, 65535])
def test_stretch_shows_a_dark_image(white):
    """Samples of 1000..1300: one level without, the whole range with stretch."""
    values = 1000 + random_pixels(100, 100, kind=np.uint16, limit=300)
    plain, wide = (images.open(tiff(values, white=white), stretch=s) for s in (False, True))
    assert np.ptp(plain) < 20
    low, high = np.percentile(values, [0.5, 99.5])
    expected = np.clip((values - low) / (high - low), 0, 1) * 255
    assert np.abs(wide - grey(expected)).max() <= 0.51
    eight = images.open(random_pixels(50, 50, limit=20), stretch=True)
    assert (eight.min(), eight.max()) == (0, 255)
    assert len(np.unique(images.open(np.full((5, 5), 7, np.uint8), stretch=True))) == 1


def test_signed_samples_of_a_part_of_their_range_are_told():
    """As CT scans are written: -1000 to 3000 of 65,536 would be one grey."""
    values = random_pixels(20, 30, kind=np.int16, limit=3000) - np.int16(1000)
    with pytest.warns(ImageWarning, match=r"-32768 to 32767 is taken.*nearly grey.*--stretch"):
        images.open(tiff(values, kind=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.ptp(images.open(tiff(values, kind=2), stretch=True)) == 255
        images.open(tiff(values * np.int16(10), kind=2))


def test_a_tiff_of_samples_that_are_not_read_says_so():
    with pytest.raises(ImageError, match="16-bit floats; save it as PNG"):
        images.open(tiff(np.zeros((4, 4), np.float16), kind=3))
