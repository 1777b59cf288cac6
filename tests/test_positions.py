"""Position encodings: against the libraries they come from, by their formulas, and at work."""

import cmath
import functools

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import pytest
import reference_mae
import timm
import torch
from references import scramble
from small_models import shrunk, tiny_bundle, tiny_vit
from timm.layers.pos_embed_sincos import RotaryEmbeddingCat, apply_rot_embed_cat
from torch import Tensor, nn
from torch.testing import assert_close

from patchword import models
from patchword.bundle import Bundle
from patchword.config import ModelConfig, Positions, TextConfig, ViTConfig
from patchword.errors import ConfigError
from patchword.models.vit import VisionTransformer
from patchword.nn.positions import (
    learned,
    pyramid_grids,
    resample,
    rope_2d,
    rotate,
    scaled_average,
    sincos_2d,
)
from patchword.nn.taps import Taps
from patchword.tasks.attention import attention
from patchword.where.dense import EDITS, dense
from patchword.where.heatmap import heatmap

pytestmark = pytest.mark.slow

WIDTH = 24
GRIDS = [(14, 14), (3, 5), (1, 4)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# Fixed sines and cosines.


@pytest.mark.parametrize(("side", "width"), [(14, 768), (2, 4), (16, 1280)])
def test_sincos_equals_the_masked_autoencoders(side: int, width: int) -> None:
    ours = sincos_2d((side, side), width)
    assert torch.equal(ours, reference_mae.sincos(side, width)[1:])
    assert torch.equal(ours, sincos_2d((side + 1, side), width)[: side * side])
    assert not torch.equal(ours, ours.unflatten(0, (side, side)).mT.flatten(0, 1))


def test_widths_that_do_not_divide() -> None:
    with pytest.raises(ConfigError, match="width 30 is no multiple of 4"):
        sincos_2d((2, 2), 30)
    with pytest.raises(ConfigError, match="a head width that is a multiple of 4, not 6"):
        rope_2d((2, 2), 6)


# Rotary.


@pytest.mark.parametrize("grid", GRIDS)
def test_rope_equals_timms(grid: tuple[int, int]) -> None:
    theirs = RotaryEmbeddingCat(WIDTH, in_pixels=False, temperature=100.0, grid_indexing="xy")
    x = torch.randn(2, 3, grid[0] * grid[1], WIDTH)
    expected = apply_rot_embed_cat(x, theirs.get_embed(list(grid)))
    assert_close(rotate(x, rope_2d(grid, WIDTH)), expected)
    other = RotaryEmbeddingCat(WIDTH, in_pixels=False, grid_indexing="xy")
    wrong = apply_rot_embed_cat(x, other.get_embed(list(grid)))
    assert (wrong - expected).abs().max() > 1e-3


@pytest.mark.parametrize("grid", GRIDS)
def test_rope_turns_pairs_as_complex_numbers(grid: tuple[int, int]) -> None:
    x = torch.randn(1, 1, grid[0] * grid[1], WIDTH, dtype=torch.float64)
    pairs = torch.view_as_complex(x[0, 0].unflatten(-1, (-1, 2))).clone()  # (N, d / 2)
    quarter = WIDTH // 4
    for at, turned in enumerate(pairs):
        row, column = divmod(at, grid[1])
        for t in range(quarter):
            rate = 100 ** (-t / quarter)
            turned[t] *= cmath.exp(1j * column * rate)
            turned[quarter + t] *= cmath.exp(1j * row * rate)
    expected = torch.view_as_real(pairs).flatten(-2)
    assert_close(rotate(x.float(), rope_2d(grid, WIDTH))[0, 0], expected.float())


def test_rope_sees_offsets_alone_and_leaves_the_prefix() -> None:
    q, k = torch.randn(2, 1, 1, 1, WIDTH).expand(2, 1, 1, 1 + 30, WIDTH)
    rotary = rope_2d((5, 6), WIDTH, prefix=1)
    q, k = rotate(q, rotary), rotate(k, rotary)
    assert torch.equal(q[..., 0, :], q[..., 1, :])  # at row 0, column 0 nothing turns either
    scores = (q @ k.mT)[0, 0, 1:, 1:].unflatten(0, (5, 6)).unflatten(-1, (5, 6))
    assert_close(scores[1:, 1:, 1:, 1:], scores[:-1, :-1, :-1, :-1])
    assert (scores[1:, :, 1:] - scores[:-1, :, 1:]).abs().max() > 1e-3


@torch.no_grad()
def test_a_rotary_vit_equals_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-S with axial RoPE as Heo et al. published it, made small."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    sizes |= {"num_classes": 5, "dynamic_img_size": True}
    theirs = scramble(timm.create_model("vit_small_patch16_rope_224", **sizes))
    theirs.rope.init_non_persistent_buffers()  # the frequencies are no weights
    ours = VisionTransformer(
        ViTConfig(
            image_size=(32, 32), patch_size=8, width=48, depth=2, heads=3, mlp_width=192,
            positions="rope", layer_scale=True,
        ),
        5,
        head_bias=True,
    )  # fmt: skip
    state = {
        name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): value
        for name, value in theirs.state_dict().items()
    }
    ours.load_state_dict(state)
    for size in ((32, 32), (32, 48)):
        pixels = torch.randn(2, 3, *size)
        assert_close(ours(pixels), theirs(pixels))
    monkeypatch.setattr(ours, "rotary", lambda pixels: None)
    assert (ours(pixels) - theirs(pixels)).abs().max() > 1e-3


