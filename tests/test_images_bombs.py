"""Small files that ask for endless work or memory, and damage that folders meet."""

import io
import struct
import warnings
from pathlib import Path

import dicom_files
import numpy as np
import pydicom
import pytest
from image_writers import encoded, random_pixels
from PIL import Image

import patchword
from patchword import images
from patchword.errors import ImageError
from patchword.images import dicom, pages, tiff


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def scans(count: int, progressive: bool) -> bytes:
    """A JPEG of 8 x 8 pixels whose scans hold nothing: libjpeg makes each of zeros."""
    components = 1 if progressive else 3
    frame = struct.pack(">BHHB", 8, 8, 8, components)
    frame += b"".join(bytes([c, 0x11, 0]) for c in range(1, components + 1))
    ends = b"\0\0\0" if progressive else b"\0\x3f\0"
    each = [segment(0xDA, bytes([1, 1 + at % components, 0]) + ends) for at in range(count)]
    tables = segment(0xDB, b"\0" + bytes([1] * 64))
    tables += b"".join(segment(0xC4, bytes([kind, 1, *[0] * 16])) for kind in (0, 0x10))
    start = segment(0xC2 if progressive else 0xC0, frame)
    return b"\xff\xd8" + tables + start + b"".join(each) + b"\xff\xd9" + b"\xff\xda" * 200


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_of_endless_scans_is_refused(progressive: bool) -> None:
    """40 kB of them took seconds, a megabyte an hour. What follows the image's end is none."""
    with pytest.raises(ImageError, match="a JPEG in more than 100 scans"):
        images.open(scans(101, progressive))
    assert images.open(scans(99, progressive)).shape == (8, 8, 3)
    photo = encoded(Image.fromarray(random_pixels(40, 30, 3)), "JPEG", progressive=progressive)
    assert images.open(photo + b"\xff\xda" * 200).shape == (40, 30, 3)


def test_directories_that_overlap_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte can hold 100,000 directories of 65,535 tags each."""
    table, count = 12 * 0xFFFF, 40
    content = bytearray(b"\xff" * (8 + 4 * count + 2 + table + 8))
    content[:8] = b"II*\0" + struct.pack("<I", 8)
    for at in range(8, 8 + 4 * count, 4):
        struct.pack_into("<I", content, at + 2 + table, at + 4)
    monkeypatch.setattr(tiff, "_MOST", 100_000)
    assert len(tiff.pages(io.BytesIO(content))) == 2


def test_a_tiff_in_tiles_beyond_the_limit_of_pixels_is_refused() -> None:
    """libtiff would hold one, of a picture of 8 x 8 pixels too."""
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: 1 << 15, 323: 1 << 15}
    tags |= {324: 8, 325: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    with pytest.raises(ImageError, match="in tiles of 32768 x 32768 pixels"):
        images.open(content)


def test_pages_are_as_many_as_a_file_has_room_for(tmp_path: Path) -> None:
    """Not as many as its header says: 228 bytes named 200 million."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (2 * 10**8, 8, 8, 3)}
    with (tmp_path / "many.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(2 * 192 + 1))
    names = pages.every(str(tmp_path / "many.npy"))
    assert len(names) == 3  # the third is cut off
    assert images.open(names[1]).shape == (8, 8, 3)
    with pytest.raises(ImageError, match="truncated"):
        images.open(names[2])
    data = scan(np.zeros((8, 8), np.uint16), NumberOfFrames=2 * 10**8)
    data.save_as(tmp_path / "many.dcm", enforce_file_format=True)
    assert len(pages.every(str(tmp_path / "many.dcm"))) < 1000


def scan(values: np.ndarray, **tags: object) -> pydicom.Dataset:
    """A deflated DICOM of grey values (H, W)."""
    data = dicom_files.dicom(values, **tags)
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    return data


def test_a_dicom_that_unpacks_to_gigabytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    scan(np.arange(64, dtype=np.uint16).reshape(8, 8) * 60).save_as(out, enforce_file_format=True)
    assert images.open(out.getvalue()).shape == (8, 8, 3)
    monkeypatch.setattr(dicom, "MOST", 100)
    with pytest.raises(ImageError, match="it unpacks to more than 0 MB"):
        images.open(out.getvalue())


def test_libraries_neither_log_nor_warn_of_what_a_file_holds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = io.BytesIO()
    scan(np.zeros((8, 8), np.uint16)).save_as(out, enforce_file_format=True)
    damaged = out.getvalue().replace(b"1.2.840.10008.1.2.1.99", b"1.2.840.1x008.1.2.1.99")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError):
            images.open(damaged)
    assert not caplog.records


def test_a_palette_that_is_cut_off_is_missed() -> None:
    """Pillow shows the numbers of the colours as grey."""
    content = encoded(Image.fromarray(random_pixels(20, 20, 3)).quantize(50), "PCX")
    assert images.open(content).shape == (20, 20, 3)
    with pytest.raises(ImageError, match="truncated: its palette"):
        images.open(content[:-100])


def test_a_tiff_says_where_all_its_pixels_are() -> None:
    """The rest would be black."""
    content = bytearray(encoded(Image.fromarray(random_pixels(20, 10, 3)), "TIFF"))
    assert images.open(bytes(content)).shape == (20, 10, 3)
    at = content.index(struct.pack("<HHI", 257, 4, 1))  # ImageLength
    content[at + 8] = 25
    with pytest.raises(ImageError, match="truncated: it does not say where all"):
        images.open(bytes(content))


def test_damaged_headers_of_a_folder_cost_themselves_alone(tmp_path: Path) -> None:
    """NumPy and pydicom raise errors of many kinds."""
    good = tmp_path / "good.png"
    Image.new("RGB", (8, 8), "red").save(good)
    text = "{'descr': '|u1', 'shape': (8, 8, 3, "
    header = struct.pack("<H", len(text)) + text.encode()
    (tmp_path / "array.npy").write_bytes(b"\x93NUMPY\1\0" + header)
    out = io.BytesIO()
    scan(np.zeros((8, 8), np.uint16)).save_as(out, enforce_file_format=True)
    content = bytearray(out.getvalue())
    content[132 + 6] = 3  # bytes of a number that has four
    (tmp_path / "scan.dcm").write_bytes(content)
    found = patchword.find_images(tmp_path)
    assert [Path(path).name for path in found] == ["array.npy", "good.png", "scan.dcm"]
    for name in (found[0], found[2]):
        with pytest.raises(ImageError, match="damaged"):
            images.open(name)
