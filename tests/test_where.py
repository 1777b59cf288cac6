"""Heatmaps of whole photos: windows, grids, likeness, relevance by gradients, presence."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import ImageDraw
from reference_blip import RETRIEVAL, hugging_face_blip
from small_models import shrunk, tiny_bundle, tiny_clip, tiny_clip_resnet, tiny_vit
from torch import Tensor
from torch.testing import assert_close

import patchword
from patchword import checkpoints, models, variants
from patchword.bundle import Bundle, make
from patchword.cli.heatmap import peaks_table
from patchword.errors import MethodWarning, SameMapWarning, UnsupportedError
from patchword.images.preprocess import Geometry, at_size
from patchword.images.views import tile_sides, views
from patchword.models.protocols import Tokens
from patchword.nn.taps import Taps
from patchword.nn.transformer import run_blocks
from patchword.scenes import scene
from patchword.show import plots
from patchword.show.colours import MAP
from patchword.tasks.attention import attention as attention_of
from patchword.where.auto import usual, warning
from patchword.where.dense import EDITS, dense
from patchword.where.gradients import chefer, legrad
from patchword.where.heatmap import Heatmap, heatmap, resolve
from patchword.where.locate import locate
from patchword.where.presence import ORDINARY, present
from patchword.where.regions import extent
from patchword.where.segment import segment
from patchword.where.windows import Scale, seen_whole, stitched

RNG = np.random.default_rng(0)
DEFECTS = ("a scratch", "particles", "a stain", "an edge chip")


def photo(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def siglip() -> Bundle:
    return tiny_bundle(shrunk(variants.VARIANTS["siglip-base-16-224"].config))


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 300), (300, 30), (12, 600), (3, 3), (97, 64), (64, 64)])
@pytest.mark.parametrize("method", ["value", "legrad", "chefer"])
def test_a_photo_of_any_shape_is_seen_whole(clip: Bundle, shape: tuple, method: str) -> None:
    heat = heatmap(clip, photo(*shape), ["a cat", "a dog"], method)
    assert heat.values.shape == (2, *shape)
    assert np.isfinite(heat.values).all()
    for (value, x, y), grid in zip(heat.peaks(), heat.grid, strict=True):
        assert grid.min() <= value <= grid.max()
        assert 0 <= x < shape[1]
        assert 0 <= y < shape[0]


@pytest.mark.parametrize("shape", [(60, 90), (1000, 700), (96, 96)])
def test_what_is_told_of_a_peak_is_what_is_drawn(
    clip: Bundle, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ring is where x and y say, and the largest value that is told ends the scale."""
    heat = heatmap(clip, photo(*shape), ["a cat", "a dog"], "value", present=0)
    rings: list[tuple[float, float]] = []
    ends: list[tuple[str, str]] = []
    circle, bar = ImageDraw.ImageDraw.circle, plots.colour_bar

    def ring(draw: ImageDraw.ImageDraw, at: tuple[float, float], *rest: int, **more: object):
        rings.append(at)
        circle(draw, at, *rest, **more)

    def scale(*given: object) -> None:
        ends.append(given[2])
        bar(*given)

    monkeypatch.setattr(ImageDraw.ImageDraw, "circle", ring)
    monkeypatch.setattr(plots, "colour_bar", scale)
    heat.picture(each=True)
    zoom = plots.TILE / max(shape)
    for number, (value, x, y) in enumerate(heat.peaks()):
        assert value == heat.at(*plots.shown(heat.image).shape[:2])[number].max()
        assert ends[number][1] == f"{value:.3f}"
        sides = shape[1] * zoom, shape[0] * zoom
        for centre, place, side in zip(rings[2 * number], (x, y), sides, strict=True):
            inside = min(max((place + 0.5) * zoom, plots.RING + 1), side - plots.RING - 2)
            assert abs(centre - inside) <= max(zoom, 1)


