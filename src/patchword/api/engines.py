"""Another engine for a model."""

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
    """The model, its vectors computed by the engine of that name. Graphs are kept in the cache, by
    the model's fingerprint. Raises UnsupportedError, see `choose.engine`."""
    shapes = replace(shapes_of(model.config), levels=model.preprocess.levels)
    return replace(model, engine=choose.engine(name, model.own_network, shapes, _graphs(model)))


def in_int8(model: Model, engine: str, photos: Photos | None) -> Model:
    """The model, its vectors computed in int8 by "openvino" or "onnx". Graphs are kept in the
    cache, by the model's fingerprint and the paths, sizes and times of the photos.

    photos: to calibrate and to measure, see `exporting.export`; None: for the embedded models
    alone. Raises UnsupportedError for another engine, a device other than the CPU,
    a model without such photos, and one that int8 changes too much.
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
        given = [os.fspath(each) for each in several(photos)]
        options["calibrate"] = [os.path.abspath(p) if os.path.exists(p) else p for p in given]
        names = find_images(given)
        place = place.with_name(f"{place.name}-{_digest(names)}")
    return exporting.in_int8(model, engine, place, lambda: calibration(model, names), options)


def _graphs(model: Model) -> Path:
    return cache.folder() / "graphs-2" / model.fingerprint


def _digest(names: Iterable[str]) -> str:
    """By which other photos, and changed ones, are known."""
    digest = hashlib.sha256()
    for name in names:
        path = split(name)[0]  # stack.tif, of stack.tif#3
        known = os.stat(path) if os.path.isfile(path) else None
        of_file = (known.st_size, known.st_mtime_ns) if known else ()
        digest.update(repr((os.path.abspath(name), *of_file)).encode())
    return digest.hexdigest()[:12]
