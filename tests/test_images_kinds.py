"""Photos of phones and cameras, scans and microscopes: each kind against what wrote or reads it."""

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import tifffile
from image_writers import encoded, grey, random_pixels, to_levels
from numpy.testing import assert_array_equal
from photos import FLOWER, PREPROCESS
from PIL import Image, ImageCms
from raw_files import dng

from patchword import images
from patchword.data.config import SourceConfig
from patchword.data.sources import open_sources
from patchword.errors import ConfigError, ImageError, ImageWarning, SkippedFilesWarning
from patchword.images import files, kinds, pages, tiff

PHOTO = Image.open(FLOWER).convert("RGB").resize((320, 200))


@pytest.fixture(autouse=True)
def nothing_is_said() -> None:
    """Warnings are errors, but where a test expects one."""
    warnings.simplefilter("error")


pillow_heif.register_heif_opener()  # to write with


def heic(*pictures: Image.Image, **options: object) -> bytes:
    """Images in one file, without loss but for that of their colours' conversion."""
    several = {"save_all": True, "append_images": pictures[1:], **options}
    return encoded(pictures[0], "HEIF", quality=-1, chroma=444, **several)


def test_heic_of_a_phone(tmp_path: Path) -> None:
    """Turned by its own transformation, in the phone's colours, under a JPEG's name, and the first
    of several images."""
    exif = Image.Exif()
    exif[0x0112] = 6
    second = Image.new("RGB", (320, 200), "red")
    (tmp_path / "IMG_1.jpg").write_bytes(heic(PHOTO, second, exif=exif.tobytes()))
    found = images.open(tmp_path / "IMG_1.jpg")
    right = np.asarray(PHOTO.transpose(Image.Transpose.ROTATE_270))
    assert found.shape == right.shape == (320, 200, 3)
    assert np.abs(found.astype(int) - right).mean() < 1
    assert images.open(f"{tmp_path}/IMG_1.jpg#2")[50, 50].tolist() == pytest.approx(
        [255, 0, 0], abs=4
    )
    primary = heic(PHOTO, second, primary_index=1)
    assert images.open(primary)[50, 50].tolist() == pytest.approx([255, 0, 0], abs=4)


def test_colour_profiles_of_heic_and_avif_are_followed() -> None:
    """What a PNG with the same profile gives, to what the lossy codecs change."""
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = swapped.replace(b"rXYZ", b"tmp_").replace(b"gXYZ", b"rXYZ").replace(b"tmp_", b"gXYZ")
    right = images.open(encoded(PHOTO, "PNG", icc_profile=swapped)).astype(int)
    assert np.abs(right - np.asarray(PHOTO)).mean() > 10, "the profile changes nothing"
    assert np.abs(images.open(heic(PHOTO, icc_profile=swapped)) - right).mean() < 2
    avif = encoded(PHOTO, "AVIF", quality=100, subsampling="4:4:4", icc_profile=swapped)
    assert np.abs(images.open(avif) - right).mean() < 2


def test_avif_lies_as_it_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    found = images.open(encoded(PHOTO, "AVIF", quality=95, exif=exif))
    right = np.asarray(PHOTO.transpose(Image.Transpose.ROTATE_90))
    assert found.shape == right.shape
    assert np.abs(found.astype(int) - right).mean() < 2


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_photo_in_a_raw_file_stands_upright(orientation: int, tmp_path: Path) -> None:
    """LibRaw's and Pillow's words for how it lies agree; the suffix of a TIFF deceives no one."""
    preview = encoded(PHOTO.resize((960, 700)), "JPEG", quality=90)
    data = dng(random_pixels(700, 960, kind=np.uint16), preview, orientation)
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270}
    turn[8] = Image.Transpose.ROTATE_90
    with Image.open(io.BytesIO(preview)) as picture:
        right = picture.transpose(turn[orientation]) if orientation in turn else picture.copy()
    assert_array_equal(images.open(data), np.asarray(right))
    (tmp_path / "shot.tif").write_bytes(data)
    assert_array_equal(images.open(tmp_path / "shot.tif"), np.asarray(right))


