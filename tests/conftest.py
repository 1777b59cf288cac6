"""Fixtures and settings of all tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any Hugging Face library is imported

from cli_runner import run  # noqa: F401  the fixture `run` of files that define none themselves

if TYPE_CHECKING:
    from patchword import Model
    from patchword.bundle import Bundle

gc.disable()  # until all modules are imported, see pytest_collection_finish

FILES_ABOUT_CURVES = ("test_monitor", "test_cli_grammar")
SLOWEST_FILES = ("test_exporting", "test_engine_graphs", "test_train_processes", "test_train")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first, so that all worker processes end at about the same time."""
    items.sort(key=lambda item: item.path.stem not in SLOWEST_FILES)


def pytest_collection_finish() -> None:
    """Exclude the objects of imported modules from garbage collection.

    Five large libraries create millions of objects that live until the end. Looking through them
    would take a fifth of the tests' time, and a quarter of the time to import them."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def without_curves(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small training runs do not draw their loss curves, which would take as long as the training;
    files that test these pictures still draw them."""
    monitor = sys.modules.get("patchword.train.monitor")
    with pytest.MonkeyPatch.context() as patch:
        if monitor and request.module.__name__ not in FILES_ABOUT_CURVES:
            patch.setattr(monitor, "curves", lambda path, rows: None)
        yield


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CLIP's tokenizer files, as in hub repositories."""
    from tiny_tokenizers import save_clip_tokenizer  # imports transformers, which takes seconds

    folder = tmp_path_factory.mktemp("clip_tokenizer")
    save_clip_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def demo() -> Model:
    import patchword

    return patchword.load("demo")


@pytest.fixture(scope="module")
def blip() -> Model:
    import patchword

    return patchword.load("demo-blip")


@pytest.fixture(scope="module")
def clip() -> Bundle:
    """A small CLIP with random weights."""
    from small_models import tiny_bundle, tiny_clip

    return tiny_bundle(tiny_clip())


@pytest.fixture(scope="module")
def model(clip: Bundle) -> Bundle:
    """The same small CLIP, for files that use no other model."""
    return clip
