"""Image patches and words in one space.

import patchword
model = patchword.load("demo")
model.classify(["photo.jpg"], labels=["a hat", "a shirt"])
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchword.api import (
        Answer,
        AttentionMap,
        Caption,
        Heatmap,
        Hit,
        Match,
        Model,
        Score,
        load,
        open_index,
        save,
    )
    from patchword.errors import CheckpointError, ImageError, PatchwordError, UnsupportedError

__all__ = [
    "Answer",
    "AttentionMap",
    "Caption",
    "CheckpointError",
    "Heatmap",
    "Hit",
    "ImageError",
    "Match",
    "Model",
    "PatchwordError",
    "Score",
    "UnsupportedError",
    "load",
    "open_index",
    "save",
]

__version__ = version("patchword")


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `patchword --help` waits for no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'patchword' has no attribute {name!r}")
    home = "patchword.errors" if name.endswith("Error") else "patchword.api"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
