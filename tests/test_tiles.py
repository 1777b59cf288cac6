"""AnyRes tiling against transformers' LLaVA-NeXT: canvases, pixels, features, token counts."""

from collections.abc import Iterator
from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import CAT, COLOUR
from PIL import Image
from references import PATCH, SIZE, scramble
from torch.testing import assert_close
from transformers import image_processing_utils
from transformers.models.llava_next import modeling_llava_next
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from patchword import checkpoints, images
from patchword.bundle import Bundle
from patchword.config import PreprocessConfig
from patchword.errors import ImageError, UnsupportedError
from patchword.images import tiles
from patchword.images.preprocess import Preprocess
from patchword.images.tiles import Tiling
from patchword.tasks.encoders import anyres_features, image_tiles, patch_features

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
LLAVA = Preprocess(PreprocessConfig((336, 336), resize_to=336))
SIDES = st.integers(1, 20000)
SIZES = [
    (1, 1), (1, 90), (90, 1), (2, 3), (17, 5), (100, 37), (335, 337), (336, 336), (336, 672),
    (672, 672), (673, 671), (1008, 336), (1009, 335), (480, 640), (640, 480), (900, 30), (31, 2000),
]  # fmt: skip


def theirs(size: int = 336, pinpoints: list[list[int]] = PINPOINTS) -> LlavaNextImageProcessorPil:
    """The processor as hub repositories of LLaVA-NeXT configure it."""
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_grid_pinpoints=pinpoints,
    )


def noise(*size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_default_canvases_are_llava_nexts() -> None:
    assert LlavaNextImageProcessorPil.image_grid_pinpoints == PINPOINTS
    assert [list(canvas) for canvas in tiles.pinpoints((336, 336))] == PINPOINTS


@settings(max_examples=400, deadline=None)
@given(st.tuples(SIDES, SIDES), st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=8))
def test_best_resolution_of_any_candidates(
    size: tuple[int, int], candidates: list[tuple[int, int]]
) -> None:
    expected = image_processing_utils.select_best_resolution(size, candidates)
    assert tiles.select_best_resolution(size, candidates) == expected


@settings(max_examples=400, deadline=None)
@given(st.tuples(SIDES, SIDES))
def test_sizes_and_token_counts_of_any_photo(size: tuple[int, int]) -> None:
    plan = tiles.tiling(size, LLAVA)
    canvas = image_processing_utils.select_best_resolution(size, PINPOINTS)
    assert plan.canvas == canvas
    shape = image_processing_utils.get_patch_output_size(
        np.empty((0, *size), np.uint8), canvas, "channels_first"
    )
    assert plan.resized == tuple(shape)
    grid = modeling_llava_next.get_anyres_image_grid_shape(size, PINPOINTS, 336)
    assert plan.grid == tuple(grid)
    cells = torch.arange(24 * 24 * grid[0] * grid[1]).view(1, 24 * grid[0], 24 * grid[1])
    seen = modeling_llava_next.unpad_image(cells, size)[0]
    assert np.array_equal(plan.unpad(cells[0].numpy()), seen.numpy())
    counter = object.__new__(transformers.LlavaNextProcessor)
    counter.image_processor, counter.patch_size = theirs(), 14
    counter.num_additional_image_tokens = 0
    assert plan.tokens((24, 24)) == counter._get_number_of_features(*size, 336, 336)
    assert plan.tokens((24, 24), newline=False) == 24 * 24 + seen.numel()


@pytest.mark.parametrize("size", SIZES)
def test_pixels_of_any_size(size: tuple[int, int]) -> None:
    image = noise(*size)
    expected = theirs()(Image.fromarray(image), return_tensors="pt")
    ours, plan = tiles.cut(image, LLAVA)
    assert_close(torch.from_numpy(ours), expected["pixel_values"][0])
    assert expected["image_sizes"][0].tolist() == list(plan.source)


@pytest.mark.parametrize("path", COLOUR, ids=lambda path: path.name)
def test_pixels_of_photos(path: Path) -> None:
    image = images.open(path, exact=True)
    for turned in (image, np.ascontiguousarray(image.swapaxes(0, 1))):
        expected = theirs()(Image.fromarray(turned), return_tensors="pt")["pixel_values"][0]
        assert_close(torch.from_numpy(tiles.cut(turned, LLAVA)[0]), expected)


def test_other_canvases_filters_and_squashing_towers() -> None:
    image = noise(150, 211)
    canvases = [[96, 48], [144, 144], [48, 192]]
    config = PreprocessConfig((48, 48), resize_to=48, interpolation="bilinear", rescale=1 / 127)
    processor = theirs(48, canvases)
    expected = processor(
        Image.fromarray(image), resample=2, rescale_factor=1 / 127, return_tensors="pt"
    )["pixel_values"][0]
    ours, plan = tiles.cut(image, Preprocess(config), canvases)
    assert plan.grid == (3, 3)
    assert_close(torch.from_numpy(ours), expected)
    squash = Preprocess(PreprocessConfig((48, 48), "squash", 1, "bilinear", rescale=1 / 127))
    assert np.array_equal(tiles.cut(image, squash, canvases)[0], ours)


def test_a_tile_off_by_a_pixel_would_show() -> None:
    image = images.open(CAT, exact=True)
    expected = theirs()(Image.fromarray(image), return_tensors="pt")["pixel_values"][0].numpy()
    ours, plan = tiles.cut(image, LLAVA)
    assert np.abs(np.roll(ours, 1, axis=-1) - expected).max() > 0.1
    assert min(plan.corner) == 0 < max(plan.corner)