# The pyramid.


def test_pyramid_of_the_paper() -> None:
    """128, 64, 32 and 16 pixels below 224, in patches of 16."""
    assert pyramid_grids((14, 14)) == [(8, 8), (4, 4), (2, 2), (1, 1)]
    assert pyramid_grids((3, 5)) == [(2, 3), (1, 2)]
    assert pyramid_grids((5, 3)) == [(3, 2), (2, 1)]
    assert pyramid_grids((1, 4)) == []


@pytest.mark.parametrize("grid", [(14, 14), (3, 5), (8, 8)])
def test_scaled_average_is_the_mean_over_what_a_patch_covers(grid: tuple[int, int]) -> None:
    """In float64, pixel by pixel, at as many pixels a patch as make all borders whole."""
    levels = pyramid_grids(grid)
    fine = 8 * 6 * 5  # divides into whatever pieces the levels have
    base = torch.randn(1, grid[0] * grid[1], 4)
    expected = []
    plane = base[0].double().unflatten(0, grid)
    for rows, columns in levels:
        tall, wide = grid[0] * fine // rows, grid[1] * fine // columns
        down = torch.arange(grid[0] * fine) // fine
        across = torch.arange(grid[1] * fine) // fine
        for i in range(rows):
            lines = plane[down[i * tall : (i + 1) * tall]].mean(dim=0)  # (columns of the base, D)
            for j in range(columns):
                mean = lines[across[j * wide : (j + 1) * wide]].mean(dim=0)
                expected.append(mean * (tall * wide) ** 0.5 / fine)
    assert_close(scaled_average(base, grid, levels)[0], torch.stack(expected).float())


def test_scaled_average_is_as_long_as_what_a_patch_covers_is_wide() -> None:
    unit = torch.full((1, 8 * 8, 16), 0.25)  # all of length 1
    lengths = scaled_average(unit, (8, 8), pyramid_grids((8, 8))).norm(dim=-1)[0]
    assert_close(lengths, torch.tensor([2.0] * 16 + [4.0] * 4 + [8.0]))


@torch.no_grad()
def test_a_pyramid_adds_patches_after_the_images_own() -> None:
    config = ViTConfig(image_size=(24, 24), patch_size=8, width=24, depth=1, heads=2)
    plain = VisionTransformer(config, 0)
    tower = VisionTransformer(ViTConfig(**{**vars(config), "positions": "pyramid"}), 0)
    tower.load_state_dict(plain.state_dict())
    pixels = torch.randn(2, 3, 24, 40)
    tokens, seen = tower.embed(pixels)
    assert seen is None
    assert tokens.shape[1] == 1 + 3 * 5 + 2 * 3 + 1 * 2
    assert_close(tokens[:, :16], plain.embed(pixels)[0])
    grey = pixels * 0 + pixels.mean()  # of one colour, every patch looks the same
    small = tower.embed(grey)[0][:, 16:] - tower._positions((3, 5))[:, 16:]
    assert_close(small, small[:, :1].expand_as(small))


@torch.no_grad()
@pytest.mark.parametrize("positions", ["learned", "sincos", "rope", "pyramid"])
def test_images_of_different_sizes_in_one_batch(positions: Positions) -> None:
    network = models.build(tiny_vit(positions)).eval()
    images = [torch.randn(3, *size) for size in ((48, 48), (32, 64), (64, 16))]
    alone = torch.cat([network(image[None]) for image in images])
    assert_close(network(images), alone)


@pytest.mark.parametrize("positions", ["learned", "rope", "pyramid"])
def test_taps_of_each_kind(positions: Positions) -> None:
    network = models.build(tiny_vit(positions))
    pixels = torch.randn(2, 3, 48, 48)
    count = 1 + 9 + (4 + 1) * (positions == "pyramid")
    taps = Taps(["tokens", "blocks.1.attn", "blocks.0.attn.q", "blocks.0.attn.k"])
    network.image(pixels, taps)
    kept = taps.result()
    assert kept["tokens"].shape == (2, count, 32)
    assert kept["blocks.1.attn"].shape == (2, 2, count, count)
    again = Taps(["blocks.0.attn"])
    network.image(pixels, again)
    scores = kept["blocks.0.attn.q"] @ kept["blocks.0.attn.k"].mT / 16**0.5
    assert_close(again.result()["blocks.0.attn"], scores.softmax(dim=-1))


# At work: in which quadrant is the patch with the pattern?

PATCH, SIDE = 4, 4  # pixels a patch, patches a side


