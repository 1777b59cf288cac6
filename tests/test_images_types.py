"""One image is one image, whatever its type; and the same pixels."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from photos import CAT, FLOWER
from PIL import Image

from patchword import images
from patchword.bundle import Bundle
from patchword.errors import ImageError, ImageWarning, UnsupportedError

RGB = np.array(Image.open(CAT).convert("RGB"))
DATA = CAT.read_bytes()


def every(path: Path) -> dict[str, object]:
    used = io.BytesIO()
    Image.fromarray(RGB).save(used, "PNG")  # left at its end, as users leave it
    chw = torch.from_numpy(RGB).permute(2, 0, 1)
    return {
        "str": str(path), "Path": path, "bytes": DATA, "bytearray": bytearray(DATA),
        "memoryview": memoryview(DATA), "BytesIO": used, "open file": path.open("rb"),
        "PIL": Image.open(path), "array": RGB, "floats": (RGB / 255).astype(np.float32),
        "tensor": chw, "tensor of floats": chw / 255, "half": (chw / 255).half(),
        "tensor (H, W, C)": torch.from_numpy(RGB), "with a gradient": (chw / 255).requires_grad_(),
    }  # fmt: skip


def test_every_type_gives_the_same_pixels_and_one_row(model: Bundle) -> None:
    expected = model.embed_images([CAT])
    for name, image in every(CAT).items():
        within = 1 if name == "half" else 0
        assert np.abs(images.open(image).astype(int) - RGB).max() <= within, name
        again = model.embed_images(image)  # a file is read from its start once more
        assert again.shape == expected.shape, name
        np.testing.assert_allclose(again, expected, atol=2e-3 if within else 1e-6, err_msg=name)
        assert model.embed_images([image, image]).shape[0] == 2, name


def test_several_images_in_one_tensor(model: Bundle) -> None:
    batch = torch.from_numpy(np.stack([RGB, RGB[::-1]])).permute(0, 3, 1, 2)
    rows = model.embed_images(batch)
    np.testing.assert_allclose(rows, model.embed_images([RGB, RGB[::-1]]), atol=1e-6)


def test_an_array_with_channels_first_is_not_three_grey_images(model: Bundle) -> None:
    first = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    for job in (model.embed_images, images.open):
        with pytest.raises(ImageError, match="channels come last, and several grey images are a"):
            job(first)
    assert len(model.embed_images(list(first))) == 3
    assert len(model.embed_images(np.stack([*first, *first]))) == 6


def test_grey_tensors() -> None:
    plane = torch.from_numpy(RGB[..., 0].copy())
    for tensor in (plane, plane[None], plane[..., None]):
        assert_array_equal(images.open(tensor), np.repeat(RGB[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (torch.zeros(3, 8, 3), "<tensor 3x8x3>: shape .* may come first or last"),
        (torch.zeros(5, 8, 9), "<tensor 5x8x9>: shape"),
        (torch.randn(3, 8, 9) * 3, "the file gives no range: scale them to 0..1, or stretch"),
        (torch.zeros(3, 8, 9, dtype=torch.int64), "int64 array: convert it to uint8"),
        (io.StringIO("x"), "a file of text; open it with mode"),
        (io.BytesIO(), "empty: 0 bytes"),
        (bytearray(), "empty: 0 bytes"),
        (np.ma.masked_equal(RGB, 0), r"an array with masked values: give array.filled\(0\)"),
        (7, "not an image"),
    ],
)
def test_what_may_be_meant_in_two_ways_is_refused(image: object, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        images.open(image)


def test_a_file_is_named_and_left_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(DATA[:900])
    with path.open("rb") as file:
        file.seek(5)
        with pytest.raises(ImageError, match=rf"{path}: truncated"):
            images.open(file)
        assert file.tell() == 5


def test_a_warning_that_is_made_an_error_is_that_warning() -> None:
    dark = np.full((4, 4), 9, np.uint16)
    dark[0] = 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="nearly black"):
            images.open(dark)


def test_how_a_model_opens_images(model: Bundle) -> None:
    """Stretched vectors are others, and so is the fingerprint; back again it is the same."""
    dark = (RGB // 16).astype(np.uint8)
    plain, wide = model.embed_images(dark), model.embed_images(dark, stretch=True)
    assert np.abs(plain - wide).max() > 1e-3
    stretched = model.opening(stretch=True)
    np.testing.assert_array_equal(stretched.embed_images(dark), wide)
    np.testing.assert_array_equal(stretched.embed_images(dark, stretch=False), plain)
    assert stretched.fingerprint == f"{model.fingerprint}-stretched"
    assert stretched.options == {**model.options, "stretch": True}
    back = stretched.opening(stretch=False)
    assert (back.fingerprint, back.options) == (model.fingerprint, model.options)
    assert model.opening() is model
    exact = model.opening(exact=True)
    np.testing.assert_array_equal(
        exact.embed_images(FLOWER), model.embed_images(FLOWER, exact=True)
    )
    assert np.abs(exact.embed_images(FLOWER) - model.embed_images(FLOWER)).max() > 1e-6
    both = exact.opening(stretch=True)
    assert both.fingerprint == f"{model.fingerprint}-stretched-exact"
    assert both.options == {**model.options, "stretch": True, "exact": True}
    assert both.opening(stretch=False).fingerprint == f"{model.fingerprint}-exact"
    assert both.opening(stretch=False, exact=False).fingerprint == model.fingerprint
    with pytest.raises(ImageError, match="more than 100 pixels"):
        model.opening(max_pixels=100).embed_images(DATA)
    with pytest.raises(UnsupportedError, match=r"max_pixels is 1\.5"):
        model.opening(max_pixels=1.5)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="a URL: download it"):
        model.opening(urls=False).embed_images("https://example.org/a.jpg")


def test_an_array_of_one_colour_is_told() -> None:
    with pytest.warns(ImageWarning, match=r"4x6x3>: all its pixels have one colour, #ff8000"):
        images.open(np.full((4, 6, 3), (1.0, 0.5, 0.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images.open(np.linspace(0, 1, 24).reshape(4, 6))
        images.open(np.zeros((4, 6, 3), np.uint8))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits"])
def test_the_limit_of_a_tiff_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB.size // 1000)
    path = tmp_path / "large.tif"
    parts = [Image.fromarray(RGB), Image.fromarray(RGB[:50, :40])]
    parts[0].save(path, save_all=True, append_images=parts[1:], compression=compression)
    with pytest.warns(ImageWarning, match="page 1 of 2"):
        assert_array_equal(images.open(path), RGB)
    assert_array_equal(images.open(f"{path}#2"), RGB[:50, :40])
    with pytest.raises(ImageError, match="raise max_pixels"):
        images.open(f"{path}#2", max_pixels=1999)
