"""Golden values: the original code of each method, run on tiny random weights."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path

import numpy as np
import torch
from corpora import DATA
from torch import Tensor

from patchword import checkpoints
from patchword.bundle import Bundle

GOLDEN = DATA / "golden"


@cache
def arrays(name: str) -> dict[str, Tensor]:
    """Those of one npz, by name."""
    with np.load(GOLDEN / f"{name}.npz") as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


@cache
def options(method: str) -> dict[str, dict]:
    """What is stated of each array of a method."""
    stated = json.loads((GOLDEN / "index.json").read_text())["methods"][method]["arrays"]
    return {key: value.get("options") or {} for key, value in stated.items()}


def image(name: str) -> Tensor:
    """(1, 3, H, W)."""
    return arrays("inputs")[name][None]


def model(name: str, folder: Path) -> Bundle:
    """One of the tiny models."""
    packed = GOLDEN / "models" / f"{name}.safetensors.xz"
    if not packed.is_file():
        return checkpoints.load(GOLDEN / "models" / name)
    path = folder / f"{name}.safetensors"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    return checkpoints.load(path)