def test_windows_are_joined_as_papers_join_them() -> None:
    """Each window's map enlarged, summed where it lies, divided by how many there are: loops."""
    crop = torch.randn(3, 20, 28, generator=torch.Generator().manual_seed(0))

    def run(pixels: Tensor) -> Tensor:
        return F.avg_pool2d(pixels[:, :2], 4)

    starts = [(top, left) for top in (0, 6, 8) for left in (0, 6, 12, 16)]
    actual, cell = stitched(
        lambda top, left: crop[:, top : top + 12, left : left + 12], run, (20, 28), (12, 12), starts
    )
    total, count = torch.zeros(2, 20, 28), torch.zeros(20, 28)
    for top, left in starts:
        maps = run(crop[None, :, top : top + 12, left : left + 12])
        up = F.interpolate(maps, (12, 12), mode="bilinear")[0]
        total[:, top : top + 12, left : left + 12] += up
        count[top : top + 12, left : left + 12] += 1
    assert cell == 1
    assert_close(actual, total / count)
    soft, _ = stitched(
        lambda top, left: crop[:, top : top + 12, left : left + 12], run, (20, 28), (12, 12),
        starts, even=False,
    )  # fmt: skip
    tent = torch.tensor([min(i + 0.5, 11.5 - i) for i in range(12)])
    total, count = torch.zeros(2, 20, 28), torch.zeros(20, 28)
    for top, left in starts:
        maps = run(crop[None, :, top : top + 12, left : left + 12])
        up = F.interpolate(maps, (12, 12), mode="bilinear")[0]
        total[:, top : top + 12, left : left + 12] += up * torch.outer(tent, tent)
        count[top : top + 12, left : left + 12] += torch.outer(tent, tent)
    assert_close(soft, total / count)
    jump, hard = (each.diff(dim=2)[..., 12 - 1].abs().mean() for each in (soft, actual))
    assert jump < 0.5 * hard  # where a window ends