def test_merging_puts_tiles_where_they_were() -> None:
    plan = Tiling((60, 90), (60, 90), (30, 30))
    cells = np.arange(4 * 6 * 5).reshape(4, 6, 5)
    parts = [cells[2 * r : 2 * r + 2, 2 * c : 2 * c + 2] for r in range(2) for c in range(3)]
    features = np.stack(parts).reshape(2, 3, 4, 5)
    assert np.array_equal(plan.merge(features, (2, 2)), cells)


# The features that a language model is given.


@pytest.fixture(scope="module")
def llava(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[torch.nn.Module, LlavaNextImageProcessorPil, Bundle]]:
    """A tiny LLaVA-NeXT, its processor, and its eye read by patchword."""
    folder = tmp_path_factory.mktemp("llava") / "vision"
    grids = [[rows * SIZE, columns * SIZE] for rows, columns in tiles.GRIDS]
    vision = transformers.CLIPVisionConfig(
        hidden_size=48, intermediate_size=100, num_attention_heads=3, num_hidden_layers=3,
        image_size=SIZE, patch_size=PATCH,
    )  # fmt: skip
    words = transformers.LlamaConfig(
        vocab_size=64, hidden_size=48, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    config = transformers.LlavaNextConfig(
        vision_config=vision, text_config=words, image_grid_pinpoints=grids, image_token_index=1
    )
    model = scramble(transformers.LlavaNextModel(config))
    model.multi_modal_projector = torch.nn.Identity()  # features as the eye gives them
    model.vision_tower.save_pretrained(folder)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    processor.save_pretrained(folder)
    with torch.no_grad():
        yield model, theirs(SIZE, grids), checkpoints.load(folder)


@pytest.mark.parametrize(
    "path", [*COLOUR[:4], (50, 31), (31, 500), (3, 2)], ids=lambda p: getattr(p, "name", str(p))
)
def test_features_and_tokens_as_llava_next_packs_them(
    llava: tuple[torch.nn.Module, LlavaNextImageProcessorPil, Bundle], path: object
) -> None:
    model, processor, ours = llava
    image = noise(*path) if isinstance(path, tuple) else images.open(path, exact=True)
    inputs = processor(Image.fromarray(image), return_tensors="pt")
    (expected,) = model.get_image_features(
        inputs["pixel_values"], inputs["image_sizes"], vision_feature_layer=-2
    ).pooler_output
    seen = anyres_features(ours, image, exact=True)
    assert seen.tiles.shape[:2] == seen.tiling.grid
    grid = torch.from_numpy(seen.unpadded.copy())  # (H, W, D)
    newline = model.image_newline.expand(len(grid), 1, -1)
    tokens = torch.cat([grid, newline], dim=1).flatten(0, 1)
    assert_close(torch.cat([torch.from_numpy(seen.thumbnail), tokens]), expected)
    assert len(expected) == seen.tiling.tokens(seen.patches)
    wrong = anyres_features(ours, image, layer=-1, exact=True)
    assert np.abs(wrong.thumbnail - seen.thumbnail).max() > 0.1


def test_a_thumbnail_is_the_photo_squashed(
    llava: tuple[torch.nn.Module, LlavaNextImageProcessorPil, Bundle],
) -> None:
    *_, model = llava
    image = images.open(CAT, exact=True)
    whole = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    seen = anyres_features(model, image, norm=True, layer=-1)
    assert_close(seen.thumbnail, patch_features(model, [whole], -1, norm=True)[0])


def test_a_jpeg_is_decoded_no_larger_than_the_canvas_needs(
    llava: tuple[torch.nn.Module, LlavaNextImageProcessorPil, Bundle], tmp_path: Path
) -> None:
    *_, model = llava
    smooth = np.linspace(0, 255, 1600).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(smooth, (1200, 1))] * 3, -1)).save(tmp_path / "large.jpg")
    fast, plan = image_tiles(model, tmp_path / "large.jpg")
    whole, exactly = image_tiles(model, tmp_path / "large.jpg", exact=True)
    assert exactly.source == (1200, 1600)
    assert max(plan.source) < 400
    assert plan.canvas == exactly.canvas
    assert np.abs(fast - whole).max() < 0.1


# What cannot be done is said.


def test_bad_canvases() -> None:
    image = noise(40, 40)
    with pytest.raises(UnsupportedError, match="empty"):
        tiles.cut(image, LLAVA, [])
    for canvas in ([336], [336, 0], [336, 336, 3], [336.0, 672], 336):
        with pytest.raises(UnsupportedError, match="a canvas is"):
            tiles.cut(image, LLAVA, [canvas])
    with pytest.raises(UnsupportedError, match="do not fill a canvas"):
        tiles.cut(image, LLAVA, [[336, 500]])
    native = Preprocess(PreprocessConfig(resize="patches", max_patches=16))
    with pytest.raises(UnsupportedError, match="their own shapes"):
        tiles.cut(image, native)
    with pytest.raises(UnsupportedError, match="size of a photo"):
        tiles.select_best_resolution((0, 40), PINPOINTS)


def test_bad_images(
    llava: tuple[torch.nn.Module, LlavaNextImageProcessorPil, Bundle], tmp_path: Path
) -> None:
    *_, model = llava
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ImageError, match="bad"):
        anyres_features(model, tmp_path / "bad.jpg")
    for task in (image_tiles, anyres_features):
        with pytest.raises(UnsupportedError, match="empty"):
            task(model, CAT, candidates=[])
        with pytest.raises(UnsupportedError, match="a canvas is"):
            task(model, CAT, candidates=[32, 64])
    with pytest.raises(ImageError, match="not RGB uint8"):
        tiles.cut(np.zeros((4, 4), np.uint8), LLAVA)
