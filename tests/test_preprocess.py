"""Preprocess against transformers' and open_clip's own transforms, and Geometry against points."""

import torchvision_cpu  # noqa: F401 -- first: the imports below need it

# isort: split
import numpy as np
import open_clip.transform
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_writers import encoded
from photos import FLOWER, HOPPER, REAL
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    Siglip2ImageProcessorPil,
    get_image_size_for_max_num_patches,
)

import patchword
from patchword import images
from patchword.config import PreprocessConfig
from patchword.errors import ImageError
from patchword.images import Geometry, Preprocess
from patchword.images.preprocess import at_size, whole_patches

pytestmark = pytest.mark.slow

SHAPES = [(224, 224), (225, 224), (223, 400), (37, 640), (480, 11), (1, 300), (5, 3), (333, 227)]


def cut(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """The top left part of a photo, at most as large as asked."""
    return np.ascontiguousarray(photo[:height, :width])


def pictures(paths):
    """Whole photos and, of the first, cuts of odd and extreme shapes."""
    opened = [images.open(path, exact=True) for path in paths]
    return opened + [cut(opened[i], *shape) for i, shape in enumerate(SHAPES)]


@pytest.fixture(scope="module")
def photos():
    return pictures(REAL)


@pytest.mark.parametrize(("size", "resize_to"), [(224, 224), (336, 336), (97, 130), (224, 200)])
def test_equals_transformers(photos, size, resize_to):
    reference = CLIPImageProcessorPil(
        size={"shortest_edge": resize_to}, crop_size={"height": size, "width": size}
    )
    ours = Preprocess(PreprocessConfig(size=(size, size), resize_to=resize_to))
    for photo in photos:
        expected = reference(Image.fromarray(photo), return_tensors="np")["pixel_values"][0]
        pixels, geometry = ours(photo)
        assert pixels.dtype == np.float32
        assert pixels.flags.c_contiguous
        np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-5, err_msg=str(geometry))


def test_exact_equals_transformers_from_the_file_on():
    """Byte for byte with `exact`; a JPEG that is decoded smaller is within 2 levels of 255."""
    demo = patchword.load("demo")
    config = demo.config.preprocess
    size, level = config.size[0], 1 / 255 / config.std[0]
    reference = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size},
        image_mean=config.mean, image_std=config.std,
    )  # fmt: skip
    exact = patchword.load("demo", exact=True)
    for path in (FLOWER, HOPPER):
        expected = reference(Image.open(path), return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(exact.open(path)[0], expected, rtol=0, atol=1e-5)
        moved = np.abs(demo.open(path)[0] - expected) / level
        assert 0.1 < moved.mean() < 1, path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_that_is_decoded_smaller_lies_where_it_lay(tmp_path, orientation):
    """427 pixels at half the size are 213.5 of 214, wherever the side with the half is turned to;
    taken for 214 they would be 3 levels from the whole photo's on average, and up to 168."""
    turned, exif = Image.open(FLOWER).crop((0, 0, 639, 427)), Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "a.jpg", quality=95, exif=exif)
    ours = Preprocess(PreprocessConfig((96, 96), "squash", interpolation="bicubic"))
    whole, small = (images.Opener(exact=e).sized(tmp_path / "a.jpg", at_least=96) for e in (1, 0))
    assert (whole.size, small.size) == (whole.shape, whole.shape)
    assert sorted(small.shape) == [214, 320]
    seen, expected = (ours.seen(photo)[0].astype(int) for photo in (small, whole))
    assert np.abs(seen - expected).mean() < 0.7


def test_a_jpeg_that_is_decoded_to_few_pixels_keeps_its_scale():
    """47 pixels at an eighth of the size are 5.875 of 6, although 47 / 6 is nearer to 7.8."""
    small, exif = Image.new("RGB", (57, 47)), Image.Exif()
    exif[0x0112] = 8
    photo = images.Opener().sized(encoded(small, "JPEG", exif=exif), at_least=2)
    assert (photo.shape, photo.size) == ((8, 6), (57, 47))
    assert photo.box == (0, 8 - 57 / 8, 47 / 8, 8)


@pytest.mark.parametrize("size", [224, 97])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_equals_open_clip(photos, size, interpolation, resize):
    reference = open_clip.transform.image_transform(
        size, is_train=False, resize_mode=resize, interpolation=interpolation
    )
    config = PreprocessConfig((size, size), resize, size, interpolation, crop_rounding="round")
    for photo in photos:
        expected = reference(Image.fromarray(photo)).numpy()
        pixels, geometry = Preprocess(config)(photo)
        np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-5, err_msg=str(geometry))


