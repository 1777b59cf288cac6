"""A head for maps: its cosines, its loss and its training against formulas, and what heatmaps of it
say."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_pairs import CONFIG
from tiny_runs import load, run_and_batches, write
from torch.testing import assert_close

import patchword
from patchword import losses, models
from patchword.config import DenseHeadConfig
from patchword.data import Region, Sample
from patchword.errors import ConfigError, RecipeError, UnsupportedError
from patchword.evaluate.blend import blend
from patchword.losses.maps import ABSENT, HALF, HARDEST, OUTSIDE, POINTING, SOMEWHERE
from patchword.scenes import scene
from patchword.scenes.captions import noun_phrases
from patchword.train import loop

HEAD = DenseHeadConfig(
    layers=(0,), size=32, token_width=8, pixel_widths=(4, 8), widths=(8, 6), scale=20.0
)
SEED = 4242  # of scenes that no training saw


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


# The network


def test_cosines_are_those_of_the_vectors_that_are_never_computed() -> None:
    torch.manual_seed(0)
    network = models.build(replace(CONFIG, dense_head=HEAD)).double().eval()
    head, seen = network.dense_head, []
    head.mix_last.register_forward_hook(lambda layer, given, made: seen.append((given[0], made)))
    pixels, texts = torch.randn(2, 3, 32, 48).double(), torch.randn(5, 12).double()
    texts = torch.nn.functional.normalize(texts, dim=-1)
    with torch.inference_mode():
        actual = network.dense_cosines(pixels, texts)
        before, made = seen[0]
        vectors = head.out(before + torch.nn.functional.gelu(made))
    assert actual.shape == (2, 5, 16, 24)
    rows = unit(vectors.movedim(1, -1).numpy())
    assert_close(actual, torch.from_numpy(rows @ texts.numpy().T).movedim(-1, 1).float())


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"layers": ()}, "layers is empty"),
        ({"layers": (1,)}, "layers is \\[1\\], and there are 1 blocks"),
        ({"size": 30}, "size is 30; a multiple of 4"),
        ({"size": 36}, "size is 36, and patches are of 8 pixels"),
    ],
)
def test_a_head_that_cannot_be(head: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, dense_head=replace(HEAD, **head))


def test_a_network_without_one() -> None:
    with pytest.raises(UnsupportedError, match="no dense head"):
        models.build(CONFIG).dense_cosines(torch.zeros(1, 3, 16, 16), torch.zeros(1, 12))


# The loss


def softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def expected_loss(
    cosines: NDArray[np.float64],
    background: NDArray[np.float64],
    coverage: NDArray[np.float64],
    unknown_place: NDArray[np.bool_],
    scale: float,
) -> float:
    """The docstring of `losses.text_maps`, one text of one image after the other."""
    images = []
    for maps, ground, masks, unknown in zip(
        cosines, background, coverage, unknown_place, strict=True
    ):
        present, absent = [], []
        for cosine, mask, hidden in zip(maps, masks, unknown, strict=True):
            logits = sorted((scale * (cosine - ground)).ravel().tolist(), reverse=True)
            if hidden:
                some = logits[: round(SOMEWHERE * len(logits))]
                present.append(sum(softplus(-x) for x in some) / len(some))
            elif not mask.any():
                hard = logits[:HARDEST]
                absent.append(ABSENT * sum(map(softplus, hard)) / len(hard))
            else:
                present.append(of_mask(scale * cosine, scale * (cosine - ground), mask))
        images.append(sum(map(float, (np.mean(x) if x else 0 for x in (present, absent)))))
    return float(np.mean(images))


def of_mask(
    cosine: NDArray[np.float64], logit: NDArray[np.float64], mask: NDArray[np.float64]
) -> float:
    entropy = total = both = inside = outside = 0.0
    for c, x, y in zip(cosine.ravel(), logit.ravel(), mask.ravel(), strict=True):
        weight = y + (1 - y) * OUTSIDE
        entropy += weight * (y * softplus(-x) + (1 - y) * softplus(x)) / mask.size
        p = 1 / (1 + math.exp(-x))
        both, total = both + p * y, total + p + y
        outside += math.exp(c)
        inside += math.exp(c) if y >= HALF * mask.max() else 0
    dice = 1 - (2 * both + 1) / (total + 1)
    return 4 * entropy + dice - POINTING * math.log(inside / outside)


@pytest.mark.parametrize("case", ["all", "no masks", "nothing there"])
def test_loss_is_its_formula(case: str) -> None:
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-0.5, 0.5, (3, 4, 10, 12))
    background = rng.uniform(-0.5, 0.5, (3, 10, 12))
    coverage = np.zeros((3, 4, 10, 12))
    unknown_place = np.zeros((3, 4), np.bool_)
    if case == "all":
        coverage[0, 1, 2:5, 3:6] = rng.uniform(0.1, 1, (3, 3))
        coverage[0, 2, 9, 11] = 0.3
        coverage[2, 0, :, :4] = 1
    if case != "nothing there":
        unknown_place[1, 3] = unknown_place[2, 1] = True
    tensors = map(torch.from_numpy, (cosines, background, coverage, unknown_place))
    actual = losses.text_maps(*tensors, 20.0)
    assert_close(float(actual), expected_loss(cosines, background, coverage, unknown_place, 20.0))


# The data


@pytest.mark.slow
def test_what_is_where_in_a_batch(tmp_path: Path) -> None:
    run, _ = run_and_batches(write(tmp_path, "dense"))
    left, right = np.zeros((8, 8), np.bool_), np.zeros((8, 8), np.bool_)
    left[:, :3], right[4:] = True, True
    red, blue = noun_phrases("a red circle"), noun_phrases("a blue circle")

    def sample(*regions: Region) -> Sample:
        empty: frozenset[str] = frozenset()
        return Sample(np.zeros((3, 8, 8), np.float32), (), -1, empty, empty, False, "", regions)

    samples = [
        sample(Region(red, "a red circle", left), Region(blue, "a circle", right)),
        sample(Region(("a dress", "dress"), "dress", None)),
    ]
    inputs = run.objective.prepare(run.on_device(run.objective.collate()(samples, [])), 0)
    texts = ["a circle", "a red circle", "dress", "background"]
    assert inputs.ids.tolist() == run.initial.tokenizer(texts).tolist()
    shares = [m.reshape(4, 2, 4, 2).mean(axis=(1, 3)).astype(np.float32) for m in (left, right)]
    coverage = inputs.coverage.numpy()
    assert np.array_equal(coverage[0, 0], np.maximum(*shares))
    assert np.array_equal(coverage[0, 1], shares[0])
    assert not coverage[0, 2].any()
    assert not coverage[1].any()
    assert inputs.unknown_place.tolist() == [[False] * 3, [False, False, True]]


# Training


@pytest.mark.slow
def test_training_changes_the_head_alone(tmp_path: Path) -> None:
    start = loop.train(load(write(tmp_path), f"out={tmp_path / 'start'}", "steps=4")).folder
    before = patchword.load(start)
    file = write(tmp_path, "dense")
    losses_seen: list[float] = []
    recipe = load(file, f"init={start}", "image_size=32", "steps=16", "learning_rate=1e-2")
    recipe = replace(recipe, model=None)
    done = loop.train(recipe, lambda step, values: losses_seen.append(values["loss"]))
    after = patchword.load(done.folder)
    assert after.config.dense_head == DenseHeadConfig(layers=(0, 1), size=32)
    assert after.fingerprint == before.fingerprint
    ours, theirs = after.network.state_dict(), before.network.state_dict()
    assert {name.split(".")[0] for name in set(ours) - set(theirs)} == {"dense_head"}
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert np.mean(losses_seen[-5:]) < 0.8 * np.mean(losses_seen[:5])
    again = loop.train(replace(recipe, init=str(done.folder), out=str(tmp_path / "again"), steps=1))
    assert patchword.load(again.folder).config == after.config  # a head is trained further
    with pytest.warns(UserWarning, match="heatmaps of the blend will be less exact"):
        assert blend(after, before, 0.5).config.dense_head is None
    changes = (f"init={done.folder}", f"out={tmp_path / 'other'}", "steps=1")
    with pytest.warns(
        UserWarning, match="heatmaps of the new model will be less exact than those of .*model"
    ):
        other = loop.train(replace(load(write(tmp_path), *changes), model=None))
    assert patchword.load(other.folder).config.dense_head is None
    scale = next(name for name in theirs if "scale" in name)
    changes = (f"init={done.folder}", f"out={tmp_path / 'kept'}", f"trainable=['{scale}']")
    recipe = replace(load(write(tmp_path), *changes, "steps=2", "warmup=0"), model=None)
    kept = patchword.load(loop.train(recipe).folder)  # what the head stands on stays as it is
    assert kept.config.dense_head == after.config.dense_head
    changed = [
        n for n, value in kept.network.state_dict().items() if not torch.equal(value, ours[n])
    ]
    assert changed == [scale]


@pytest.mark.slow
def test_recipes_that_cannot_be(tmp_path: Path) -> None:
    file = write(tmp_path, "dense")
    for change, message in (
        ("trainable=['image']", "trains dense_head alone"),
        (
            "data.0.augment.crop=[0.5,1.0] & data.0.augment.mirror=false",
            "set augment.crop = \\[1, 1\\]",
        ),
        ("teacher.model=demo & teacher.kind=features", "has no teacher"),
    ):
        with pytest.raises(RecipeError, match=message):
            run_and_batches(file, *change.split(" & "))


# Heatmaps


@pytest.mark.parametrize("name", ["demo", "demo-blip"])
@pytest.mark.parametrize("kind", ["shapes", "wafer"])
def test_embedded_models_say_where(name: str, kind: str) -> None:
    model = patchword.load(name)
    scenes = [scene(SEED, index, kind=kind) for index in range(16)]
    on, actual, lit = [], [], []
    for seen, other in pairwise(scenes):
        names = [thing.name for thing in seen.objects]
        absent = [thing.name for thing in other.objects if thing.name not in names]
        if not names or not absent:
            continue
        maps = model.heatmap(seen.image, [*names, *absent])
        assert maps.method == "head"
        for thing, (_, x, y) in zip(seen.objects, maps.peaks()[: len(names)], strict=True):
            on.append(thing.mask[y, x])
        actual += maps.found[: len(names)]
        lit += maps.found[len(names) :]
    assert np.mean(on) >= 0.85
    assert np.mean(actual) >= 0.9
    assert np.mean(lit) <= 0.25


def test_probability_is_the_highest_sigmoid() -> None:
    model = patchword.load("demo")
    seen = scene(SEED, 0, kind="shapes")
    names = [seen.objects[0].name, "a scratch"]
    heat = model.heatmap(seen.image, names)
    vectors = model.embed_texts([*names, "background"]).astype(np.float64)
    pixels, _ = patchword.images.preprocess.Preprocess(
        replace(model.preprocess.config, size=(128, 128), resize_to=128)
    )(seen.image)
    with torch.inference_mode():
        maps = model.network.dense_cosines(
            torch.from_numpy(pixels)[None], torch.from_numpy(vectors).float()
        )[0].double()
    assert_close(torch.from_numpy(heat.grid), maps[:2].float())
    scale = model.config.dense_head.scale
    for number, probability in enumerate(heat.present):
        highest = float((maps[number] - maps[2]).max())
        assert probability == pytest.approx(1 / (1 + math.exp(-scale * highest)), rel=1e-4)
