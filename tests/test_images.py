"""images.open: the files of the format suites, and each rule against an expectation of its own."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from conftest import DATA
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, ImageOps

from patchword import images
from patchword.errors import ImageError

SUITE = DATA / "formats" / "image_rs" / "tests"
EXIF = DATA / "formats" / "exif"
PHOTO = DATA / "photos" / "owl.jpg"

# What Pillow cannot read (other formats, odd bit masks, damage) or would read wrong. All else of
# the suite must open.
REFUSED = {
    *(f"bmp/images/{name}.bmp" for name in (
        "V3_A1_R5_G5_B5", "V3_A1_R5_G5_B5_Top_Down", "V3_A4_R4_G4_B4", "V3_A4_R4_G4_B4_Top_Down",
        "V3_X4_R4_G4_B4", "V3_X4_R4_G4_B4_Top_Down", "V5_A1_R5_G5_B5", "pal2", "pal2color",
        "pal4rlecut", "rgb16-231", "rgb24rle24", "rgb32-111110", "rgb32bf", "rgba16-1924",
        "rgba32-61754", "rgba32abf", "lenient/badpalettesize", "lenient/pal8oversizepal",
        "lenient/rgb16-880", "lenient/rle_overflow",
    )),
    *(f"tga/testsuite/{name}.tga" for name in (
        "b5-cmap", "b5-unused-cmap", "bottom_left", "bottom_right", "top_left", "top_right",
    )),
    "tiff/testsuite/rgb32f_bw.tiff", "tiff/testsuite/rgb32f_color.tiff",
}  # fmt: skip
OTHER_FORMATS = (".exr", ".hdr", ".ff", ".md", ".txt", "LICENSE", ".tiff")  # .hdr.tiff: RGB floats

# Where the suite's expectation (image-rs) and Pillow's differ by more than rounding, and why.
OTHERWISE = {
    "bmp/images/V5_A8_R8_G8_B8_Rgb.bmp": "an alpha mask without BI_BITFIELDS, ignored by the rules",
    "bmp/images/pal4rletrns.bmp": "pixels that the file leaves undefined",
    "gif/anim/oob.gif": "a first frame beyond the canvas enlarges it, as in browsers",
    "gif/simple/issue_1455_oversized.gif": "likewise",
    "ico/images/multiple_entries_with_different_bit_depth.ico": "another entry of the same size",
    "jpg/progressive/3.jpg": "another JPEG decoder: up to 3 levels",
    "jpg/progressive/cat.jpg": "another JPEG decoder: up to 4 levels",
    "jpg/progressive/test.jpg": "another JPEG decoder: up to 2 levels",
    "tga/testsuite/b5-attrib.tga": "the attribute bit is alpha",
    "tiff/testsuite/hpredict.tiff": "premultiplied alpha (ExtraSamples 1)",
    "tiff/testsuite/hpredict_packbits.tiff": "premultiplied alpha (ExtraSamples 1)",
}

OPEN_ALL = """
import json, resource, signal, sys, time
import numpy as np
from patchword import images
from patchword.errors import ImageError

resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for line in sys.stdin:
    path, out = json.loads(line)
    signal.alarm(20)  # kills the process: a hang
    try:
        pixels = images.open(path)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        np.save(out, pixels)
        print(json.dumps([path, None]))
    except ImageError as error:
        assert error.image == path and str(error) == f"{path}: {error.reason}"
        print(json.dumps([path, error.reason]))
