"""A pytest plugin: fixtures with checkpoints of other libraries, each written once a session and
copied for each test."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from references import SIZE, hugging_face, open_clip_model, timm_vit

VIT = {"image_size": SIZE, "layers": 2, "width": 48, "patch_size": 8, "head_width": 16}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 16}


def fixtures(name: str, write: Callable[[Path], object]) -> Any:
    """Two fixtures: the checkpoint, written once a session, and a fresh copy of it for a test."""

    @pytest.fixture(scope="session", name=f"{name}_original")
    def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp(name) / "model"
        write(path)
        return path

    @pytest.fixture(name=name)
    def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        return Path(shutil.copytree(request.getfixturevalue(f"{name}_original"), tmp_path / name))

    return original, copied


hf_original, hf = fixtures("hf", hugging_face)
oc_original, oc = fixtures("oc", lambda path: open_clip_model(path, VIT))
rn_original, rn = fixtures("rn", lambda path: open_clip_model(path, RESNET))
vit_original, vit = fixtures("vit", timm_vit)