def test_a_raw_file_without_a_photo_is_developed() -> None:
    """Also where it has a thumbnail alone. A grey sensor makes a grey image."""
    sensor = np.full((700, 900), 20_000, np.uint16)
    for preview in (b"", encoded(PHOTO.resize((160, 120)), "JPEG")):
        found = images.open(dng(sensor, preview, orientation=6))
        assert found.shape == (900, 700, 3)
        assert np.ptp(found[8:-8, 8:-8]) <= 2
    with pytest.raises(ImageError, match="900 x 700 are more than 1000 pixels"):
        images.open(dng(sensor), max_pixels=1000)
    with pytest.raises(ImageError, match="damaged raw file, or of an unknown camera"):
        images.open(b"FUJIFILMCCD-RAW" + bytes(1000))


REFUSED = [
    (b"%PDF-1.7\n" + bytes(99), "PDF: save its pages as images first: pdftoppm"),
    (b"<?xml version='1.0'?>\n<!-- x -->\n<svg/>", "SVG: vector graphics; save it as PNG"),
    (b"\xef\xbb\xbf<svg xmlns='a'/>", "SVG"),
    (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(50), "video: save frames as images first: ffmpeg"),
    (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(50), "video"),
    (b"RIFF\0\0\0\0AVI LIST" + bytes(50), "video"),
    (b"\x1a\x45\xdf\xa3" + bytes(50), "video"),
    (b"\xff\x0a" + bytes(50), "JPEG XL: save it as JPEG or PNG first"),
    (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JPEG XL"),
    (b"%!PS-Adobe-3.0\n" + bytes(50), "PostScript: it is a program; convert it to PNG"),
    (b"PK\3\4" + bytes(60), "ZIP archive: unpack it first; save a spreadsheet as CSV"),
    (b"<!DOCTYPE html>\n<html>", "web page: download the image itself"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer: .* git lfs pull"),
    (b"\0\0\0\x18ftypheic" + bytes(40), "not an image in a format"),
]


@pytest.mark.parametrize(("data", "reason"), REFUSED)
def test_what_is_no_photo_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        images.open(data)


@pytest.mark.parametrize(
    ("library", "data", "reason"),
    [
        ("pillow_heif", heic(PHOTO), r"HEIC: pip install 'patchword\[heif\]', or save it as JPEG"),
        ("rawpy", dng(random_pixels(9, 9, kind=np.uint16)), r"patchword\[raw\]"),
        ("pydicom", bytes(128) + b"DICM", r"patchword\[dicom\]"),
        ("avif", encoded(PHOTO, "AVIF"), "AVIF: install a Pillow that has AVIF"),
    ],
)
def test_a_missing_library_is_named(
    library: str, data: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "_installed", lambda module: module != library)
    with pytest.raises(ImageError, match=reason):
        images.open(data)


def test_a_broken_library_costs_its_own_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "scan.dcm").write_bytes(bytes(128) + b"DICM")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setattr(kinds, "opens", lambda kind: True)
    assert pages.every(f"{tmp_path}/scan.dcm") == [f"{tmp_path}/scan.dcm"]
    with pytest.raises(ImageError, match=r"installed and cannot be imported .*; install it anew"):
        images.open(tmp_path / "scan.dcm")


def test_folders_count_what_they_cannot_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "_installed", lambda module: module != "pillow_heif")
    for name in ("a.HEIC", "b.heif", "c.MOV", "d.pdf", "e.pdf", "f.txt", "._g.heic", "h.jxl"):
        (tmp_path / name).write_bytes(b"x")
    np.save(tmp_path / "vectors.npy", np.zeros((2, 3), np.float32))
    np.save(tmp_path / "scan.npy", np.zeros((2, 3), np.uint8))
    (tmp_path / "both.mpo").write_bytes(encoded(PHOTO, "JPEG"))
    (tmp_path / "raw.CR2").write_bytes(b"x")
    told = r"1 \.npy of floats .*, 2 HEIC \(install patchword\[heif\]\), 1 JPEG XL, 2 PDF, 1 video"
    with pytest.warns(SkippedFilesWarning, match=told):
        found = files.pictures_in(tmp_path, [])
    assert [Path(name).name for name in found] == ["both.mpo", "raw.CR2", "scan.npy"]