"""


def encoded(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def random_pixels(*shape, kind=np.uint8, limit=None, seed=0):
    limit = np.iinfo(kind).max if limit is None else limit
    return np.random.default_rng(seed).integers(0, limit + 1, shape).astype(kind)


def to_levels(values, white):
    """The expectation for deep samples, in exact integers: round half up of v * 255 / white."""
    return ((values.astype(object) * 510 + white) // (2 * white)).astype(np.uint8)


# ---- the format suites -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """path -> pixels or reason for all suite files, opened in one process of 1 GiB at most."""
    paths = sorted(p for root in (SUITE.parent, EXIF) for p in root.rglob("*") if p.is_file())
    out = tmp_path_factory.mktemp("opened")
    asked = [(str(p), str(out / f"{i}.npy")) for i, p in enumerate(paths)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OPEN_ALL],
        input="\n".join(map(json.dumps, asked)),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its threads' stacks count as memory
    )
    assert (done.returncode, done.stderr) == (0, "")
    reasons = dict(map(json.loads, done.stdout.splitlines()))
    return {p: reasons[str(p)] or np.load(f) for p, (_, f) in zip(paths, asked, strict=True)}


def test_every_suite_file_opens_or_says_why(opened):
    assert len(opened) >= 306 + 18
    for path, result in opened.items():
        name = (
            path.relative_to(SUITE / "images").as_posix()
            if SUITE / "images" in path.parents
            else ""
        )
        foreign = path.name.endswith(OTHER_FORMATS[:-1]) or path.name.endswith(".hdr.tiff")
        if isinstance(result, str):
            assert name in REFUSED or foreign or path.suffix not in Image.registered_extensions(), (
                path
            )
            assert "\n" not in result
            assert len(result) < 120
        else:
            assert name not in REFUSED, path


def test_suite_files_open_right(opened):
    """Over white, equal to the suite's own reference images, which other code decoded."""
    compared = 0
    for path, pixels in opened.items():
        if SUITE / "images" not in path.parents or isinstance(pixels, str):
            continue
        name = path.relative_to(SUITE / "images").as_posix()
        reference = SUITE / "reference" / f"{name}.png"
        if not reference.exists() or name in OTHERWISE:
            continue
        with Image.open(reference) as picture:
            rgba = np.asarray(picture.convert("RGBA")).astype(float)
        alpha = rgba[..., 3:] / 255
        expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
        assert pixels.shape == expected.shape, name
        # Half a level is the rounding of the blend, one level that of 5, 6 or 16 bits to 8.
        assert np.abs(pixels - expected).max() <= 1.5, name
        compared += 1
    assert compared > 80


def test_first_frames(opened):
    """Animations whose references start at frame 1: red, and a ball that is not blank."""
    red = opened[SUITE / "images" / "png" / "apng" / "rgba16.png"]
    assert (red == [255, 0, 0]).all()
    folder = SUITE / "images" / "png" / "apng" / "wpt"
    red = opened[folder / "fcTL-blend-source-transparent.png"]
    assert (red == [255, 0, 0]).all()  # the default image; the frames are green, then transparent


@pytest.mark.parametrize("kind", ["Landscape", "Portrait"])
def test_exif_orientations_look_alike(opened, kind):
    """The nine files differ by JPEG noise and by the digit drawn in their middle."""
    alike = [opened[EXIF / f"{kind}_{i}.jpg"].astype(np.int16) for i in range(9)]
    shape = (1200, 1800, 3) if kind == "Landscape" else (1800, 1200, 3)
    for pixels in alike:
        assert pixels.shape == shape
        difference = np.abs(pixels - alike[1])
        assert np.median(difference) <= 3
        assert difference[: shape[0] // 4].mean() < 4  # above the digit
    assert np.abs(alike[1][::-1] - alike[1]).mean() > 20  # a flip would be seen


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


# ---- colour ------------------------------------------------------------------------------------


def test_photos_are_what_pillow_decodes():
    for path in (DATA / "photos").iterdir():
        if path.suffix in (".jpg", ".bmp"):
            with Image.open(path) as picture:
                np.testing.assert_array_equal(images.open(path), np.asarray(picture.convert("RGB")))


def test_the_same_from_path_text_bytes_picture_and_array():
    expected = images.open(PHOTO)
    assert expected.flags.writeable
    assert expected.flags.c_contiguous
    for same in (str(PHOTO), PHOTO.read_bytes(), Image.open(PHOTO), expected):
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


def test_gif_outside_its_first_frame_is_white(opened):
    pixels = opened[SUITE / "images" / "gif" / "anim" / "border_touching_layers.gif"]
    assert (pixels[0, 0] == 255).all() or (pixels[-1, -1] == 255).all()
    assert (pixels != 255).any()


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


def test_lab_tiff():
    """White, black and sRGB's red, which is L*a*b* (54.3, 80.8, 69.9) under D50."""
    lab = np.array([[[255, 128, 128], [0, 128, 128], [138, 209, 198]]], np.uint8)
    picture = Image.merge("LAB", [Image.fromarray(lab[..., i]) for i in range(3)])
    result = images.open(encoded(picture, "TIFF"))
    expected = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]])
    assert np.abs(result - expected).max() <= 6  # 8 bits of a* and b* are coarse