@pytest.mark.parametrize("interpolation", ["nearest", "lanczos"])
@pytest.mark.parametrize("resize_to", [256, 180])
def test_equals_torchvision(photos, interpolation, resize_to):
    """timm's evaluation transform: a crop smaller than the resized image; here also larger."""
    mean = std = (0.5, 0.5, 0.5)
    reference = transforms.Compose(
        [
            transforms.Resize(resize_to, InterpolationMode(interpolation)),
            transforms.CenterCrop((225, 191)),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    config = PreprocessConfig(
        (225, 191), "shortest", resize_to, interpolation, "round", mean=mean, std=std
    )
    for photo in photos:
        expected = reference(Image.fromarray(photo))
        ours = torch.from_numpy(Preprocess(config)(photo)[0])
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.mark.parametrize("size", [224, 97])
def test_equals_siglips_processor(photos, size):
    reference = SiglipImageProcessorPil(size={"height": size, "width": size})
    ours = Preprocess(PreprocessConfig((size, size), "squash", **HALF))
    for photo in photos:
        expected = reference(Image.fromarray(photo), return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(ours(photo)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("patch", "most"), [(16, 256), (14, 100), (16, 1024), (32, 7)])
def test_equals_naflex(photos, patch, most):
    """SigLIP 2's processor: each image's own shape, cut into patches, padded to the most."""
    reference = Siglip2ImageProcessorPil(patch_size=patch, max_num_patches=most)
    config = PreprocessConfig(
        resize="patches", interpolation="bilinear", max_patches=most, patch_size=patch, **HALF
    )
    shapes = set()
    for photo in photos:
        batch = reference(Image.fromarray(photo), return_tensors="np")
        rows, columns = batch["spatial_shapes"][0]
        pixels, geometry = Preprocess(config)(photo)
        assert pixels.dtype == np.float32
        assert pixels.shape == (3, *geometry.size) == (3, rows * patch, columns * patch)
        assert geometry == Geometry(photo.shape[:2], geometry.size, (0, 0), geometry.size)
        cells = pixels.reshape(3, rows, patch, columns, patch).transpose(1, 3, 2, 4, 0)
        expected = batch["pixel_values"][0][: rows * columns]
        assert batch["pixel_attention_mask"][0].sum() == rows * columns <= most
        np.testing.assert_allclose(cells.reshape(expected.shape), expected, rtol=0, atol=1e-5)
        shapes.add((rows, columns))
    assert len(shapes) > 3


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 30000),
    st.integers(1, 30000),
    st.sampled_from([8, 14, 16, 32]),
    st.sampled_from([1, 2, 9, 20, 64, 256, 576, 1024]),
)
def test_whole_patches_as_transformers_counts_them(height, width, patch, most):
    expected = get_image_size_for_max_num_patches(height, width, patch, most)
    assert whole_patches((height, width), patch, most) == expected


@pytest.mark.parametrize("shape", [(60, 21000), (21000, 60), (1, 65000)])
def test_a_strip_is_computed_only_where_the_crop_sees_it(shape):
    """Resized whole, the last would take 10 GiB; the others are compared with exactly that."""
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    config = PreprocessConfig(mean=(0, 0, 0), std=(1, 1, 1), rescale=1.0)
    pixels, geometry = Preprocess(config)(noise)
    assert min(geometry.resized) == 224
    assert np.prod(geometry.resized) > 1 << 24
    if max(shape) == 21000:
        whole = Image.fromarray(noise).resize(geometry.resized[::-1], Image.Resampling.BICUBIC)
        top, left = geometry.crop
        expected = np.asarray(whole)[top : top + 224, left : left + 224].transpose(2, 0, 1)
        assert np.abs(pixels - expected).max() <= 1  # levels of 255


def test_at_least():
    assert Preprocess(PreprocessConfig(resize_to=256)).at_least == 256
    assert Preprocess(PreprocessConfig((224, 448), "squash")).at_least == 448


@given(st.integers(0, 3000), st.sampled_from([14, 16]), st.sampled_from([9, 20, 256, 1024]))
def test_at_least_of_whole_patches(more, patch, most):
    """A source with that shorter side grows by less than a patch, and a square of it not at all."""
    ours = Preprocess(PreprocessConfig(resize="patches", max_patches=most, patch_size=patch))
    least = ours.at_least
    assert least**2 >= most * patch**2 > (least - 1) ** 2
    assert max(ours.geometry(least, least).size) <= least
    source = (least, least + more)
    pairs = zip(ours.geometry(*source).size, source, strict=True)
    assert all(new < old + patch for new, old in pairs)


def test_at_size():
    crop = PreprocessConfig((224, 224), "shortest", 256)
    assert at_size(crop, 448) == PreprocessConfig((448, 448), "shortest", 512)
    assert at_size(crop, (224, 448)).resize == "squash"
    native = PreprocessConfig(resize="patches", max_patches=256, patch_size=16)
    assert at_size(native, 512).max_patches == 1024
    assert at_size(native, (160, 320)).max_patches == 200
    assert at_size(native, 512).resize == "patches"


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_refuses_what_is_not_rgb(bad):
    with pytest.raises(ImageError, match=r"images\.open"):
        Preprocess(PreprocessConfig())(bad)


def test_geometry_finds_a_dot_again():
    """A bright pixel of the input, sent back as a map, lies where it was in the source."""
    source = np.zeros((300, 500, 3), np.uint8)
    source[100:104, 300:304] = 255
    config = PreprocessConfig((224, 224), resize_to=240)
    pixels, geometry = Preprocess(config)(source)
    back = geometry.to_source(pixels[:1])
    assert back.shape == (1, 300, 500)
    assert back.dtype == np.float32
    row, column = np.unravel_index(np.nanargmax(back[0]), (300, 500))
    assert 99 <= row <= 104
    assert 299 <= column <= 304


def test_geometry_marks_what_the_crop_cut_off():
    """300x500 to 224: a centre square of 300 source pixels is seen, 100 columns a side are not."""
    geometry = Preprocess(PreprocessConfig()).geometry(300, 500)
    back = geometry.to_source(np.ones((2, 7, 7)))
    seen = ~np.isnan(back)
    assert seen.all(axis=(0, 1)).sum() == pytest.approx(300, abs=2)
    assert not seen[:, :, :98].any()
    assert not seen[:, :, -98:].any()
    assert np.nanmin(back) == np.nanmax(back) == 1


def test_geometry_of_cells_that_do_not_divide_the_input():
    """Four cells of 8 pixels in 35: their centres lie at 4, 12, 20, 28."""
    geometry = Geometry(source=(70, 35), resized=(35, 35), crop=(0, 0), size=(35, 35))
    back = geometry.to_source(np.broadcast_to([4.0, 12, 20, 28], (4, 4)), cell=8)
    np.testing.assert_allclose(back[0], np.clip(np.arange(35) + 0.5, 4, 28), rtol=1e-6)
    back = geometry.to_source(np.broadcast_to([[4.0], [12], [20], [28]], (4, 4)), cell=8)
    np.testing.assert_allclose(back[:, 0], np.clip((np.arange(70) + 0.5) / 2, 4, 28), rtol=1e-6)
    assert (back != geometry.to_source(np.broadcast_to([[4.0], [12], [20], [28]], (4, 4)))).any()


def test_geometry_ignores_added_black():
    """An image smaller than the crop: the map's border, over the black, is not the image's."""
    geometry = Geometry(source=(10, 10), resized=(10, 10), crop=(-5, -5), size=(20, 20))
    values = np.zeros((20, 20))
    values[5:15, 5:15] = np.arange(100).reshape(10, 10)
    np.testing.assert_array_equal(geometry.to_source(values), np.arange(100).reshape(10, 10))


side = st.integers(1, 400)


@settings(max_examples=60, deadline=None)
@given(side, side, st.integers(1, 30), st.integers(1, 30), st.sampled_from(["shortest", "squash"]))
def test_a_ramp_goes_back_to_a_ramp(height, width, rows, columns, resize):
    """A grid that holds its own cells' centres in source pixels comes back as pixel coordinates,
    between the outermost centres."""
    config = PreprocessConfig((32, 48), resize, resize_to=48)
    geometry = Preprocess(config).geometry(height, width)
    for axis, cells in ((0, rows), (1, columns)):
        scale = geometry.source[axis] / geometry.resized[axis]
        input_centres = (np.arange(cells) + 0.5) * geometry.size[axis] / cells
        centres = (input_centres + geometry.crop[axis]) * scale  # in source pixels
        grid = np.broadcast_to(centres if axis else centres[:, None], (rows, columns))
        back = geometry.to_source(grid)
        assert back.shape == (height, width)
        middle = np.arange(geometry.source[axis]) + 0.5
        line = np.fmax.reduce(back, axis=1 - axis)  # NaN only where the crop shows nothing
        inside = (middle >= centres[0]) & (middle <= centres[-1]) & ~np.isnan(line)
        np.testing.assert_allclose(line[inside], middle[inside], rtol=1e-4, atol=1e-3)
