"""Dense edits against their formulas in float64, on tiny random towers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense_formulas import Reference
from small_models import tiny_bundle, tiny_clip, tiny_clip_resnet
from torch import Tensor
from torch.testing import assert_close

from patchword import models
from patchword.config import ViTConfig
from patchword.errors import UnsupportedError
from patchword.models.dense import earlier_blocks, scaled_block, summed_blocks
from patchword.models.edits import Calibration, Earlier, Refined
from patchword.models.scclip import repair
from patchword.models.vit import VisionTransformer
from patchword.nn.positions import resample
from patchword.nn.taps import Taps
from patchword.where.cost import least
from patchword.where.dense import EDITS, dense
from patchword.where.heatmap import cosines
from patchword.where.maskclip import refined
from patchword.where.pamr import pamr
from patchword.where.resclip import blurred, majority, same_label

GRID = (6, 7)
LAST = ("cosine", "maskclip", "maskclip-paper", "sclip", "clearclip", "value", "naclip", "nonly")


@pytest.fixture(scope="module")
def tower() -> VisionTransformer:
    """A ViT of 12 blocks whose attention is far from uniform."""
    torch.manual_seed(0)
    vision = ViTConfig(
        image_size=(6 * 8, 7 * 8), patch_size=8, width=32, depth=12, heads=2, mlp_width=64,
        activation="quick_gelu", pre_norm=True,
    )  # fmt: skip
    tower = VisionTransformer(vision, 16, head_bias=True).eval()
    with torch.no_grad():
        for name, value in tower.named_parameters():
            if "qkv" in name:
                value.normal_(std=0.3)
            elif "norm" in name or "bias" in name:
                value.add_(0.2 * torch.randn_like(value))
    return tower


@pytest.fixture(scope="module")
def reference(tower: VisionTransformer) -> Reference:
    return references(tower)[0]


def pixels(count: int = 2) -> Tensor:
    shape = (count, 3, 8 * GRID[0], 8 * GRID[1])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def references(tower: VisionTransformer) -> list[Reference]:
    """Of each of the images, from what enters each block in float64."""
    double = VisionTransformer(tower.config, 16, head_bias=True).eval().double()
    double.load_state_dict(tower.state_dict())
    names = ["tokens", *(f"blocks.{i}" for i in range(tower.config.depth - 1))]
    taps = Taps(names)
    double.encode(pixels().double(), taps)
    kept = taps.result()
    each = range(len(pixels()))
    return [Reference(tower, [kept[n][i].numpy() for n in names], GRID) for i in each]


@torch.no_grad()
@pytest.mark.parametrize("method", LAST)
def test_edits_of_the_last_block(
    tower: VisionTransformer, reference: Reference, method: str
) -> None:
    actual = tower.dense(pixels()[:1], EDITS[method])[0]
    assert_close(actual.double(), torch.from_numpy(reference.last(method)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("method", ["gem", "surgery"])
def test_edits_of_several_blocks(
    tower: VisionTransformer, reference: Reference, method: str
) -> None:
    actual = tower.dense(pixels()[:1], EDITS[method])[0]
    expected = torch.from_numpy(reference.parallel(method))
    assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("method", [*LAST, "gem", "surgery"])
def test_edits_before_pooling_by_attention(method: str) -> None:
    """Without a class token, of four heads, on another grid than the tower's own."""
    torch.manual_seed(3)
    vision = ViTConfig(
        image_size=(32, 32), patch_size=8, width=32, depth=3, heads=4, mlp_width=48,
        activation="quick_gelu", pool="map", class_token=False,
    )  # fmt: skip
    tower = VisionTransformer(vision, 16, head_bias=True).eval()
    for name, value in tower.named_parameters():
        if "qkv" in name:
            value.normal_(std=0.3)
    own = replace(EDITS[method], positions="own")
    features = tower.dense(pixels(), own)
    for image, reference in zip(features, references(tower), strict=True):
        several = method in ("gem", "surgery")
        expected = reference.parallel(method) if several else reference.last(method)
        assert_close(image.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_self_calibration(tower: VisionTransformer) -> None:
    features = tower.dense(pixels(), EDITS["scclip"])
    for image, reference in zip(features, references(tower), strict=True):
        expected = torch.from_numpy(reference.calibrated(30))
        assert_close(image.double(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_of_earlier_blocks(tower: VisionTransformer, reference: Reference) -> None:
    actual = tower.dense(pixels()[:1], replace(EDITS["resclip"], semantic=None))[0]
    expected = torch.from_numpy(reference.residual_cross())
    assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("method", [name for name in EDITS if name != "attnpool"])
def test_two_images_are_two_times_one(method: str) -> None:
    """On another grid than the tower's own, too."""
    model = tiny_bundle(tiny_clip())
    patch = model.config.image_tower.patch_size
    texts = F.normalize(
        torch.randn(3, model.dim, generator=torch.Generator().manual_seed(2)), dim=1
    )
    x = torch.randn(2, 3, 6 * patch, 7 * patch, generator=torch.Generator().manual_seed(3))
    both = dense(model, x, EDITS[method], texts)
    assert both.shape == (2, 42, model.dim)
    assert_close(both.norm(dim=-1), torch.ones(2, 42))
    for i in (0, 1):
        assert_close(dense(model, x[i : i + 1], EDITS[method], texts)[0], both[i])


@torch.no_grad()
@pytest.mark.parametrize("method", [*(m for m in LAST if m != "maskclip-paper"), "attnpool"])
def test_a_resnets_pooling(method: str) -> None:
    """Values of places without positions; queries and keys with them, but of "attnpool"; and the
    mean beside."""
    model = tiny_bundle(tiny_clip_resnet())
    tower = model.network.image
    x = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(4))
    seen: list[Tensor] = []
    handle = tower.layer4.register_forward_hook(lambda *a: seen.append(a[2].detach()))
    actual = tower.dense(x, EDITS[method])[0]
    handle.remove()
    plain = seen[0].flatten(2).mT[0].double()  # (n, C)
    plain = torch.cat([plain.mean(0, keepdim=True), plain])
    placed = plain + resample(tower.attnpool.pos_embed, tower.attnpool.grid, (3, 2))[0].double()
    layer = tower.attnpool.attn
    weight, bias = layer.qkv.weight.double(), layer.qkv.bias.double()
    width, d = plain.shape[1], plain.shape[1] // layer.heads
    asking = plain if method == "attnpool" else placed
    q, k, v = (asking @ weight.T + bias).split(width, -1)
    if method != "cosine":
        v = plain @ weight[2 * width :].T + bias[2 * width :]
    at = torch.tensor([(y, x) for y in range(3) for x in range(2)]).double()
    near = F.pad(torch.exp(-((at[:, None] - at) ** 2).sum(-1) / 50), (1, 0, 1, 0))
    pairs = zip(q.split(d, -1), k.split(d, -1), strict=True)
    apart = [a.norm(dim=-1).outer(b.norm(dim=-1)).mean() for a, b in pairs]
    heads = []
    for a, b, c in zip(q.split(d, -1), k.split(d, -1), v.split(d, -1), strict=True):
        maps = {
            "maskclip": torch.eye(7).double(),
            "sclip": sum(torch.softmax(z @ z.T * d**-0.5, -1) for z in (a, b)),
            "clearclip": torch.softmax(a @ a.T * d**-0.5, -1),
            "naclip": torch.softmax(b @ b.T * d**-0.5 + near, -1),
            "nonly": torch.softmax(sum(apart) / len(apart) * d**-0.5 * near, -1),
            "value": torch.softmax(c @ c.T * d**-0.5, -1),
            "cosine": torch.softmax(a @ b.T * d**-0.5, -1),
        }
        heads.append(maps.get(method, maps["cosine"]) @ c)
    merged = torch.cat(heads, -1)
    expected = merged @ layer.proj.weight.double().T + layer.proj.bias.double()
    assert_close(actual.double(), expected[1:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("least", "unsure"), [(0.5, 1.0), (0.5, 0.0), (0.0, 0.6)])
def test_keys_smooth_what_texts_share(
    tower: VisionTransformer, reference: Reference, least: float, unsure: float
) -> None:
    """MaskCLIP's refinements, patch by patch in float64."""
    plan = Refined(least, unsure, 20.0)
    features, keys = tower.dense_keys(pixels()[:1], EDITS["maskclip-keys"])
    texts = F.normalize(torch.randn(4, 16, generator=torch.manual_seed(5)), dim=-1)
    actual = refined(F.normalize(features, dim=-1) @ texts.mT, keys, plan)[0]
    expected = torch.from_numpy(reference.smoothed(texts.numpy(), plan))
    assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


def test_what_a_tower_cannot_do_is_said() -> None:
    resnet, clip = tiny_bundle(tiny_clip_resnet()), tiny_bundle(tiny_clip())
    x = torch.randn(1, 3, 64, 64)
    for method in ("gem", "surgery", "scclip", "resclip"):
        with pytest.raises(UnsupportedError, match=r"methods that work: cosine, maskclip, sclip"):
            dense(resnet, x, EDITS[method], torch.zeros(1, resnet.dim))
    with pytest.raises(UnsupportedError, match="more than 31 patches, not 25"):
        dense(clip, torch.randn(1, 3, 80, 80), EDITS["scclip"])
    with pytest.raises(UnsupportedError, match="needs texts"):
        dense(clip, x, EDITS["resclip"])
    with pytest.raises(UnsupportedError, match="attention pooling of a CLIP ResNet"):
        dense(clip, x, EDITS["attnpool"])
    with pytest.raises(UnsupportedError, match="give two or more"):
        cosines(clip, torch.ones(1, clip.dim), "maskclip-keys", x)


@pytest.mark.parametrize("depth", [1, 2, 6, 12, 24])
def test_blocks_are_counted_as_of_twelve(depth: int) -> None:
    plan, before = Calibration(), Earlier()
    blocks = [*earlier_blocks(before, depth), *summed_blocks(plan, depth)]
    assert all(0 <= block < depth for block in (*blocks, scaled_block(plan.likeness, depth)))
    assert len(earlier_blocks(before, depth)) >= 1
    assert len(summed_blocks(plan, depth)) >= 1
    if depth == 24:
        assert earlier_blocks(before, depth) == range(10, 18)
        assert summed_blocks(plan, depth) == range(6, 20)
        assert scaled_block(8, depth) == 16


def test_repair_by_hand() -> None:
    x = torch.arange(12.0).reshape(12, 1)  # 3 x 4
    wrong = torch.zeros(12, dtype=torch.bool)
    wrong[[0, 5]] = True
    actual = repair(x, wrong, (3, 4)).flatten()
    assert actual[0] == (1 + 4) / 2
    assert_close(actual[5], torch.tensor((1 + 2 + 4 + 6 + 8 + 9 + 10) / 7))
    alone = torch.ones(12, dtype=torch.bool)
    assert_close(repair(x, alone, (3, 4)), x)


def test_which_patches_are_together() -> None:
    """By loops over pairs, as the rule says it."""
    labels = torch.tensor([[0, 0, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0]])
    actual = same_label(labels, paths=True)
    places = [(y, x) for y in range(3) for x in range(4)]
    for i, (y0, x0) in enumerate(places):
        for j, (y1, x1) in enumerate(places):
            apart = max(abs(y1 - y0), abs(x1 - x0))
            steps = [t / 3 for t in range(apart + 1)]
            line = [(round(y0 + t * (y1 - y0)), round(x0 + t * (x1 - x0))) for t in steps]
            whole = all(labels[at] == labels[y0, x0] for at in line)
            value = (1 if whole else np.exp(-apart / 3)) * (labels[y0, x0] == labels[y1, x1])
            assert actual[i, j] == pytest.approx(float(value), rel=1e-5)
    assert_close(
        same_label(labels, paths=False), (labels.flatten()[:, None] == labels.flatten()).float()
    )
    assert_close(blurred(actual).sum(-1), torch.ones(12))


def test_the_label_of_most_pixels() -> None:
    labels = torch.tensor([[3, 3, 1, 2], [3, 1, 2, 1], [0, 1, 5, 5], [1, 0, 5, 0]])
    assert majority(labels, (2, 2)).tolist() == [[3, 1], [0, 5]]


@pytest.mark.parametrize("count", [2, 19])
def test_refinement_by_hand(count: int) -> None:
    """One step of one dilation, pixel by pixel, in float64: of few maps, and of many."""
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(1, 3, 5, 6, generator=generator).double()
    maps = torch.rand(1, count, 5, 6, generator=generator).double()
    actual = pamr(image, maps, steps=1, dilations=(2,))
    for y in range(5):
        for x in range(6):
            steps = [(a, b) for a in (-2, 0, 2) for b in (-2, 0, 2) if (a, b) != (0, 0)]
            at = [(min(max(y + a, 0), 4), min(max(x + b, 0), 5)) for a, b in steps]
            around = torch.stack([image[0, :, i, j] for i, j in at], -1)
            spread = torch.cat([around, image[0, :, y, x, None]], -1).std(-1)
            away = ((around - image[0, :, y, x, None]).abs() / (1e-8 + 0.1 * spread[:, None])).mean(
                0
            )
            weights = torch.softmax(-away, 0)
            for t in range(count):
                expected = sum(w * maps[0, t, i, j] for w, (i, j) in zip(weights, at, strict=True))
                assert float(actual[0, t, y, x]) == pytest.approx(float(expected), rel=1e-9)


def test_positions_with_an_offset() -> None:
    """As DINO's `interpolate_pos_encoding`: not what the grid alone would give."""
    own = torch.randn(1, 1 + 9, 4, generator=torch.Generator().manual_seed(6))
    actual = resample(own, (3, 3), (5, 4), 1, "bicubic", False, 0.1)
    body = own[:, 1:].reshape(1, 3, 3, 4).permute(0, 3, 1, 2)
    expected = F.interpolate(body, scale_factor=(5.1 / 3, 4.1 / 3), mode="bicubic")
    assert_close(actual[:, 1:], expected.flatten(2).mT)
    assert_close(actual[:, :1], own[:, :1])
    assert (actual - resample(own, (3, 3), (5, 4))).abs().max() > 1e-3


def test_the_last_block_is_not_run_for_nothing() -> None:
    """An edit of the last block never runs that block as it is."""
    model = tiny_bundle(tiny_clip())
    tower, ran = model.network.image, []
    handle = tower.blocks[-1].register_forward_hook(lambda *_: ran.append(1))
    tower.dense(torch.randn(1, 3, 64, 64), EDITS["naclip"])
    assert not ran
    tower.encode(torch.randn(1, 3, 64, 64))
    assert ran
    handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("pool", ["cls", "distilled", "norm_avg"])
def test_one_pass_gives_patches_and_the_image(pool: str) -> None:
    torch.manual_seed(0)
    vision = ViTConfig((48, 56), 8, 32, depth=3, heads=2, mlp_width=64, pool=pool)
    tower = VisionTransformer(vision, 16).eval()
    patches, whole = tower.dense_pooled(pixels(), EDITS["surgery"])
    assert_close(patches, tower.dense(pixels(), EDITS["surgery"]))
    assert_close(whole, tower(pixels()))


def test_the_least_that_a_map_can_cost() -> None:
    """Counted by hand: GEM attends six times in each block beside the network, whose last block's
    own attention and MLP it does not run."""
    config = tiny_clip()
    vision = config.image_tower
    depth, width, tokens = vision.depth, vision.width, 1 + vision.grid[0] * vision.grid[1]
    patches = 3 * vision.patch_size**2 * width * (tokens - 1)
    qkv, out, mlp = (n * width * tokens for n in (3 * width, width, 2 * vision.mlp_width))
    attention = 2 * tokens**2 * width
    one = qkv + out + mlp + attention
    # Of the last block an encoding computes the class token alone, but all queries.
    last = qkv + (out + mlp + attention) // tokens
    plain = patches + (depth - 1) * one + last + width * config.embed_dim
    edited = min(depth, 6) * (6 * attention + out)
    gem = patches + (depth - 1) * one + qkv + edited + (tokens - 1) * width * config.embed_dim
    network = models.outline(config).eval()
    assert least(network, config, "gem") == pytest.approx(gem / plain, rel=1e-9)
    assert least(network, config, "surgery-features") > least(network, config, "surgery")
    assert least(network, config, "legrad") is None