# ---- more than 8 bits --------------------------------------------------------------------------


def tiff(values, order="<", white=None, planar=False, deflate=False, photometric=None, kind=1):
    """A TIFF of any integer or float samples (H, W) or (H, W, C); white: its MaxSampleValue."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    bits, size = values.dtype.itemsize * 8, values.dtype.itemsize
    stored = np.moveaxis(values, -1, 0)[..., None] if planar else values[None]
    stored = stored.astype(values.dtype.newbyteorder(order))
    strips = [plane.tobytes() for plane in stored]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    photometric = (2 if channels > 2 else 1) if photometric is None else photometric
    tags = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [8 if deflate else 1],
        262: [photometric], 273: [0] * len(strips), 277: [channels], 278: [height],
        279: [len(strip) for strip in strips], 284: [2 if planar else 1], 339: [kind] * channels,
    }  # fmt: skip
    if channels in (2, 4):
        tags[338] = [2]  # unassociated alpha
    if white is not None:
        tags[281] = [white] * channels
    start = 8 + 2 + 12 * len(tags) + 4
    arrays = sum(4 * len(v) for v in tags.values() if len(v) > 1)
    place = start + arrays
    for i, strip in enumerate(strips):
        tags[273][i] = place
        place += len(strip)
    entries, extra = b"", b""
    for tag in sorted(tags):
        numbers = struct.pack(f"{order}{len(tags[tag])}I", *tags[tag])
        if len(tags[tag]) > 1:
            at = struct.pack(f"{order}I", start + len(extra))
            extra += numbers
            numbers = at
        entries += struct.pack(f"{order}HHI", tag, 4, len(tags[tag])) + numbers
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    assert size * 8 == bits
    return head + entries + bytes(4) + extra + b"".join(strips)


def png16(values, bits=None, clear=None):
    """A 16-bit PNG of samples (H, W) or (H, W, C), with an sBIT and a tRNS chunk where given."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    out = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">2I5B", width, height, 16, colour, 0, 0, 0)
    )
    out += chunk(b"sBIT", bytes([bits] * channels)) if bits else b""
    out += chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear else b""
    return out + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def grey(levels):
    return np.repeat(levels[..., None], 3, axis=-1)


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


def test_a_stated_maximum_below_the_samples_is_passed_over():
    values = random_pixels(20, 30, kind=np.uint16)
    result = images.open(tiff(values, white=255))
    np.testing.assert_array_equal(result, grey(to_levels(values, 65535)))


