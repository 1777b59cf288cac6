"""The shipped recipes, each run whole: what it knows of scenes that it never saw is what its header
states, less what other machines and seeds may cost."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision_cpu  # noqa: F401  before transformers, which peft imports

# isort: split
import patchword
from patchword import losses
from patchword.nn.patches import patchify
from patchword.scenes import WAFER_CLASSES, Scene, distinguishable, scene
from patchword.scenes.captions import with_article
from patchword.scenes.shapes import COLOURS, SHAPES
from patchword.train import loop, recipe

SEED = 4321  # of scenes that no recipe trains on
COUNT = 200  # of them: a share of 0.9 has a standard error of 0.02


def trained(name: str, out: Path, *changes: str) -> patchword.Model:
    settings = [f"out={out}", "engine.device=cpu", "engine.workers=0", *changes]
    return patchword.load(loop.train(recipe.load(name, settings)).folder)


def wafers_told(model: patchword.Model, labels: Sequence[str] | None = None) -> float:
    """The share of wafers, evenly of all classes, whose class comes first."""
    names = [WAFER_CLASSES[i % len(WAFER_CLASSES)] for i in range(COUNT)]
    images = [scene(SEED, i, label=name).image for i, name in enumerate(names)]
    scores = model.classify(images, labels)
    right = [best.label == name for (best, *_), name in zip(scores, names, strict=True)]
    return float(np.mean(right))


def shapes(index: int, palette: Sequence[str] = ()) -> Scene:
    return scene(SEED, index, kind="shapes", palette=palette)


def colours_told(model: patchword.Model) -> float:
    """The share of single shapes whose colour is that of the first of all colours and shapes."""
    single = [one for one in map(shapes, range(3 * COUNT)) if one.facts["count"] == 1]
    names = [
        (colour, f"a photo of {with_article(f'{colour} {shape}')}")
        for colour in COLOURS
        for shape in SHAPES
    ]
    first = model.similarity([one.image for one in single], [text for _, text in names]).argmax(1)
    right = [names[i][0] == one.facts["colour 1"] for i, one in zip(first, single, strict=True)]
    return float(np.mean(right))


def recall(model: patchword.Model, k: int, palette: Sequence[str] = ()) -> tuple[float, float]:
    """Of scenes, no caption of which is true of another, the share of images whose caption is among
    the first k, and of captions whose image is."""
    scenes = list(
        itertools.islice(
            distinguishable(shapes(index, palette) for index in itertools.count()), COUNT
        )
    )
    scores = model.similarity([s.image for s in scenes], [s.caption for s in scenes])
    better = scores > np.diag(scores)[:, None], np.diag(scores)[:, None] < scores.T
    ranks = [each.sum(axis=1) for each in better]
    return float((ranks[0] < k).mean()), float((ranks[1] < k).mean())


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_two_towers_from_random_weights(name: str, tmp_path: Path) -> None:
    model = trained(name, tmp_path)
    assert colours_told(model) >= 0.95
    assert min(recall(model, 5)) >= 0.88
    assert model.config.score == ("sigmoid" if name == "siglip" else "softmax")


def test_the_masked_autoencoder_from_random_weights(tmp_path: Path) -> None:
    model = trained("mae", tmp_path)
    network = model.network
    pixels = torch.stack(
        [torch.as_tensor(model.preprocess(shapes(i).image)[0]) for i in range(COUNT)]
    )
    torch.manual_seed(0)
    with torch.no_grad():
        painted, hidden = network(pixels)
    patches = patchify(pixels, network.patch_size)
    error = losses.masked_pixels(painted, patches, hidden, norm=True)
    means = losses.masked_pixels(torch.zeros_like(painted), patches, hidden, norm=True)
    assert error <= 0.8
    assert means == pytest.approx(0.98, abs=0.01)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder."""
    folder = tmp_path_factory.mktemp("probe")
    trained("probe", folder)
    return folder


def test_the_probe(probe: Path) -> None:
    assert wafers_told(patchword.load(probe / "model")) >= 0.95


def test_fine_tuning(probe: Path, tmp_path: Path) -> None:
    model = trained("finetune", tmp_path, f"init={probe / 'model'}")
    assert model.config.preprocess.size == (64, 64)
    assert wafers_told(model) >= 0.83


def test_a_student_from_random_weights_and_its_teacher(tmp_path: Path) -> None:
    counts = ["image_size=48", "data.0.only=shapes", "data.0.label=count"]
    trained("probe", tmp_path / "teacher", *counts)
    teacher = f"teacher.model={tmp_path / 'teacher' / 'model'}"
    model = trained("deit", tmp_path / "deit", teacher)
    scenes = [shapes(i) for i in range(COUNT)]
    told = model.classify([each.image for each in scenes])
    right = [
        best.label == str(s.facts["count"]) for (best, *_), s in zip(told, scenes, strict=True)
    ]
    assert np.mean(right) >= 0.9
    assert model.config.vision.pool == "distilled"


def test_a_new_text_tower(tmp_path: Path) -> None:
    assert wafers_told(trained("lit", tmp_path), WAFER_CLASSES) >= 0.95


def test_adapters(tmp_path: Path) -> None:
    assert min(recall(trained("lora", tmp_path), 1, ("red", "blue"))) >= 0.52
