"""Models with other engines."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchword import cache, exporting
from patchword.api.exports import calibration
from patchword.api.image_lists import find_images
from patchword.api.model import Model
from patchword.engines import choose
from patchword.engines.libraries import LIBRARIES
from patchword.errors import UnsupportedError
from patchword.exporting.parts import shapes_of
from patchword.images.files import several
from patchword.images.pages import split

Photos = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def on_engine(model: Model, name: str) -> Model:
    """The model with the engine of that name. Graphs are cached by the model's fingerprint. Raises
    UnsupportedError, see `choose.engine`."""
    shapes = replace(shapes_of(model.config), levels=model.preprocess.levels)
    return replace(model, engine=choose.engine(name, model.own_network, shapes, _graphs(model)))


def in_int8(model: Model, engine: str, photos: Photos | None) -> Model:
    """The model with vectors in int8 by "openvino" or "onnx". Graphs are cached by the model's
    fingerprint and the paths, sizes and times of the photos.

    photos: for calibration and measurement, see `exporting.export`; None: only for the embedded
    models. Raises UnsupportedError for another engine, for another device than the CPU, if photos
    are missing, and for a model that int8 changes too much.
    """
    if engine not in LIBRARIES:
        raise UnsupportedError(
            f"dtype int8 is of the engines {' and '.join(LIBRARIES)}, not of {engine}: give "
            'engine="openvino" too'
        )
    if model.device.type != "cpu":
        raise UnsupportedError(f"engine {engine} runs on the CPU, not on {model.device}")
    options: dict[str, Any] = {"dtype": "int8", "engine": engine}
    place, names = _graphs(model) / f"{engine}-int8", None
    if photos is not None:
        paths = [os.fspath(path) for path in several(photos)]
        options["calibrate"] = [
            os.path.abspath(path) if os.path.exists(path) else path for path in paths
        ]
        names = find_images(paths)
        place = place.with_name(f"{place.name}-{_digest(names)}")
    return exporting.in_int8(model, engine, place, lambda: calibration(model, names), options)


def _graphs(model: Model) -> Path:
    return cache.folder() / "graphs-2" / model.fingerprint


def _digest(names: Iterable[str]) -> str:
    """A hash that differs for other photos and for changed ones."""
    digest = hashlib.sha256()
    for name in names:
        parts: list[str | int] = [os.path.abspath(name)]
        path, _ = split(name)  # stack.tif, of stack.tif#3
        if os.path.isfile(path):
            status = os.stat(path)
            parts += [status.st_size, status.st_mtime_ns]
        digest.update(repr(tuple(parts)).encode())
    return digest.hexdigest()[:12]
