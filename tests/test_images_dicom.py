"""DICOM against pydicom's own reading, and against the arithmetic of its standard."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import dicom, file_content
from image_writers import grey, random_pixels, to_levels
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, apply_windowing

from patchword import images
from patchword.errors import ImageError, ImageWarning
from patchword.images import pages


@pytest.fixture(autouse=True)
def nothing_is_said() -> None:
    """Warnings are errors, but where a test expects one."""
    warnings.simplefilter("error")


@pytest.mark.parametrize("shape", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_dicom_is_rescaled_and_windowed(shape: str, kind: type) -> None:
    """Against pydicom's own windowing, whose range is that of the stored bits."""
    values = random_pixels(30, 40, kind=np.uint16, limit=4095) - 2048 * (kind is np.int16)
    window = {"WindowCenter": [40, 300], "WindowWidth": [400, 9], "VOILUTFunction": shape}
    data = dicom(values.astype(kind), RescaleSlope=2, RescaleIntercept=-1024, **window)
    shown = apply_windowing(apply_modality_lut(values.astype(kind), data), data)
    ends = np.array([-2048, 2047] if kind is np.int16 else [0, 4095]) * 2 - 1024
    right = (shown - ends[0]) / (ends[1] - ends[0]) * 255
    found = images.open(file_content(data))
    # half a grey level of rounding, and the window's own float32
    assert_allclose(found, grey(right), atol=0.51)
    data.PhotometricInterpretation = "MONOCHROME1"
    assert_array_equal(images.open(file_content(data)), 255 - found)


def test_dicom_without_a_window_spans_the_bits_that_are_stored() -> None:
    values = random_pixels(30, 40, kind=np.uint16, limit=4095)
    assert_array_equal(images.open(file_content(dicom(values))), grey(to_levels(values, 4095)))
    dark = dicom(values // 16)
    with pytest.warns(ImageWarning, match="nearly black.*--stretch"):
        assert images.open(file_content(dark)).max() <= 16
    assert images.open(file_content(dark), stretch=True).max() == 255
    narrow = dicom(values, WindowCenter=2, WindowWidth=1)  # stretch leaves the window out
    assert len(np.unique(images.open(file_content(narrow)))) == 2
    assert len(np.unique(images.open(file_content(narrow), stretch=True))) > 100


def test_frames_and_colours_of_dicom(tmp_path: Path) -> None:
    frames = random_pixels(3, 20, 30, kind=np.uint16, limit=4095)
    path = tmp_path / "a.dcm"
    path.write_bytes(file_content(dicom(frames)))
    assert pages.every(str(path)) == [f"{path}#{n}" for n in (1, 2, 3)]
    for number, frame in enumerate(frames, start=1):
        assert_array_equal(images.open(f"{path}#{number}"), grey(to_levels(frame, 4095)))
    with pytest.warns(ImageWarning, match="page 1 of 3"):
        images.open(path)
    rgb = random_pixels(20, 30, 3)
    colour = dicom(
        rgb[..., 0], SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0,
        BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=rgb.tobytes(), Rows=20, Columns=30,
    )  # fmt: skip
    assert_array_equal(images.open(file_content(colour)), rgb)
    with pytest.raises(ImageError, match="30 x 20 are more than 599"):
        images.open(file_content(colour), max_pixels=599)
    del colour.PixelData
    with pytest.raises(ImageError, match="DICOM file without an image"):
        images.open(file_content(colour))


def test_a_window_of_one_frame_is_of_that_frame() -> None:
    """Enhanced multi-frame files keep windows in groups of each frame, or in one that all share."""
    frames = np.tile(np.arange(0, 4000, 100, dtype=np.uint16), (2, 4, 1))
    data = dicom(frames)
    groups = []
    for centre in (1000, 3000):
        window = pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = centre, 200
        group = pydicom.Dataset()
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = groups
    content = file_content(data)
    with pytest.warns(ImageWarning, match="page 1 of 2"):
        first = images.open(content)
    assert (first[0, :, 0] == 255).sum() == (frames[0, 0] >= 1100).sum()


def test_a_table_of_values_of_interest() -> None:
    """It comes before a window, and after rescaling, whose values need not be whole."""
    values = random_pixels(30, 40, kind=np.uint16, limit=4095)
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 10])
    table.add_new("LUTData", "OW", (np.arange(4096) ** 0.5 * 15.9).astype(np.uint16).tobytes())
    data = dicom(values, WindowCenter=2, WindowWidth=1, VOILUTSequence=[table])
    shown = apply_voi_lut(values, data)
    assert_array_equal(images.open(file_content(data)), grey(to_levels(shown, 1023)))
    data.RescaleSlope, data.RescaleIntercept = 0.3, -7
    shown = apply_voi_lut(np.floor(values * 0.3 - 7).astype(np.int64), data)
    assert_array_equal(images.open(file_content(data)), grey(to_levels(shown, 1023)))


def test_attributes_that_are_there_and_empty_are_not_there() -> None:
    """As anonymised files have them."""
    values = random_pixels(30, 40, kind=np.uint16, limit=4095)
    expected = grey(to_levels(values, 4095))
    empty: list[dict[str, float | None]] = [
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 2, "WindowWidth": None},
        {"RescaleSlope": None, "RescaleIntercept": 7},
    ]
    for tags in empty:
        data = dicom(values, **tags)
        assert_array_equal(images.open(file_content(data)), expected)


def test_signed_samples_of_a_part_of_their_range_are_told() -> None:
    """Without a window 0 to 300 of -2048 to 2047 would be one grey."""
    values = random_pixels(30, 40, kind=np.int16, limit=300)
    data = dicom(values, RescaleSlope=1, RescaleIntercept=-100)
    told = r"span -100 to 200, and -2148 to 1947 is taken.*nearly grey.*--stretch"
    with pytest.warns(ImageWarning, match=told):
        images.open(file_content(data))
    assert np.ptp(images.open(file_content(data), stretch=True)) == 255