def test_white_is_zero_tiff():
    values = random_pixels(20, 30, kind=np.uint16)
    result = images.open(tiff(values, photometric=0))
    np.testing.assert_array_equal(result, 255 - grey(to_levels(values, 65535)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_other_sample_types_of_tiff(order):
    """int16, int32 and float32, from 0 or from the least value of the type."""
    positive = random_pixels(8, 9, kind=np.int16)
    result = images.open(tiff(positive, order, kind=2))
    np.testing.assert_array_equal(result, grey(to_levels(positive, 32767)))
    signed = np.array([[-32768, 0, 32767]], np.int16)
    np.testing.assert_array_equal(images.open(tiff(signed, order, kind=2))[..., 0], [[0, 128, 255]])
    wide = np.array([[0, 2**30, 2**31 - 1]], np.int32)
    np.testing.assert_array_equal(images.open(tiff(wide, order, kind=2))[..., 0], [[0, 128, 255]])
    floats = np.array([[0, 0.25, 0.5, 1, np.nan]], np.float32)
    result = images.open(tiff(floats, order, kind=3))
    np.testing.assert_array_equal(result[..., 0], [[0, 64, 128, 255, 0]])


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
    # Of grey with alpha Pillow keeps the high bytes: a level more for each of the two.
    assert np.abs(result - np.broadcast_to(levels, result.shape)).max() <= (
        2.51 if channels == 2 else 0.51
    )


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


# ---- arrays ------------------------------------------------------------------------------------


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
    assert images.name_of(PHOTO) == str(PHOTO)
    assert images.name_of(b"1234") == "<bytes, 4 B>"
    assert images.name_of(np.zeros((480, 640, 3))) == "<array 480x640x3>"
    assert images.name_of(Image.new("L", (640, 480))) == "<PIL image 640x480 L>"
    with Image.open(PHOTO) as picture:
        assert images.name_of(picture) == str(PHOTO)


# ---- what cannot be opened ---------------------------------------------------------------------


def bomb():
    """1 MB of PNG that says 60000 x 60000."""
    small = encoded(Image.new("L", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">2I5B", 60000, 60000, 8, 0, 0, 0, 0)
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (PHOTO.read_bytes()[:20000], "truncated: .* download it again"),
        (PHOTO.read_bytes()[:20], "not an image"),
        (encoded(Image.open(PHOTO), "PNG")[:50000], "truncated"),
        (encoded(Image.open(PHOTO), "TIFF")[:50000], "truncated|not an image"),
        (encoded(Image.open(PHOTO), "WEBP")[:9000], "."),
        (bomb(), "more than 89478485 pixels, refused"),
        (encoded(Image.new("RGB", (8, 8)), "EPS"), "PostScript"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC: save it as JPEG"),
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
    for path, reason in [
        (tmp_path / "missing.png", "no such file"),
        (tmp_path, "a directory"),
        (pipe, "not a regular file"),
        ("https://example.org/a.jpg", "a URL: download it"),
        ("nul\0.png", "null byte"),
        ("x" * 5000, "too long"),
    ]:
        with pytest.raises(ImageError, match=reason):
            images.open(path)


def test_too_large_follows_pillows_limit(monkeypatch):
    """Users raise or lift the limit where Pillow has it; we never change it."""
    data = encoded(Image.new("L", (100, 100)), "PNG")
    limit = Image.MAX_IMAGE_PIXELS
    images.open(data)
    assert limit == Image.MAX_IMAGE_PIXELS
    for pixels in (9_999, 4_000):  # Pillow warns at the first, raises at the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
        with pytest.raises(ImageError, match=r"raise PIL\.Image\.MAX_IMAGE_PIXELS"):
            images.open(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert images.open(data).shape == (100, 100, 3)


def test_no_warning_leaks_and_filters_stay():
    """A damaged EXIF block, which Pillow warns about, in eight threads at once."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x0f\x01\x02\0\xff"
    data = encoded(Image.new("RGB", (60, 40)), "JPEG", exif=exif)
    with warnings.catch_warnings(record=True) as caught:
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
        assert list(warnings.filters) == filters


def test_a_users_picture_is_left_alone():
    with Image.open(PHOTO) as picture:
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


# ---- fast JPEG ---------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 400), st.integers(8, 400), st.integers(1, 120))
@example(448, 600, 224)
@example(447, 600, 224)
def test_jpeg_is_decoded_at_the_smallest_scale_twice_the_target(height, width, target):
    data = encoded(Image.new("RGB", (width, height)), "JPEG")
    exact = images.open(data, at_least=target, exact=True)
    assert exact.shape == (height, width, 3)
    fast = images.open(data, at_least=target)
    shapes = [(-(-height // s), -(-width // s)) for s in (8, 4, 2, 1)]
    enough = [shape for shape in shapes if min(height, width) >= 2 * target * (height / shape[0])]
    expected = next((s for s in shapes if min(s) >= 2 * target), (height, width))
    assert fast.shape[:2] in (expected, enough[0] if enough else (height, width))
    assert min(fast.shape[:2]) >= min(2 * target, height, width)


def test_fast_jpeg_looks_the_same():
    """After the reduction both were made for: mean under 1 of 255 (see benchmarks/decode.py)."""
    with Image.open(PHOTO) as photo:
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


def test_load_truncated_images_is_not_touched():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
