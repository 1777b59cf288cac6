"""images.open on the 306 files of image-rs' test suite, and on 18 photos turned in every way."""

import isolated_open
import numpy as np
import pytest
from corpora import DATA
from PIL import Image

SUITE = DATA / "formats" / "image_rs" / "tests"
EXIF = DATA / "formats" / "exif"

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


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """path -> pixels or reason for all suite files."""
    paths = sorted(p for root in (SUITE.parent, EXIF) for p in root.rglob("*") if p.is_file())
    return isolated_open.open_all(paths, tmp_path_factory.mktemp("opened"))


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


def test_gif_outside_its_first_frame_is_white(opened):
    pixels = opened[SUITE / "images" / "gif" / "anim" / "border_touching_layers.gif"]
    assert (pixels[0, 0] == 255).all() or (pixels[-1, -1] == 255).all()
    assert (pixels != 255).any()
