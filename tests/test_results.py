"""Models and results in Python: repr, pickle, copies, threads, notebooks, type checkers."""

import copy
import dataclasses
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import patchword
from patchword.tasks.reconstruct import Reconstruction

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
JOBS: dict[str, Callable[[patchword.Model], Any]] = {
    "Heatmap": lambda model: model.heatmap(PIXELS, "a hat"),
    "Located": lambda model: model.locate(PIXELS, "hat", present=0),
    "Region": lambda model: model.locate(PIXELS, "hat", present=0).regions[0],
    "Segmentation": lambda model: model.segment(PIXELS, ["hat", "shoe"]),
    "AttentionMap": lambda model: model.attention(PIXELS),
    "TokenAttention": lambda model: model.attention(text="a red ring on a floor"),
    "CaptionAttention": lambda model: model.caption_attention(PIXELS),
    "Match": lambda model: model.match(PIXELS, "a hat"),
    "Caption": lambda model: model.caption(PIXELS)[0],
    "Answer": lambda model: model.ask(PIXELS, "what is it?", ["hat", "shoe"]),
    "Score": lambda model: model.classify(PIXELS, ["hat", "shoe"])[0][0],
    "AnyRes": lambda model: model.anyres_features(PIXELS),
    "Inspection": lambda model: patchword.inspector(model, [PIXELS, 255 - PIXELS]).inspect(PIXELS)[
        0
    ],
    "Model": lambda model: model,
    "Index": lambda model: patchword.open_index("index"),
}


@pytest.fixture(scope="module")
def model() -> patchword.Model:
    return patchword.load("demo-blip")


@pytest.mark.parametrize("name", JOBS)
def test_reprs_are_short_and_hashes_work(model: patchword.Model, name: str) -> None:
    result = JOBS[name](model)
    assert type(result).__name__ == name
    assert repr(result).startswith(f"{name}(")
    assert len(repr(result)) < 400
    assert len({result, result}) == 1
    assert result == result  # arrays are not compared


@pytest.mark.parametrize("name", [name for name in JOBS if name not in ("Model", "Index")])
def test_results_are_pickled_and_copied(model: patchword.Model, name: str) -> None:
    result = JOBS[name](model)
    for other in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        for field in dataclasses.fields(result):
            np.testing.assert_equal(getattr(other, field.name), getattr(result, field.name))


def test_models_are_pickled_copied_and_shared_by_threads(model: patchword.Model) -> None:
    expected = model.embed_images(PIXELS)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(other.embed_images(PIXELS), expected)
    with ThreadPoolExecutor(4) as pool:
        for row in pool.map(model.embed_images, [PIXELS] * 8):
            np.testing.assert_allclose(row, expected, atol=1e-6)


def test_a_pickled_or_copied_index_opens_the_same_path(tmp_path: Path) -> None:
    demo = patchword.load("demo")
    index = patchword.open_index(tmp_path / "photos.index")
    index.put(["/gone/a.jpg"], demo.embed_images(PIXELS), demo)
    expected = index.search("a wafer", model=demo)
    for other in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert other.path == index.path
        assert other.search("a wafer") == expected


@pytest.mark.parametrize("name", ["Heatmap", "AttentionMap", "TokenAttention"])
def test_notebooks_show_pictures(model: patchword.Model, name: str, tmp_path: Path) -> None:
    result = JOBS[name](model)
    shown = Image.open(io.BytesIO(result._repr_png_()))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(result.picture()))
    result.save(tmp_path / "new" / "saved.png")
    saved = Image.open(tmp_path / "new" / "saved.png")
    np.testing.assert_array_equal(np.asarray(saved), np.asarray(shown))
    with pytest.raises(patchword.UnsupportedError, match=r"must end in \.png or \.jpg"):
        result.save(tmp_path / "saved.doc")


def test_reconstructions_are_shown_too() -> None:
    result = Reconstruction(PIXELS, PIXELS, PIXELS, np.zeros((48, 64), bool))
    assert repr(result).count("(48, 64, 3)") == 3
    assert result._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_a_converted_model_equals_one_loaded_with_that_dtype(dtype: str) -> None:
    full = patchword.load("demo")
    half, loaded = full.to(dtype), patchword.load("demo", dtype=dtype)
    assert isinstance(half, patchword.Model)
    assert (half.fingerprint, half.options) == (loaded.fingerprint, loaded.options)
    np.testing.assert_array_equal(half.embed_images(PIXELS), loaded.embed_images(PIXELS))
    assert full.engine.dtype == torch.float32
    assert full.fingerprint == patchword.load("demo").fingerprint
    assert half.to("cpu", "float32").options == {}
    assert half.to("float32").fingerprint not in (half.fingerprint, full.fingerprint)


def test_a_model_moved_to_its_own_device(model: patchword.Model) -> None:
    moved = model.to("cpu")
    assert moved.fingerprint == model.fingerprint
    assert moved.network is not model.network
    with pytest.raises(patchword.UnsupportedError, match=r"no such device.*types are float32"):
        model.to("half")


def test_a_model_saves_itself(tmp_path: Path) -> None:
    model = patchword.load("demo")
    again = patchword.load(model.save(tmp_path / "model"))
    assert again.fingerprint == model.fingerprint


RIGHT = """
import patchword
from patchword import Answer, Caption, Heatmap, Hit, Match, Score, UnsupportedError

model: patchword.Model = patchword.load("demo", device="cpu", dtype="float32", image_size=64)
scores: list[list[Score]] = model.classify("photo.jpg", ["hat", "shoe"], reject=0.5)
heatmap: Heatmap = model.to("bfloat16").heatmap("photo.jpg", "a hat")
answer: Answer = model.ask("photo.jpg", "what is it?")
answers: list[Answer] = model.ask("photo.jpg", ["what is it?", "why?"])
captions: list[Caption] = model.caption(["photo.jpg"], beams=3)
hits: list[Hit] = patchword.open_index("index").search("a hat", k=3)
path = patchword.save(model, model.save("folder"))
"""
WRONG = {
    'patchword.load("demo", nonsense=3)': 'Unexpected keyword argument "nonsense"',
    'patchword.laod("demo")': 'has no attribute "laod"',
    'patchword.load("demo").caption("photo.jpg", beems=3)': '"beems"',
    'patchword.load("demo").classify("photo.jpg", reject="0.5")': '"reject"',
    'patchword.open_index("index").search("a hat", limit=3)': '"limit"',
}


def test_type_checkers_know_every_option(tmp_path: Path) -> None:
    """With the project's settings, which are strict."""
    lines = RIGHT.splitlines()
    script = tmp_path / "script.py"
    script.write_text("\n".join([*lines, *WRONG, ""]))
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(script)]
    # Without workers: mypy gives up where a busy machine does not start them soon.
    settings = {"MYPYPATH": "src", "MYPY_NUM_WORKERS": "0"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == len(WRONG), done.stdout
    for number, (line, words) in enumerate(
        zip(errors, WRONG.values(), strict=True), len(lines) + 1
    ):
        assert f"script.py:{number}: error:" in line, line
        assert words in line
