"""Models whose vectors are computed in int8, by cached graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from patchword.bundle import Bundle
from patchword.engines.graph import cached_folder
from patchword.engines.libraries import LIBRARIES
from patchword.exporting.exported_model import spacing, with_graphs
from patchword.exporting.folder import write_graphs, write_mark
from patchword.exporting.int8 import Photos

M = TypeVar("M", bound=Bundle)


def in_int8(
    model: M,
    to: str,
    folder: Path,
    photos: Callable[[], Photos],
    options: dict[str, Any],
) -> M:
    """A model in float32 as one that runs int8 graphs of the library `to`. They are created in
    `folder` if they do not exist.

    photos: returns the photos for `int8.quantise`. options: the options of `load` for int8. Raises
    UnsupportedError for a model that int8 changes too much, for a missing library, and for a cache
    that cannot be written; CheckpointError for damaged graphs in the cache.
    """
    library = LIBRARIES[to]

    def write(place: Path) -> None:
        files, agreements = write_graphs(model, library, place, photos())
        write_mark(model, library, files, place, True, agreements)

    place = cached_folder(folder, write, to)
    engine, mark = with_graphs(place, advice=f"delete {place}, and it is made again")
    scope = model.scope and model.scope.rounded(spacing(mark, torch.float32))
    return replace(
        model,
        engine=engine,
        fingerprint=mark["fingerprint"],
        options={**model.options, **options},
        scope=scope,
    )