@functools.cache
def quadrants(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise (count, 3, 16, 16) with one patch of a chequered pattern, and its quadrant (count).

    The pattern is as dark as it is bright, so that it vanishes where an image is scaled down.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = 0.3 * torch.randn(count, 3, PATCH * SIDE, PATCH * SIDE, generator=generator)
    pattern = (torch.arange(PATCH)[:, None] + torch.arange(PATCH)) % 2 * 2.0 - 1
    rows, columns = torch.randint(SIDE, (2, count), generator=generator)
    for image, row, column in zip(pixels, rows.tolist(), columns.tolist(), strict=True):
        image.unflatten(2, (SIDE, PATCH)).unflatten(1, (SIDE, PATCH))[:, row, :, column] += pattern
    return pixels, rows // (SIDE // 2) * 2 + columns // (SIDE // 2)


def accuracy(positions: Positions, steps: int = 300, blind: bool = False) -> float:
    """Of a ViT that learns that task, on unseen images, every 10 steps until it is above 90%; by
    chance it would be 25%. blind: its positions are 0 and stay so."""
    side = PATCH * SIDE
    vision = ViTConfig(
        image_size=(side, side), patch_size=PATCH, width=32, depth=2, heads=2, mlp_width=64,
        positions=positions,
    )  # fmt: skip
    network = models.build(ModelConfig(vision, classes=4))
    models.initialise(network)
    if blind:
        network.image.pos_embed.requires_grad_(False).zero_()
    elif isinstance(getattr(network.image, "pos_embed", None), nn.Parameter):
        nn.init.normal_(network.image.pos_embed, std=0.5)  # from 0.02 the way is longer
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    unseen, right = quadrants(256, seed=0)
    found = 0.0
    for step in range(1, steps + 1):
        pixels, where = quadrants(64, seed=step)
        loss = nn.functional.cross_entropy(network(pixels), where)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            with torch.no_grad():
                found = (network(unseen).argmax(dim=1) == right).float().mean().item()
        if found > 0.9:
            break
    return found


@pytest.mark.parametrize("positions", ["learned", "patches", "sincos", "rope", "pyramid"])
def test_a_vit_learns_where_with_each_kind(positions: Positions) -> None:
    assert accuracy(positions) > 0.9


def test_a_pyramid_without_positions_does_not() -> None:
    assert accuracy("pyramid", steps=150, blind=True) < 0.4


@torch.no_grad()
def test_a_vit_without_positions_cannot() -> None:
    """It gives the same answer however the patches are ordered."""
    network = models.build(tiny_vit("learned")).eval()
    pixels = torch.randn(2, 3, 48, 48)
    cells = pixels.unflatten(3, (3, 16)).unflatten(2, (3, 16)).transpose(3, 4)  # (B, 3, 3, 3, ...)
    mixed = cells.flatten(2, 3)[:, :, torch.randperm(9)].unflatten(2, (3, 3))
    mixed = mixed.transpose(3, 4).flatten(4).flatten(2, 3)
    assert (network(mixed) - network(pixels)).abs().max() > 1e-3
    network.image.pos_embed.zero_()
    assert_close(network(mixed), network(pixels))


# Learned.


def test_learned_positions_resample_to_any_grid() -> None:
    positions = learned(1 + 12, 8)
    assert positions.shape == (1, 13, 8)
    assert positions.requires_grad
    assert resample(positions, (3, 4), (6, 2)).shape == (1, 13, 8)
    ramp = torch.arange(4.0).repeat(4)[None, :, None]  # each column its own number
    wide = resample(ramp, (4, 4), (4, 8), prefix=0, mode="bilinear").view(4, 8)
    assert_close(wide[0], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))


# Tasks find the image's own patches among the tokens of each kind.


@pytest.fixture(scope="module")
def pyramid() -> Bundle:
    vision = ViTConfig(positions="pyramid", registers=2, pool="avg")
    return tiny_bundle(shrunk(ModelConfig(vision, text=TextConfig(), embed_dim=512)))


@torch.no_grad()
def test_maps_of_a_pyramid_are_of_the_images_own_patches(pyramid: Bundle) -> None:
    photo = np.random.default_rng(0).integers(0, 255, (90, 60, 3), dtype=np.uint8)
    pixels = torch.from_numpy(pyramid.open(photo, exact=True)[0])[None]
    names = ["image.blocks.1", "image.blocks.1.attn"]
    _, taps = pyramid.network.encode_image(pixels, taps=names)
    own = slice(3, 3 + 9)  # after a class token and two registers; five more follow
    assert taps[names[0]].shape[1] == 3 + 9 + 5
    pixels = pyramid.tensor(pyramid.open(photo, exact=True)[0])
    patches = dense(pyramid, pixels[None], EDITS["cosine"])[0]
    expected = pyramid.network.image.project(taps[names[0]][:, own])[0]
    assert_close(patches, nn.functional.normalize(expected, dim=-1))
    assert heatmap(pyramid, photo, ["a cat"]).values.shape == (1, 90, 60)
    weights = taps[names[1]][0]
    rows = pyramid.image_tower.pooled_attention(weights, (48, 48))
    assert_close(rows, weights[:, 3:, own].mean(dim=1))  # the mean of all levels' patches asks
    assert attention(pyramid, photo).maps.shape == (3, 90, 60)
