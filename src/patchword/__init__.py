"""Image patches and words in one space.

import patchword
model = patchword.load("demo")
model.classify(["photo.jpg"], labels=["a hat", "a shirt"])
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from patchword.imports import uncollected

if TYPE_CHECKING:
    from patchword.api import Model, find_images, load, open_index, save
    from patchword.api.exports import export
    from patchword.api.inspecting import inspector
    from patchword.errors import (
        CheckpointError,
        CheckpointWarning,
        ConfigError,
        DarkWarning,
        FontWarning,
        ImageError,
        ImageWarning,
        IndexStoreError,
        LongTextWarning,
        MethodWarning,
        NoIndexError,
        NoRowError,
        PatchwordError,
        RecipeError,
        SameIdError,
        SameLabelsWarning,
        SameMapWarning,
        SampledWarning,
        ScopeWarning,
        SkippedFilesWarning,
        TokenizerError,
        UnseenWarning,
        UnsupportedError,
    )
    from patchword.exporting import Exported
    from patchword.images.tiles import Tiling
    from patchword.index import AddReport, Hit, Index
    from patchword.inspect.inspector import Inspector
    from patchword.inspect.result import Inspection
    from patchword.tasks.ask import Answer, Choice
    from patchword.tasks.attention import AttentionMap
    from patchword.tasks.caption import Caption
    from patchword.tasks.caption_attention import CaptionAttention
    from patchword.tasks.classify import Score
    from patchword.tasks.encoders import AnyRes, TextStates
    from patchword.tasks.match import Match, Reranked
    from patchword.tasks.token_attention import TokenAttention
    from patchword.where.heatmap import Heatmap
    from patchword.where.locate import Located, Region
    from patchword.where.segment import Segmentation, Share

# torch reads it at its first allocation: memory of 2 MiB or more is then on huge pages, so that the
# system does not fill thousands of small pages with zeros for each batch.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__all__ = [
    "AddReport",
    "Answer",
    "AnyRes",
    "AttentionMap",
    "Caption",
    "CaptionAttention",
    "CheckpointError",
    "CheckpointWarning",
    "Choice",
    "ConfigError",
    "DarkWarning",
    "Exported",
    "FontWarning",
    "Heatmap",
    "Hit",
    "ImageError",
    "ImageWarning",
    "Index",
    "IndexStoreError",
    "Inspection",
    "Inspector",
    "Located",
    "LongTextWarning",
    "Match",
    "MethodWarning",
    "Model",
    "NoIndexError",
    "NoRowError",
    "PatchwordError",
    "RecipeError",
    "Region",
    "Reranked",
    "SameIdError",
    "SameLabelsWarning",
    "SameMapWarning",
    "SampledWarning",
    "ScopeWarning",
    "Score",
    "Segmentation",
    "Share",
    "SkippedFilesWarning",
    "TextStates",
    "Tiling",
    "TokenAttention",
    "TokenizerError",
    "UnseenWarning",
    "UnsupportedError",
    "export",
    "find_images",
    "inspector",
    "load",
    "open_index",
    "save",
]

__version__ = version("patchword")


_MODULES = {  # of public names that are not in `api`
    "export": "api.exports",
    "inspector": "api.inspecting",
    "Tiling": "images.tiles",
    "AddReport": "index",
    "Exported": "exporting",
    "Hit": "index",
    "Index": "index",
    "Inspector": "inspect.inspector",
    "Inspection": "inspect.result",
    "Answer": "tasks.ask",
    "Choice": "tasks.ask",
    "AttentionMap": "tasks.attention",
    "Caption": "tasks.caption",
    "CaptionAttention": "tasks.caption_attention",
    "Score": "tasks.classify",
    "AnyRes": "tasks.encoders",
    "TextStates": "tasks.encoders",
    "Match": "tasks.match",
    "Reranked": "tasks.match",
    "TokenAttention": "tasks.token_attention",
    "Heatmap": "where.heatmap",
    "Located": "where.locate",
    "Region": "where.locate",
    "Segmentation": "where.segment",
    "Share": "where.segment",
}


def _public(name: str) -> Any:
    """Import a public name at its first use, so that `patchword --help` does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module 'patchword' has no attribute {name!r}")
    default = "errors" if name.endswith(("Error", "Warning")) else "api"
    with uncollected():
        return getattr(import_module(f"patchword.{_MODULES.get(name, default)}"), name)


if not TYPE_CHECKING:  # a type checker must not accept any other name
    __getattr__ = _public


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
