"""Compare results on an NVIDIA GPU with those on the CPU: every network, the main tasks, every
objective.

Run by hand on a machine with a GPU: pytest tests/on_cuda.py
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny_blip
import tiny_runs
import torch
from PIL import Image
from small_models import embeds_text, ids, pixels, shrunk
from tiny_runs import OBJECTIVES, curve
from torch import Tensor
from torch.testing import assert_close

import patchword
from patchword import models, variants
from patchword.api.engines import on_engine
from patchword.config import ModelConfig
from patchword.scenes import scene
from patchword.train import loop, recipe

TOLERANCE = 1e-4  # of probabilities and unit vectors: float32 sums in another order
TEXTS = ["a wafer with a scratch", "a perfect wafer", "a red circle", "a blue square"]
QUESTIONS = ["what defect does the wafer have?", "how many shapes are there?"]


@pytest.fixture(autouse=True)
def without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default cuDNN rounds the inputs of convolutions to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    kinds = ("wafer", "shapes")
    return [Image.fromarray(scene(7, i, 128, kind=kinds[i % 2]).image) for i in range(4)]


def on_both(name: str) -> tuple[patchword.Model, patchword.Model]:
    """The model on the CPU, and on the GPU."""
    return patchword.load(name), patchword.load(name, device="cuda")


# --- networks


def outputs(network: torch.nn.Module, config: ModelConfig, device: str) -> list[Tensor]:
    """All outputs of a network for three images and three texts."""
    results = []
    if config.vision is not None:
        results.append(network.encode_image(pixels(config).to(device)))
    if embeds_text(config):
        results.append(network.encode_text(ids(config).to(device)))
    if config.decoder or config.matching:
        output = network(pixels(config).to(device), ids(config).to(device))
        results += [each for each in output if each is not None]
    return results


@pytest.mark.parametrize("name", variants.VARIANTS)
@torch.inference_mode()
def test_networks(name: str) -> None:
    config = shrunk(variants.VARIANTS[name].config)
    torch.manual_seed(1)
    network = models.build(config).eval()
    on_gpu = copy.deepcopy(network).to("cuda")
    pairs = zip(outputs(network, config, "cpu"), outputs(on_gpu, config, "cuda"), strict=True)
    for expected, result in pairs:
        assert result.is_cuda
        assert_close(result.cpu(), expected, rtol=TOLERANCE, atol=TOLERANCE)


# --- tasks


def test_vectors_classes_and_similarity(photos: list[Image.Image]) -> None:
    here, there = on_both("demo")
    assert there.device.type == "cuda"
    assert here.fingerprint == there.fingerprint
    np.testing.assert_allclose(
        there.embed_images(photos), here.embed_images(photos), atol=TOLERANCE
    )
    ours, theirs = (m.embed_texts(TEXTS) for m in (here, there))
    np.testing.assert_allclose(theirs, ours, atol=TOLERANCE)
    ours, theirs = (m.classify(photos, TEXTS) for m in (here, there))
    assert [each[0].label for each in theirs] == [each[0].label for each in ours]


def test_compiled(photos: list[Image.Image]) -> None:
    """Small batches run as CUDA graphs, whose memory the next call overwrites; large batches and
    those of another thread run without."""
    here, there = patchword.load("demo"), patchword.load("demo", device="cuda", engine="compile")
    expected = here.embed_images(photos)
    for count in (1, 4, 3, 1):
        for rows in [there.embed_images(photos[:count]) for _ in range(3)]:
            np.testing.assert_allclose(rows, expected[:count], atol=TOLERANCE)
    with ThreadPoolExecutor(1) as pool:
        rows = pool.submit(there.embed_images, photos * 5).result()
    np.testing.assert_allclose(rows, np.concatenate([expected] * 5), atol=TOLERANCE)
    np.testing.assert_allclose(there.embed_texts(TEXTS), here.embed_texts(TEXTS), atol=TOLERANCE)


def test_a_changed_weight_counts_at_once(photos: list[Image.Image]) -> None:
    here = patchword.load("demo")
    plain = patchword.load("demo", device="cuda")
    models_on_gpu = [plain, on_engine(plain, "compile")]
    for model in models_on_gpu:
        model.embed_images(photos)
    for network in (here.network, plain.network):
        network.image.blocks[0].mlp.fc1.weight.data.mul_(1.5)
    for model in models_on_gpu:
        rows = model.embed_images(photos)
        np.testing.assert_allclose(rows, here.embed_images(photos), atol=TOLERANCE)


@pytest.mark.parametrize("name", ["demo", "demo-blip"])
def test_heatmaps(photos: list[Image.Image], name: str) -> None:
    here, there = (m.heatmap(photos[0], TEXTS) for m in on_both(name))
    largest = np.nanmax(np.abs(here.values))  # gradient maps have values of some thousandths
    np.testing.assert_allclose(there.values / largest, here.values / largest, atol=1e-2)


def test_captions_answers_and_matches(photos: list[Image.Image]) -> None:
    here, there = on_both("demo-blip")
    for options in ({"beams": 1}, {"beams": 3}, {"top_p": 0.9, "seed": 3}):
        ours, theirs = (m.caption(photos, **options) for m in (here, there))
        assert [each.text for each in theirs] == [each.text for each in ours]
    ours, theirs = (m.ask(photos[0], QUESTIONS) for m in (here, there))
    assert [each.text for each in theirs] == [each.text for each in ours]
    ours, theirs = (m.match(photos, TEXTS) for m in (here, there))
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-3)
    np.testing.assert_allclose(theirs.cosines, ours.cosines, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(photos: list[Image.Image], dtype: torch.dtype) -> None:
    here = patchword.load("demo")
    there = patchword.load("demo", device="cuda", dtype=dtype)
    cosines = (here.embed_images(photos) * there.embed_images(photos)).sum(axis=1)
    assert cosines.min() > 0.999


def test_the_command_line(run, photos: list[Image.Image], tmp_path: Path) -> None:
    file = tmp_path / "wafer.png"
    photos[0].save(file)
    outputs_by_device = {}
    for device in ("cpu", "cuda", "auto"):
        result = run("classify", file, "--labels", ",".join(TEXTS), "--device", device)
        assert result.code == 0, result.err
        outputs_by_device[device] = result.out
    labels = {device: out.split()[0] for device, out in outputs_by_device.items()}
    assert labels["cuda"] == labels["cpu"]
    assert outputs_by_device["auto"] == outputs_by_device["cuda"]


# --- training


def trained(file: Path, out: Path, *changes: str) -> dict[int, float]:
    """The losses of a run, by step; on the GPU, unless `changes` name another device."""
    changes = (f"out={out}", "engine.device=cuda", *changes)
    if file.stem == "blip":
        loop.train(recipe.load(file, changes))
    else:
        loop.train(tiny_runs.load(file, *changes))
    return curve(out)


@pytest.fixture(params=[*OBJECTIVES, "blip"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "blip":
        return tiny_blip.write(tmp_path)
    return tiny_runs.write(tmp_path, request.param)


# Each device draws random negatives by its own generator.
DETERMINISTIC = {"blip": tiny_blip.DETERMINISTIC}


def test_losses_are_those_of_the_cpu(file: Path, tmp_path: Path) -> None:
    deterministic = DETERMINISTIC.get(file.stem, [])
    here = trained(file, tmp_path / "cpu", *deterministic, "engine.device=cpu")
    there = trained(file, tmp_path / "cuda", *deterministic)
    assert list(there) == list(here)
    assert list(there.values()) == pytest.approx(list(here.values()), rel=2e-3)
    model = patchword.load(tmp_path / "cuda" / "model")
    assert model.device.type == "cpu"


@pytest.mark.parametrize(
    "change", [[], ["engine.precision=bfloat16"], ["engine.gradient_checkpointing=true"]]
)
def test_a_run_in_two_parts_is_one_run(file: Path, tmp_path: Path, change: list[str]) -> None:
    deterministic = DETERMINISTIC.get(file.stem, [])
    whole = trained(file, tmp_path / "whole", *deterministic, *change, "engine.workers=1")
    trained(file, tmp_path / "parts", *deterministic, *change, "until=3")
    parts = trained(file, tmp_path / "parts", *deterministic, *change)
    assert list(parts.values()) == pytest.approx(list(whole.values()), rel=2e-3)


def test_momentum_and_hard_negatives(tmp_path: Path) -> None:
    losses = trained(tiny_blip.write(tmp_path), tmp_path / "run", *tiny_blip.MOMENTUM)
    assert all(np.isfinite(list(losses.values())))
