"""What every test shares: no hub is asked, and CLIP's tokenizer is at hand."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any Hugging Face library is imported

from cli_runner import run  # noqa: F401  a fixture of every file that has no `run` of its own

if TYPE_CHECKING:
    from patchword import Model
    from patchword.bundle import Bundle

gc.disable()  # until all is imported, see pytest_collection_finish

DRAWING = ("test_monitor", "test_cli_grammar")
LONGEST = ("test_exporting", "test_engine_graphs", "test_train_processes", "test_train")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that all processes end at about the same time."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_collection_finish() -> None:
    """The modules of five libraries are millions of objects that live to the end: without this, a
    fifth of the tests' time goes into looking whether they are garbage, and a quarter of the time
    to import them."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def without_curves(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small runs of training draw no picture of their curves, which takes as long as they do; but
    in the files whose tests look at it."""
    monitor = sys.modules.get("patchword.train.monitor")
    with pytest.MonkeyPatch.context() as patch:
        if monitor and request.module.__name__ not in DRAWING:
            patch.setattr(monitor, "curves", lambda path, rows: None)
        yield


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's tokenizer as hub repositories carry it."""
    from tiny_tokenizers import save_clip_tokenizer  # transformers, which not every test needs

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
    """A CLIP of random weights."""
    from small_models import tiny_bundle, tiny_clip

    return tiny_bundle(tiny_clip())


@pytest.fixture(scope="module")
def model(clip: Bundle) -> Bundle:
    """The same, in files whose `model` is no other."""
    return clip
