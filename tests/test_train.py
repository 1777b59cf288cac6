"""Training: a function of its recipe, interrupted or not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import patchword
from patchword import data
from patchword.cli import main
from patchword.errors import PatchwordError, RecipeError
from patchword.train import loop, recipe

RECIPE = """
out = "{out}"
steps = 12
batch = 16
learning_rate = 2e-3
warmup = 4
ema = 0.9
checkpoint_every = 2

[[data]]
kind = "folder"
path = "{photos}"
augment = true
names = [["hat", "cap"], ["shirt"]]
templates = ["a photo of a {{}}", "a {{}}"]

[[data]]
kind = "scenes"
count = 40

[model]
embed_dim = 32

[model.preprocess]
size = [32, 32]
resize_to = 32

[model.vision]
image_size = [32, 32]
patch_size = 8
stages = [1, 1]
stem_width = 8
width = 32
depth = 1
heads = 2
mlp_width = 64

[model.text]
vocab_size = 600
context = 32
width = 32
depth = 1
heads = 2
mlp_width = 64
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of a dozen photos, told apart by colour, and one file that is no photo."""
    rng = np.random.default_rng(0)
    for name, colour in (("a-hat", (200, 40, 40)), ("b-shirt", (40, 40, 200))):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(rng.normal(colour, 30, (40, 50, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "photos" / "a-hat" / "broken.png").write_bytes(b"not a photo")
    return tmp_path / "photos"


@pytest.fixture
def path(tmp_path: Path, photos: Path) -> Path:
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE.format(out=tmp_path / "run", photos=photos))
    return file


def curve(folder: Path) -> dict[int, float]:
    """step -> loss, the last word on each step."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def test_killed_runs_continue_bit_for_bit(path: Path, tmp_path: Path) -> None:
    whole = loop.train(recipe.load(path, [f"out={tmp_path / 'whole'}"])).folder
    command = [sys.executable, "-m", "patchword", "train", str(path)]
    child = subprocess.Popen(
        command, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stderr=subprocess.DEVNULL
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 5):
        assert time.monotonic() < deadline
        assert child.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    again = loop.train(recipe.load(path)).folder
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert patchword.load(again).fingerprint == patchword.load(whole).fingerprint


def test_a_trained_model_tells_the_classes_apart(path: Path, photos: Path) -> None:
    done = loop.train(recipe.load(path, ["steps=60"]))
    assert [Path(error.image).name for error in done.broken] == ["broken.png"]
    model = patchword.load(done.folder)
    files = sorted(photos.glob("*/[0-9]*.png"))
    best = [scores[0].label for scores in model.classify(files, ["hat", "shirt"])]
    right = [label in file.parent.name for label, file in zip(best, files, strict=True)]
    assert np.mean(right) >= 0.9


def test_the_broken_photo_is_passed_over(path: Path) -> None:
    source = data.open_source(recipe.load(path).data[0], Path(), 32)
    assert len(source) == 24
    assert [Path(error.image).name for error in source.broken] == ["broken.png"]


def test_every_epoch_holds_every_pair_once(path: Path) -> None:
    config = recipe.load(path).data[1]
    source = data.open_source(config, Path(), 32)
    batches = [data.batch_at([source], [1.0], 8, 32, 0, step) for step in range(10)]
    seen = [
        [id(pair.image) for batch in half for pair in batch] for half in (batches[:5], batches[5:])
    ]
    assert len(set(seen[0])) == len(seen[0]) == 40
    assert sorted(seen[0]) == sorted(seen[1])
    assert seen[0] != seen[1]


def test_positives_follow_the_truth() -> None:
    source = data.ScenesSource(data.SourceConfig("scenes", count=60), 32)
    pairs = source.pairs
    marks = data.positives(pairs)
    assert marks.diagonal().all()
    i, j = next((i, j) for i, j in np.argwhere(marks) if i != j)
    assert pairs[j].says <= pairs[i].truths
    assert not marks.all()


def test_rate_warms_up_and_falls_to_zero(path: Path) -> None:
    plan = recipe.load(path, ["steps=104"])
    rates = [loop.learning_rate(plan, step) for step in range(105)]
    assert rates[:4] == pytest.approx([0.0005, 0.001, 0.0015, 0.002])
    assert rates[54] == pytest.approx(0.001)
    assert rates[104] == pytest.approx(0)


def test_average_is_exponential(path: Path) -> None:
    plan = recipe.load(path)
    run = loop.Run(plan, [data.open_source(source, Path(), 32) for source in plan.data])
    expected = {k: v.double() for k, v in run.average.named_parameters()}
    for step in range(3):
        run.step(step, run.batch(step))
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in run.network.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach().double()
    for name, value in run.average.named_parameters():
        assert_close(value, expected[name].float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stepz=3", "no field stepz"),
        ("data.7.path=x", "the recipe has no 'data.7.path'"),
        ("data.0.path=/nowhere", "no such folder"),
        ("data.1.count=0", "needs count"),
        ("precision=float16", "must be one of 'float32', 'bfloat16'"),
        ("steps", "is not key=value"),
        ("steps=many", "not a int"),
        ("model.vision.heads=5", "does not divide"),
    ],
)
def test_bad_recipes_say_why(path: Path, change: str, message: str) -> None:
    with pytest.raises(PatchwordError, match=message):
        loop.train(recipe.load(path, [change]))


def test_missing_and_broken_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml"):
        recipe.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(RecipeError, match=r"bad\.toml"):
        recipe.load(tmp_path / "bad.toml")


def test_a_run_that_diverges_stops(path: Path) -> None:
    plan = recipe.load(path)
    run = loop.Run(plan, [data.open_source(source, Path(), 32) for source in plan.data])
    batch = run.batch(0)
    batch.pixels[0, 0, 0, 0] = torch.nan
    with pytest.raises(RecipeError, match="at step 0"):
        run.step(0, batch)


def test_the_command_names_what_it_passed_over(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", str(path), "steps=1"])
    assert stop.value.code == 1
    assert "broken.png: not an image" in capsys.readouterr().err