def test_windows_are_whole_patches() -> None:
    """Of a network of 54 pixels, whose patches of 16 leave 6 of them out, a window is 48: each
    patch's value lies where the patch is."""
    config = tiny_clip()
    vision = replace(config.image_tower, image_size=(54, 54))
    preprocess = replace(config.preprocess, size=(54, 54), resize_to=54)
    model = tiny_bundle(replace(config, vision=vision, preprocess=preprocess))
    wide = photo(48, 96)
    seen = []

    def run(pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return F.avg_pool2d(pixels.mean(dim=1, keepdim=True), 16)

    grid = seen_whole(model, wide, run, Scale())
    assert (grid.geometry.resized, grid.values.shape) == ((48, 96), (1, 48, 96))
    means = F.avg_pool2d(torch.cat(list(seen[0].mean(dim=1)), dim=1)[None], 16)[0]
    middles = torch.from_numpy(grid.values[0]).unfold(0, 16, 16).unfold(1, 16, 16)[..., 7:9, 7:9]
    # The middle of a patch is between four pixels, whose values are interpolated: 0.0046 at most.
    assert_close(middles.mean(dim=(2, 3)), means, atol=0.005, rtol=0)


def test_with_a_stride_windows_are_as_in_papers(clip: Bundle) -> None:
    """The last ones moved inward, all counting alike; without one no seam is seen."""
    image, texts = photo(48, 70), ["a cat", "a dog"]
    actual = heatmap(clip, image, texts, "naclip", scale=Scale(48, 16)).grid
    total, count = np.zeros((2, 48, 70)), np.zeros((48, 70))
    for left in (0, 16, 22):
        part = np.ascontiguousarray(image[:, left : left + 48])
        total[:, :, left : left + 48] += heatmap(clip, part, texts, "naclip").values
        count[:, left : left + 48] += 1
    np.testing.assert_allclose(actual, total / count, atol=1e-5)
    soft = heatmap(clip, image, texts, "naclip", scale=Scale(48)).grid
    other = heatmap(clip, image, texts, "naclip", scale=Scale(48, 24, even=False)).grid
    np.testing.assert_array_equal(soft, other)
    assert not np.allclose(soft, heatmap(clip, image, texts, "naclip", scale=Scale(48, 24)).grid)


def test_a_constant_photo_has_the_same_map_in_windows(clip: Bundle) -> None:
    """A photo twice as wide as high, grey: each window sees the same."""
    grey = np.full((48, 96, 3), 90, np.uint8)
    one = heatmap(clip, grey[:, :48], ["a cat"]).at(48, 48)
    both = heatmap(clip, grey, ["a cat"]).at(48, 96)
    np.testing.assert_allclose(both[:, :, :48], one, atol=1e-5)
    np.testing.assert_allclose(both[:, :, 48:], one, atol=1e-5)


def test_the_scale_is_what_was_asked_for(clip: Bundle) -> None:
    heat = heatmap(clip, photo(100, 150), ["a cat"], scale=Scale(48, 32, 64))
    assert heat.geometry == Geometry((100, 150), (64, 96), (0, 0), (64, 96))
    kept = heatmap(clip, photo(100, 150), ["a cat"], scale=Scale(48))
    assert kept.geometry.resized == (100, 150)
    seen: list[tuple[int, int]] = []
    heatmap(clip, photo(100, 150), ["a"], scale=Scale(48), progress=lambda *n: seen.append(n))
    assert seen[-1] == (24, 24)  # 0, 24, 48, 52 by 0, 24, 48, 72, 96, 102
    for said, scale in (
        ("patches are 16 px; take 48", Scale(50)),
        ("leaves gaps between windows of 48", Scale(48, 64)),
        ("stride is 0", Scale(48, 0)),
        ("windows, more than 20,000", Scale(48, 1, 400)),
    ):
        with pytest.raises(UnsupportedError, match=said):
            heatmap(clip, photo(100, 150), ["a cat"], scale=scale)


def test_windows_far_larger_than_the_network_knows_are_told(clip: Bundle) -> None:
    side = clip.config.image_tower.image_size[0]
    with pytest.warns(UserWarning, match=f"trained at {side} px, and maps at 5 times that"):
        heatmap(clip, photo(5 * side, 5 * side), ["a cat"], scale=Scale(5 * side))


def test_many_texts_share_a_canvas_that_fits(clip: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = heatmap(clip, photo(96, 192), ["a cat", "a dog"])
    assert whole.cell == 1
    monkeypatch.setattr("patchword.where.windows.MAX_VALUES", 2 * 48 * 96 // 16)
    small = heatmap(clip, whole.image, ["a cat", "a dog"])
    assert small.cell == 4
    np.testing.assert_allclose(small.at(12, 24), whole.at(12, 24), atol=1e-6)


def test_refined_maps_follow_edges(clip: Bundle) -> None:
    """Two flat halves: refined, a map differs less inside each than it did."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 30:] = 200
    image += RNG.integers(0, 20, image.shape, dtype=np.uint8)
    plain, refined = (heatmap(clip, image, ["a cat"], refine=r) for r in (False, True))
    assert refined.values.shape == plain.values.shape
    assert refined.values[0, :, :22].std() < plain.values[0, :, :22].std()


# --- likeness -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rope", "swin-tiny-7-224", "deit-small-distilled-16", "clip"])
def test_what_looks_like_a_patch(name: str) -> None:
    """For towers without words, too: the patch itself is most like it, whatever the photo."""
    if name == "clip":
        model = tiny_bundle(tiny_clip())
    else:
        config = tiny_vit("rope") if name == "rope" else shrunk(variants.VARIANTS[name].config)
        torch.manual_seed(0)
        network = models.build(config)
        models.initialise(network)
        model = make(network, config, None, "tiny")
    side = model.preprocess.config.size[0]
    image = photo(side, side)
    heat = heatmap(model, image, like=(side - 2, 1), method="cosine")
    assert heat.grid[0, 0, -1] == pytest.approx(1, abs=1e-5)
    assert heat.grid.max() <= 1 + 1e-5
    other = heatmap(model, image[:, ::-1].copy(), like=(side - 2, 1), like_image=image)
    assert other.values.shape == (1, side, side)


def test_likeness_and_texts_contradict(clip: Bundle) -> None:
    image = photo(48, 48)
    for said, options in (
        ("takes no texts", {"texts": ["a cat"], "like": (1, 1)}),
        ("no pixel 48, 0: the photo is 48 x 48", {"like": (48, 0)}),
        ("needs like", {"texts": ["a cat"], "like_image": image}),
        ("takes no texts, and one of cosine", {"like": (1, 1), "method": "legrad"}),
        ("takes no texts, and one of cosine", {"like": (1, 1), "method": "resclip"}),
        ("takes no texts, and one of cosine", {"like": (1, 1), "method": "maskclip-keys"}),
        ("at least one text, or like", {}),
        ("without words", {"texts": ["a cat", " "]}),
        ("layer is of methods gradcam, legrad, chefer", {"texts": ["a"], "layer": 1}),
        ("no layer 7: tiny has layers 0 to 1", {"texts": ["a"], "method": "chefer", "layer": 7}),
        ("it is a probability", {"texts": ["a"], "present": 2.0}),
        ("of texts, not of like", {"like": (1, 1), "present": 0.5}),
        ("negatives is empty", {"texts": ["a"], "negatives": []}),
        ("of texts, not of rollout", {"method": "rollout", "present": 0.5}),
        ("of texts, not of rollout", {"method": "rollout", "negatives": ["a dog"]}),
    ):
        with pytest.raises(UnsupportedError, match=said):
            heatmap(clip, image, **options)


@pytest.mark.parametrize(
    ("name", "method", "like"),
    [
        ("swin-tiny-7-224", "cosine", "cosine"),
        ("siglip-base-16-224", "cosine", "cosine"),
        ("clip-vit-base-16", "naclip", "cosine"),
        ("clip-rn50", "maskclip", "maskclip"),
        ("deit-small-distilled-16", "cosine", "cosine"),
    ],
)
def test_the_method_that_auto_is(name: str, method: str, like: str) -> None:
    config = shrunk(variants.VARIANTS[name].config)
    model = make(models.build(config), config, None, "tiny")
    assert resolve(model, "auto") == usual(model)[0] == method
    assert resolve(model, "auto", like=True) == like


def test_auto_is_one_method_for_labels_and_regions_too(clip: Bundle) -> None:
    image = photo(48, 48)
    actual = [
        heatmap(clip, image, "a cat"),
        segment(clip, image, "a cat"),
        locate(clip, image, "a cat"),
        locate(clip, image, "a cat", boxes=[(0, 0, 9, 9)]),
    ]
    assert [each.method for each in actual] == ["naclip"] * 4


def test_a_collapse_that_is_known_is_said() -> None:
    said = [
        name for name, one in variants.VARIANTS.items() if one.config.vision and warning(one.config)
    ]
    assert said
    assert all("336" in name for name in said)


@pytest.mark.filterwarnings("error")
def test_a_collapse_is_said_to_who_asks_for_it(clip: Bundle) -> None:
    config = shrunk(variants.VARIANTS["clip-vit-large-14-336"].config)
    vision = replace(config.vision, depth=24, patch_size=14)
    seen = at_size(config.preprocess, 336)  # whatever the size of the positions
    large = replace(clip, config=replace(config, vision=vision, preprocess=seen))
    for method in ("sclip", "clearclip", "surgery", "surgery-features"):
        for scale in (None, Scale(336)):
            with pytest.warns(MethodWarning, match=r"collapse in a ViT-L/14 at 336 px .* naclip"):
                resolve(large, method, scale=scale)
        resolve(clip, method)
        resolve(large, method, scale=Scale(224))  # which is what the warning says
    for method in ("auto", "naclip", "scclip", "gem"):
        resolve(large, method)


# --- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(300, 300), (40, 200)])
def test_in_tiles_the_greatest_counts_at_each_place(clip: Bundle, shape: tuple[int, int]) -> None:
    """Beside the maps of each size of tiles, which windows of a photo resized to it give."""
    image, texts = photo(*shape), ["a cat", "a dog"]
    size, short = min(clip.preprocess.config.size), min(shape)
    heat = heatmap(clip, image, texts, "naclip", tiles=True)
    sides = tile_sides(shape, size)
    assert sides
    shorts = [round(short * size / side) for side in sides]
    scales = [Scale(), *(Scale(None, size // 2, pixels, even=False) for pixels in shorts)]
    each = [heatmap(clip, image, texts, "naclip", scale=scale) for scale in scales]
    finest = heat.grid.shape[1:]
    assert finest == each[-1].grid.shape[1:]
    expected = np.max([one.at(*finest) for one in each], axis=0)
    np.testing.assert_allclose(heat.at(*finest), expected, atol=1e-5)
    parts = [view.pixels for view in views(image, (size, size))]
    alone = [present(clip.opening(squash=True), part, texts) for part in parts]
    np.testing.assert_allclose(heat.present, np.max(alone, axis=0), rtol=1e-4)
    own = heatmap(clip, image, texts, "naclip", tiles=short // 2)
    half = heatmap(clip, image, texts, "naclip", scale=Scale(None, size // 2, 2 * size, False))
    shown = own.grid.shape[1:]
    both = np.maximum(each[0].at(*shown), half.at(*shown))
    np.testing.assert_allclose(own.at(*shown), both, atol=1e-5)


def test_tiles_of_a_head_are_beside_the_background() -> None:
    """A shape on a photo eight times as large is found where it is, and nothing else."""
    model, one = patchword.load("demo"), scene(91, 0, kind="shapes")
    side = one.image.shape[0]
    large = np.full((6 * side, 6 * side, 3), one.image[0, 0], np.uint8)
    large[2 * side : 3 * side, 3 * side : 4 * side] = one.image
    heat = model.heatmap(large, [one.objects[0].name], tiles=6 * side // 4)
    assert heat.method == "head"
    assert heat.background is not None
    ((_, x, y),) = heat.peaks()
    assert 3 * side <= x < 4 * side
    assert 2 * side <= y < 3 * side
    assert heat.present is not None
    assert heat.present[0] > model.heatmap(large, [one.objects[0].name]).present[0] - 1e-6


def test_tiles_and_windows_contradict(clip: Bundle) -> None:
    with pytest.raises(UnsupportedError, match="leave out window, stride and short_side, or tiles"):
        heatmap(clip, photo(64, 64), ["a cat"], scale=Scale(stride=16), tiles=True)
    with pytest.raises(UnsupportedError, match=r"has 7,744 tiles of 2 pixels, more than 2,000"):
        heatmap(clip, photo(89, 89), ["a cat"], tiles=2)
    with pytest.raises(UnsupportedError, match="tiles is 0; it is True, or the side of a tile"):
        heatmap(clip, photo(64, 64), ["a cat"], tiles=0)


# --- relevance by gradients -----------------------------------------------------------------------


def attention_and_vectors(model: Bundle, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Of each block the map (H, N, N) and its output (N, D), with their graph."""
    tower = model.image_tower
    blocks = tower.attention_layers
    taps = Taps([*(f"{b}.attn" for b in blocks), *blocks])
    tower.encode(pixels.requires_grad_(), taps)
    kept = taps.result()
    return [kept[f"{b}.attn"] for b in blocks], [kept[b] for b in blocks]


def test_legrad_of_a_clip(clip: Bundle) -> None:
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    texts = torch.from_numpy(clip.embed_texts(["a cat", "a dog"]))
    result = legrad(clip, texts, pixels)
    tower = clip.network.image
    for image in range(2):
        maps, outputs = attention_and_vectors(clip, pixels[image : image + 1].clone())
        for t in range(2):
            expected = torch.zeros(9)
            for attention, out in zip(maps, outputs, strict=True):
                vector = tower.head(tower.norm(out[0].mean(0)))
                score = vector @ texts[t] / vector.norm()
                (g,) = torch.autograd.grad(score, attention, retain_graph=True)
                expected += g[0].clamp(min=0).mean((0, 1))[1:]
            assert_close(result[image, t].flatten(), expected, rtol=1e-4, atol=1e-8)
    assert result.max() > 1e-7


def test_chefer_of_a_clip(clip: Bundle) -> None:
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    texts = torch.from_numpy(clip.embed_texts(["a cat", "a dog"]))
    tower = clip.network.image
    for layer, first in ((None, 1), (0, 0)):
        result = chefer(clip, texts, pixels, layer)
        maps, outputs = attention_and_vectors(clip, pixels.clone())
        vector = tower.head(tower.norm(outputs[-1][0, 0]))
        for t in range(2):
            logit = clip.scale * vector @ texts[t] / vector.norm()
            total = torch.eye(10)
            for attention in maps[first:]:
                (g,) = torch.autograd.grad(logit, attention, retain_graph=True)
                total = total + (g * attention).clamp(min=0)[0].mean(0).detach() @ total
            assert_close(result[0, t].flatten(), total[0, 1:], rtol=1e-4, atol=1e-8)
    assert result.max() > 1e-6


def test_relevance_of_towers_that_pool_by_attention(siglip: Bundle) -> None:
    """LeGrad's: the gradient of the pooling's attention, for each block; Chefer's: its row."""
    size = siglip.preprocess.config.size
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    texts = torch.from_numpy(siglip.embed_texts(["a cat"]))
    tower = siglip.network.image
    _, outputs = attention_and_vectors(siglip, pixels.clone())
    expected = torch.zeros(9)
    for out in outputs:
        taps = Taps(["attn"])
        vector = tower.attn_pool(tower.norm(out), None, taps)[0]
        (g,) = torch.autograd.grad(
            vector @ texts[0] / vector.norm(), taps.result()["attn"], retain_graph=True
        )
        expected += g[0, :, 0].clamp(min=0).mean(0)
    actual = legrad(siglip, texts, pixels)[0, 0].flatten()
    assert_close(actual, expected, rtol=1e-4, atol=1e-8)
    assert expected.max() > 1e-7
    assert chefer(siglip, texts, pixels).shape == (1, 1, 3, 3)


def test_relevance_of_a_resnet_and_of_a_swin() -> None:
    resnet = tiny_bundle(tiny_clip_resnet())
    texts = torch.from_numpy(resnet.embed_texts(["a cat"]))
    for method in (legrad, chefer):
        actual = method(resnet, texts, torch.randn(2, 3, 96, 64))
        assert actual.shape == (2, 1, 3, 2)
        assert actual.min() >= 0
    config = shrunk(variants.VARIANTS["swin-tiny-7-224"].config)
    swin = make(models.build(config), config, None, "tiny-swin")
    with pytest.raises(UnsupportedError, match="attends inside windows"):
        legrad(swin, texts, torch.randn(1, 3, 64, 64))


# --- what is in the photo at all ------------------------------------------------------------------


def test_presence_against_negatives(clip: Bundle) -> None:
    image = photo(48, 48)
    texts = ["a cat", "a wafer"]
    row = clip.embed_images([image])[0]
    for negatives in (None, ["a dog"]):
        heat = heatmap(clip, image, texts, negatives=negatives)
        for text, told, seen in zip(texts, heat.present, heat.found, strict=True):
            others = [word for word in ORDINARY if word not in text.split()]
            assert len(others) == len(ORDINARY) - (text == "a cat")
            against = clip.embed_texts(negatives or others) @ row
            logits = clip.scale * np.array([(clip.embed_texts(text) @ row)[0], *against])
            expected = np.exp(logits[0] - logits.max()) / np.exp(logits - logits.max()).sum()
            assert told == pytest.approx(float(expected), rel=1e-4)
            assert seen == (told >= (0.1 if negatives is None else 0.5))
    assert heatmap(clip, image, texts, present=0).found == (True, True)
    assert heatmap(clip, image, like=(3, 3)).present is None


def test_presence_of_a_siglip_and_a_blip(siglip: Bundle, tmp_path: object) -> None:
    """A BLIP's cosine tells more than its matching head, to which a thing alone is no caption."""
    image = photo(48, 48)
    heat = heatmap(siglip, image, ["a cat"], present=0.5)
    cosine = float((siglip.embed_images([image]) @ siglip.embed_texts(["a cat"]).T)[0, 0])
    logit = siglip.scale * cosine + siglip.bias
    assert heat.present[0] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-4)
    blip = checkpoints.load(hugging_face_blip(tmp_path / "blip", RETRIEVAL).path)
    shown = [heatmap(blip, image, ["a cat"], way).present[0] for way in ("value", "gradcam")]
    against = blip.embed_texts([word for word in ORDINARY if word != "cat"])
    cosines = np.array([*blip.embed_texts("a cat"), *against]) @ blip.embed_images([image])[0]
    expected = 1 / np.exp(blip.scale * (cosines - cosines[0])).sum()
    assert shown == pytest.approx([float(expected)] * 2, rel=1e-4)


@pytest.mark.parametrize("name", ["demo", "demo-blip"])
def test_what_is_not_there_is_not_found_without_a_head(name: str) -> None:
    """Of 20 unseen scenes, by the method that works without one: docs/benchmarks.md has more."""
    model = patchword.load(name)
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for index in range(10):
        for kind, texts in (("wafer", DEFECTS), ("shapes", ("a red ring", "a green star"))):
            seen = scene(97, index, kind=kind)
            there = [thing.name for thing in seen.objects]
            asked = [*dict.fromkeys([*there, *texts])]
            actual = heatmap(model, seen.image, asked, "value").found
            for text, told in zip(asked, actual, strict=True):
                hits[text in there].append(told)
    assert np.mean(hits[True]) >= 0.8
    assert np.mean(hits[False]) <= 0.1


def test_a_line_runs_around_what_was_found() -> None:
    """By a head where a map is above the background's, without one above half of the way."""
    geometry = Geometry((96, 96), (96, 96), (0, 0), (96, 96))
    grid = np.zeros((1, 12, 12), np.float32)
    grid[0, 4:8, 4:8] = 1
    background = np.full((12, 12), 0.25, np.float32)
    image = np.full((96, 96, 3), 120, np.uint8)
    sizes = []
    for below in (None, background):
        actual = Heatmap(image, ("a",), grid, geometry, 8, "value", None, 0.0, below)
        flat = None if below is None else np.full((96, 96), 0.25, np.float32)
        inside = extent(actual.values[0], grid[0], flat)
        np.testing.assert_array_equal(inside, actual.values[0] > (0.5 if below is None else 0.25))
        sizes.append(inside.sum())
        light = (np.asarray(actual.picture())[22:382, 404:764] == 255).all(axis=-1)
        rows, columns = np.flatnonzero(light.any(axis=1)), np.flatnonzero(light.any(axis=0))
        box = [np.flatnonzero(inside.any(axis=axis))[[0, -1]] for axis in (1, 0)]
        zoom = 360 / 96
        for line, ends in zip((rows, columns), box, strict=True):
            np.testing.assert_allclose(line[[0, -1]], ends * zoom + [0, zoom], atol=3)
    assert sizes[0] < sizes[1]
    sure = Heatmap(image, ("a",), grid, geometry, 8, "value", (0.9966,), 0.5)
    captions = [tile.caption for tile in sure._tiles(False, MAP, None)]
    terminal = next(iter(peaks_table("", sure).columns[-1].cells))
    assert f"a: {terminal}" in captions
    assert terminal == "99.7%"
    hidden = Heatmap(image, ("a",), grid, geometry, 8, "value", (0.1,), 0.5)
    assert (np.asarray(hidden.picture())[22:382, 404:764] == 120).all()


def test_what_is_not_found_is_not_drawn() -> None:
    """The picture of an absent text is its bare photo; scales are shared, or each own if asked."""
    image = np.full((60, 60, 3), 120, np.uint8)
    grid = np.stack([np.linspace(0, 1, 9).reshape(3, 3), np.linspace(0, 0.1, 9).reshape(3, 3)])
    geometry = Geometry((60, 60), (60, 60), (0, 0), (60, 60))

    def drawn(present: tuple[float, ...] | None, each: bool = False) -> np.ndarray:
        actual = Heatmap(
            image, ("a", "b"), grid.astype(np.float32), geometry, 20, "value", present, 0.5
        )
        return np.asarray(actual.picture(each)).astype(int)

    def colourful(picture: np.ndarray) -> list[bool]:
        """Of each third of the width whether something there is not grey."""
        strips = np.array_split(np.ptp(picture[:300], axis=-1) > 60, 3, axis=1)
        return [bool(strip.mean() > 0.02) for strip in strips]

    assert colourful(drawn((0.9, 0.9))) == [False, True, False]  # b stays below a fifth of a's
    assert colourful(drawn((0.9, 0.9), each=True)) == [False, True, True]
    assert colourful(drawn((0.2, 0.9), each=False)) == [False, False, True]
    assert colourful(drawn((0.2, 0.3))) == [False, False, False]


# --- methods of other kinds -----------------------------------------------------------------------


def test_rollout_is_of_no_text(clip: Bundle, siglip: Bundle) -> None:
    """In float64 from the attention of every layer, SigLIP's pooling with them; the same for every
    text, which is said. The map of all layers' attention is the same."""
    image = photo(64, 64)
    for model in (clip, siglip, tiny_bundle(tiny_clip_resnet())):
        heat = heatmap(model, image, method="rollout")
        assert heat.texts == ("rollout",)
        pixels = torch.from_numpy(model.preprocess(image)[0])[None]
        tower = model.image_tower
        last = ["attn_pool"] if model is siglip else []
        names = [f"image.{name}.attn" for name in (*tower.attention_layers, *last)]
        _, taps = model.network.encode_image(pixels, taps=names)
        layers = [taps[name][0].mean(0).double().detach().numpy() for name in names]
        product = np.eye(layers[0].shape[1])
        for weights in layers:
            square = len(weights) == len(product)
            product = ((weights + np.eye(len(product))) / 2 if square else weights) @ product
        row = product[0, tower.prefix :]
        np.testing.assert_allclose(heat.grid.ravel(), row, rtol=1e-4, atol=1e-7)
        same = attention_of(model, image, rollout=True)
        np.testing.assert_allclose(same.grid, heat.grid, rtol=1e-5, atol=1e-8)
    with pytest.warns(SameMapWarning, match="rollout is of no text"):
        two = heatmap(clip, image, ["a cat", "a dog"], "rollout")
    assert two.texts == ("a cat", "a dog")
    np.testing.assert_array_equal(two.grid[0], two.grid[1])


def test_what_texts_have_in_common_is_subtracted(clip: Bundle) -> None:
    image, texts = photo(64, 64), ["a cat", "a dog", "a wafer"]
    plain = heatmap(clip, image, texts, "surgery").grid
    vectors = clip.embed_texts(texts)
    shares = np.exp(2 * clip.embed_images([image])[0] @ vectors.T)
    weighted = plain * (shares / shares.mean())[:, None, None]
    actual = heatmap(clip, image, texts, "surgery-features").grid
    np.testing.assert_allclose(actual, weighted - weighted.mean(0), atol=1e-5)
    np.testing.assert_allclose(actual.sum(0), 0, atol=1e-6)
    one = heatmap(clip, image, "a cat", "surgery-features").grid
    empty = heatmap(clip, image, "a cat", "surgery").grid - one
    ids = clip.tokenizer([""])
    vector = clip.network.encode_text(torch.from_numpy(ids))[0].detach().numpy()
    features = dense(clip, torch.from_numpy(clip.preprocess(image)[0])[None], EDITS["surgery"])[0]
    expected = features.numpy() @ (vector / np.linalg.norm(vector))
    np.testing.assert_allclose(empty.ravel(), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["siglip2-base-16-naflex", "chinese-clip-vit-base-16"])
@pytest.mark.parametrize("method", ["maskclip", "clearclip", "naclip", "value"])
def test_edits_of_other_towers(name: str, method: str) -> None:
    """NaFlex and Chinese-CLIP: the last block by its formula in float64, then the tower's own norm
    and head, of a pooling the head with the patch as its only key."""
    model = tiny_bundle(shrunk(variants.VARIANTS[name].config))
    tower, patch = model.image_tower, model.config.image_tower.patch_size
    pixels = torch.randn(1, 3, 3 * patch, 4 * patch, generator=torch.Generator().manual_seed(9))
    taps = Taps(["blocks.0"])
    block = tower.blocks[-1]
    run_blocks(tower.blocks[:-1], tower._tokens(pixels, EDITS[method].positions), None, taps)
    x = taps.result()["blocks.0"].detach().double()[0]
    norm = block.norm1
    h = F.layer_norm(x, x.shape[-1:], norm.weight.double(), norm.bias.double(), norm.eps)
    weight, bias = block.attn.qkv.weight.double(), block.attn.qkv.bias.double()
    parts = (h @ weight.T + bias).unflatten(-1, (3, block.attn.heads, -1)).permute(1, 2, 0, 3)
    q, k, v = parts  # (heads, N, d)
    places = torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0)).double()
    near = torch.exp(-(torch.cdist(places, places) ** 2) / 50)
    near = F.pad(near, (tower.prefix, 0, tower.prefix, 0))
    scale = q.shape[-1] ** -0.5
    mixed = {
        "maskclip": v,
        "clearclip": torch.softmax(q @ q.mT * scale, -1) @ v,
        "naclip": torch.softmax(k @ k.mT * scale + near, -1) @ v,
        "value": torch.softmax(v @ v.mT * scale, -1) @ v,
    }[method]
    out = block.attn.proj
    y = mixed.transpose(0, 1).flatten(1) @ out.weight.double().T + out.bias.double()
    if method == "maskclip":
        y = block.double().feed_forward(x + y)
    tower.double()
    tokens = y[tower.prefix :]
    if tower.pool_layer or tower.prefix == 0:
        expected = torch.stack([tower.head(tower.pool(Tokens(t[None, None])))[0] for t in tokens])
    else:
        expected = tower.head(tower.norm(tokens))
    tower.float()
    actual = tower.dense(pixels, EDITS[method])[0].double()
    assert_close(actual, expected.detach(), rtol=1e-4, atol=1e-5)
