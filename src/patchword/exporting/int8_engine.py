"""A model whose vectors are computed in int8, by graphs that are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from patchword.bundle import Bundle
from patchword.engines.graph import kept
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
    """A model in float32 with int8 graphs of a library, `to`, which are made and put into `folder`
    where they are not there.

    photos: gives those that calibrate and measure.
    options: what `load` was given for it. Raises UnsupportedError for a model that int8 changes too
    much, see `int8.quantise`, a library that is missing, and a cache that cannot be written;
    CheckpointError for graphs there that are damaged.
    """
    library = LIBRARIES[to]

    def make(place: Path) -> None:
        files, agreements = write_graphs(model, library, place, photos())
        write_mark(model, library, files, place, True, agreements)

    place = kept(folder, make, to)
    engine, mark = with_graphs(place, advice=f"delete {place}, and it is made again")
    scope = model.scope and model.scope.rounded(spacing(mark, torch.float32))
    return replace(
        model,
        engine=engine,
        fingerprint=mark["fingerprint"],
        options={**model.options, **options},
        scope=scope,
    )