# Pages


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    """Reduced copies are none; every page is an item, and page 1 alone is never opened in
    silence."""
    stack = random_pixels(3, 20, 30)
    ways = {"a.tif": {}, "b.tif": {"byteorder": ">"}, "c.tif": {"bigtiff": True}}
    for name, options in ways.items():
        path = tmp_path / name
        with tifffile.TiffWriter(path, **options) as file:
            for page in stack:
                file.write(page, compression="zlib", metadata=None)
                file.write(page[::4, ::4], subfiletype=1, metadata=None)
        assert pages.every(str(path)) == [f"{path}#{n}" for n in (1, 2, 3)]
        for number, page in enumerate(stack, start=1):
            assert_array_equal(images.open(f"{path}#{number}"), grey(page))
        with pytest.warns(ImageWarning, match=rf"{name}: page 1 of 3 is opened"):
            assert_array_equal(images.open(path), grey(stack[0]))
        for wrong in ("4", "0", "99999999999"):
            with pytest.raises(ImageError, match=r"no page .*: it has pages #1 to #3"):
                images.open(f"{path}#{wrong}")
    with pytest.raises(ImageError, match="no such file"):
        images.open(f"{tmp_path}/missing.tif#2")


def test_a_file_is_read_once_for_all_its_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again when it has changed."""
    path = tmp_path / "a.tif"
    opened = []
    monkeypatch.setitem(
        pages._READERS, ".tif", lambda file: opened.append(file) or tiff.pages(file)
    )
    tifffile.imwrite(path, random_pixels(3, 20, 30), photometric="minisblack")
    assert [files.gone(f"{path}#{n}") for n in (1, 2, 3, 4)] == [False, False, False, True]
    assert len(opened) == 1
    tifffile.imwrite(path, random_pixels(2, 20, 30), photometric="minisblack")
    assert [files.gone(f"{path}#{n}") for n in (1, 2, 3)] == [False, False, True]
    assert len(opened) == 2  # not three times, once for each page
    path.unlink()
    assert files.gone(f"{path}#1")


def test_deep_colour_pages_are_read_from_their_own_place(tmp_path: Path) -> None:
    stack = random_pixels(2, 20, 30, 3, kind=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="rgb")
    for number, page in enumerate(stack, start=1):
        found = images.open(f"{tmp_path}/a.tif#{number}")
        assert_array_equal(found, to_levels(page, 65535))


def test_a_number_sign_in_a_name_is_a_name(tmp_path: Path) -> None:
    for name in ("a#3.tif", "scan.tif#2", "b#1"):
        Image.new("L", (5, 4), 9).save(tmp_path / name, "TIFF")
        assert images.open(tmp_path / name).shape == (4, 5, 3)
    Image.new("L", (5, 4), 9).save(tmp_path / "one.png")
    assert images.open(tmp_path / "one.png#1").shape == (4, 5, 3)
    with pytest.raises(ImageError, match="no page 2: it has 1"):
        images.open(tmp_path / "one.png#2")


def test_frames_of_an_animation_by_number(tmp_path: Path) -> None:
    """Without a number it is one image, its first: nothing is said of the others."""
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        path = tmp_path / f"a.{kind}"
        options = {"lossless": True} if kind == "WEBP" else {}
        frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
        assert images.open(path)[5, 5].tolist() == [255, 0, 0]
        assert images.open(f"{path}#3")[5, 5].tolist() == [0, 0, 255]
        assert pages.every(str(path)) == [str(path)]
        assert not files.gone(f"{path}#3")
        path.unlink()
        assert files.gone(f"{path}#3")


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(order: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"

    def saved(values: np.ndarray) -> Path:
        np.save(path, np.asarray(values, order=order))
        return path

    rgb, deep = random_pixels(20, 30, 3), random_pixels(20, 30, kind=np.uint16)
    deep[0, 0] = 65535
    assert_array_equal(images.open(saved(rgb)), rgb)
    assert_array_equal(images.open(saved(deep.astype(">u2"))), grey(to_levels(deep, 65535)))
    assert_array_equal(images.open(saved(deep / 65535)), grey(to_levels(deep, 65535)))
    for stack in (random_pixels(2, 20, 30, 3), random_pixels(2, 20, 30)[..., None], deep[None]):
        whole = saved(np.concatenate([stack, stack[:, ::-1]]))
        names = pages.every(str(whole))
        assert names == [f"{path}#{number + 1}" for number in range(2 * len(stack))]
        first, last = images.open(names[0]), images.open(names[-1])
        assert_array_equal(last, images.open(np.ascontiguousarray(stack[-1, ::-1])))
        with pytest.warns(ImageWarning, match="page 1 of"):
            assert_array_equal(images.open(whole), first)
    for values, reason in [
        (np.zeros((3, 20, 30)), "channels come last"),
        (np.zeros((2, 3, 20, 30)), "channels come last"),
        (np.zeros(20), "neither an image"),
        (np.zeros((2, 2, 2, 2, 2)), "neither an image"),
        (np.zeros((5, 6), np.int32), "int32 array: convert it .*stretch"),
        (np.full((5, 6), 7.5), "span 7.5 to 7.5 .*stretch=True, or --stretch"),
        (np.zeros((5, 6), complex), "no samples of an image"),
        (np.array([[None]]), "Python objects"),
    ]:
        with pytest.raises(ImageError, match=reason):
            images.open(saved(values))
    data = saved(rgb).read_bytes()
    with pytest.raises(ImageError, match="truncated"):
        images.open(data[:-1])
    with pytest.raises(ImageError, match="30 x 20 are more than 599 pixels"):
        images.open(data, max_pixels=599)
    assert (
        images.open(saved(np.arange(30, dtype=np.int32).reshape(5, 6)), stretch=True).max() == 255
    )


# Limits and dark images


def test_a_jpeg_is_judged_by_the_size_at_which_it_is_decoded() -> None:
    """The photo of a phone of 200 megapixels opens; a progressive one holds all of itself."""
    photo = PHOTO.resize((1600, 1200))
    small = {"at_least": 100, "max_pixels": 400 * 300}
    assert images.open(encoded(photo, "JPEG"), **small).shape == (300, 400, 3)
    for data, options in [
        (encoded(photo, "JPEG"), {**small, "exact": True}),
        (encoded(photo, "JPEG", progressive=True), small),
        (encoded(photo, "PNG", compress_level=1), small),
    ]:
        with pytest.raises(ImageError, match=r"1600 x 1200 are more than 120000 pixels"):
            images.open(data, **options)


@pytest.mark.parametrize("white", [4095, 16383])
def test_an_image_of_fewer_bits_than_it_has_is_said_to_be_dark(white: int) -> None:
    values = random_pixels(20, 30, kind=np.uint16, limit=white)
    values[0, 0] = white
    with pytest.warns(ImageWarning, match=rf"<array 20x30>: its samples reach {white} and 65535"):
        dark = images.open(values)
    assert dark.max() <= 64
    assert images.open(values, stretch=True).max() == 255
    values[0, 0] = 16384  # a quarter of white and more is nothing odd
    images.open(values)
    images.open(np.zeros((4, 4), np.uint16))  # stretching would not help


def test_what_to_call_an_image_that_was_inside_something(tmp_path: Path) -> None:
    """It opens under that name as it did before."""
    small = PHOTO.resize((32, 20))
    preview = encoded(small, "JPEG")
    np.save(tmp_path / "a.npy", random_pixels(5, 6, 3))
    for content, suffix in (
        (heic(small), ".heic"),
        (encoded(small, "AVIF"), ".avif"),
        (dng(random_pixels(64, 64, kind=np.uint16), preview), ".tiff"),
        ((tmp_path / "a.npy").read_bytes(), ".npy"),
        (preview, ".jpeg"),
        (encoded(small, "PNG"), ".png"),
    ):
        assert kinds.suffix_of(content) == suffix
        path = tmp_path / f"again{suffix}"
        path.write_bytes(content)
        assert_array_equal(images.open(path), images.open(content))
        assert str(path) in files.pictures_in(tmp_path, [])


def test_training_stretches_and_limits_as_its_recipe_says(tmp_path: Path) -> None:
    dark = np.random.default_rng(0).integers(0, 300, (40, 40)).astype(np.uint16)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", dark)

    def sample(**options: object) -> np.ndarray:
        config = SourceConfig("folder", path=str(tmp_path), **options)
        (source,) = open_sources([config], PREPROCESS, ["labels"])
        return source.sample(0, np.random.default_rng(0)).pixels

    with pytest.warns(ImageWarning, match="nearly black"):
        plain = sample()
    assert np.ptp(sample(stretch=True)[0]) > 20 * np.ptp(plain[0])  # of one colour
    with pytest.raises(ImageError, match="40 x 40 are more than 1599 pixels"):
        sample(max_pixels=1599)
    with pytest.raises(ConfigError, match=r"data\.max_pixels is 0"):
        sample(max_pixels=0)
