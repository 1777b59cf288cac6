"""images.open on files of every format and oddity: the right pixels, or a reason."""

from pathlib import Path

import image_files
import imagecodecs
import isolated_open
import numpy as np
import pytest
from image_files import PHOTO
from image_writers import encoded
from numpy.typing import NDArray
from PIL import Image

from patchword import images

FILES = image_files.every()
Opened = dict[str, NDArray[np.uint8] | str]


def opened(files: dict[str, bytes], folder: Path) -> Opened:
    """Name -> pixels or reason."""
    (folder / "pixels").mkdir()
    paths = {name: folder / f"{i} {Path(name).name}" for i, name in enumerate(files)}
    for name, data in files.items():
        paths[name].write_bytes(data)
    found = isolated_open.open_all(paths.values(), folder / "pixels")
    return {name: found[path] for name, path in paths.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    data = {name: file.data for name, file in FILES.items()}
    return opened(data, tmp_path_factory.mktemp("whole"))


def test_there_are_many_of_every_kind() -> None:
    assert len(FILES) > 200
    assert sum(file.pixels is None for file in FILES.values()) > 20


@pytest.mark.parametrize("name", FILES)
def test_right_or_refused(name: str, whole: Opened) -> None:
    file, found = FILES[name], whole[name]
    if file.pixels is None:
        assert isinstance(found, str)
        assert "\n" not in found
        assert len(found) < 120
        return
    assert not isinstance(found, str), found
    expected = file.expected()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= file.within


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    """But where a whole first frame is in that half."""
    halves = {n: f.data[: len(f.data) // 2] for n, f in FILES.items() if f.pixels is not None}
    found = opened(halves, tmp_path)
    whole = {name for name, pixels in found.items() if not isinstance(pixels, str)}
    assert whole == {"pngs/frames.png", "pngs/still and frames.png"}
    for name in whole:
        np.testing.assert_allclose(found[name], FILES[name].expected(), atol=FILES[name].within)


def upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """By the words of the Exif standard (2.32, tag 274): which sides of what is seen the first row
    and the first column are."""
    sides = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }  # fmt: skip
    row, column = sides.get(orientation, sides[1])
    stored = stored[::-1] if row in ("bottom", "right") else stored
    stored = stored[:, ::-1] if column in ("bottom", "right") else stored
    return stored.swapaxes(0, 1) if row in ("left", "right") else stored


@pytest.mark.parametrize("stored", [PHOTO, PHOTO.swapaxes(0, 1)], ids=["landscape", "portrait"])
@pytest.mark.parametrize("orientation", range(10))
def test_turned_as_the_camera_says(stored: NDArray[np.uint8], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation  # 0 and 9 mean nothing
    data = encoded(Image.fromarray(stored), "JPEG", quality=95, exif=exif)
    expected = upright(imagecodecs.jpeg8_decode(data), orientation).astype(int)
    found = images.open(data)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


def test_every_turn_would_be_seen() -> None:
    seen = {upright(PHOTO, orientation).tobytes() for orientation in range(1, 9)}
    assert len(seen) == 8
