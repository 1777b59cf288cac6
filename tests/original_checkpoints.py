"""Checkpoints of other libraries, written once a session and copied for each test. A plugin."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from references import SIZE, hugging_face, open_clip_model, timm_vit

VIT = {"image_size": SIZE, "layers": 2, "width": 48, "patch_size": 8, "head_width": 16}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 16}


def once(name: str, write: Callable[[Path], object]) -> Any:
    """A fixture: a fresh copy of a checkpoint that is written once a session."""

    @pytest.fixture(scope="session", name=f"{name}_original")
    def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp(name) / "model"
        write(path)
        return path

    @pytest.fixture(name=name)
    def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        return Path(shutil.copytree(request.getfixturevalue(f"{name}_original"), tmp_path / name))

    return original, copied


hf_original, hf = once("hf", hugging_face)
oc_original, oc = once("oc", lambda path: open_clip_model(path, VIT))
rn_original, rn = once("rn", lambda path: open_clip_model(path, RESNET))
vit_original, vit = once("vit", timm_vit)
