"""Devices, types and sizes as people write them; and files that come out the same every time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import Run
from safetensors import safe_open

import patchword
from patchword.errors import CheckpointError, UnsupportedError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("torch.float16", torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_types_by_name_and_as_torch_has_them(given: str, dtype: torch.dtype) -> None:
    model = patchword.load("demo", dtype=given)
    assert model.engine.dtype == dtype
    expected = {} if dtype == torch.float32 else {"dtype": str(dtype).removeprefix("torch.")}
    assert model.options == expected


@pytest.mark.parametrize("device", ["cpu", "auto", torch.device("cpu")])
def test_devices(device: str) -> None:
    assert patchword.load("demo", device=device).device.type in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "flaot32"}, r"dtype is 'flaot32' \(do you mean float32\?\); there are float32"),
        ({"dtype": "int8"}, 'int8 is of the engines openvino and onnx.*give engine="openvino"'),
        ({"dtype": torch.int64}, "there are float32"),
        ({"dtype": None}, "dtype is None"),
        ({"device": "gpu"}, "device gpu: no such device"),
        ({"device": 0}, "device is 0; there are cpu, cuda"),
        ({"device": "cuda:99"}, "device cuda:99: "),
        ({"image_size": "384"}, r"image_size is '384'; give pixels, 384, or \(height, width\)"),
        ({"image_size": 128.0}, "image_size is 128.0"),
        ({"image_size": (128,)}, "image_size is"),
    ],
)
def test_what_is_none_of_them(options: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        patchword.load("demo", **options)  # type: ignore[arg-type]


def test_sizes_as_lists_too() -> None:
    sizes = [patchword.load("demo", image_size=size) for size in (64, (64, 64), [64, 64])]
    assert {model.config.preprocess.size for model in sizes} == {(64, 64)}
    assert len({model.fingerprint for model in sizes}) == 1


@pytest.mark.parametrize("source", [None, "", 3, b"demo"])
def test_no_source(source: object) -> None:
    with pytest.raises(CheckpointError, match=r"the model is .*; give a hub id, a folder"):
        patchword.load(source)  # type: ignore[arg-type]


def test_the_command_line_takes_a_type(run: Run) -> None:
    half = run("embed", "-t", "a hat", "--dtype", "bfloat16").records[0]["vector"]
    whole = run("embed", "-t", "a hat").records[0]["vector"]
    assert 1e-5 < np.abs(np.subtract(half, whole)).max() < 0.05
    wrong = run("embed", "-t", "a hat", "--dtype", "half")
    assert wrong.code == 2
    assert "dtype is 'half'" in wrong.err


def test_a_saved_model_has_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """A hash map's order, of which the library's metadata came, is another in each, and in each
    save."""
    code = "import patchword, sys; patchword.save(patchword.load('demo'), sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)
    for name in "bc":
        patchword.save(patchword.load("demo"), tmp_path / name)
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert len({(tmp_path / name / file).read_bytes() for name in "abc"}) == 1, file
    with safe_open(tmp_path / "a" / "model.safetensors", "pt") as opened:
        assert opened.metadata()["format"] == "pt"
