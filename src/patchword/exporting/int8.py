"""Graphs in int8, and their agreement with float32 on photos that did not calibrate them.

For OpenVINO, weights and activations of the image tower are int8, with ranges that NNCF takes from
photos (Kozlov et al. 2020), if the vectors of other photos then still agree with float32.
Otherwise, and in the parts that read texts, only the weights are int8. For onnxruntime all parts
have int8 weights, and ranges of activations are computed for each input.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.engines.libraries import (
    OPENVINO,
    Arrays,
    Graph,
    Library,
    core,
    import_without_telemetry,
)
from patchword.errors import UnsupportedError
from patchword.exporting.parts import IDS, PIXELS, Part
from patchword.optional import optional

Pixels = Sequence[NDArray[np.float32]]  # each (3, H, W), as the network takes it
Ids = NDArray[np.int64]  # of a text, (L,)
FEWEST = 16  # photos
MOST = 128  # photos
LEAST_COSINE = 0.99  # between a vector and the same vector in float32
GOAL = 0.995  # least cosine for int8 activations, on photos that neither calibrate nor measure
NEEDS = "int8 for OpenVINO"


@dataclass(frozen=True)
class Agreement:
    """Cosines between vectors in int8 and in float32. activations: false if only the weights are
    int8."""

    mean: float
    least: float
    count: int
    activations: bool = True

    def __str__(self) -> str:
        text = f"cosine to float32: mean {self.mean:.5f}, least {self.least:.5f} of {self.count}"
        return text if self.activations else f"{text}; weights alone in int8"


@dataclass(frozen=True)
class Photos:
    """Preprocessed photos for int8, each (3, H, W). representative: true if they are similar to
    those that the model is used for, so that ranges of activations can be taken from them."""

    pixels: Pixels
    representative: bool = True


def calibrated(pixels: Pixels, representative: bool) -> Photos:
    """Photos for `quantise`. Raises UnsupportedError for too few."""
    if len(pixels) < FEWEST:
        raise UnsupportedError(
            f"int8 is calibrated on some photos and measured on others: give {FEWEST} or more, not "
            f"{len(pixels)}"
        )
    return Photos(pixels, representative)


def quantise(
    library: Library, part: Part, exact: Path, path: Path, photos: Photos, ids: Sequence[Ids]
) -> Agreement | None:
    """Convert the float32 graph at `exact` to int8 at `path`. Returns their agreement; None for the
    parts of a BLIP whose inputs are outputs of other parts.

    photos: half of them calibrate, a quarter decides whether activations are int8, a quarter
    measures the result. ids: of texts. Raises UnsupportedError for a cosine below LEAST_COSINE.
    """
    pixels = photos.pixels
    if library.name == "onnx":
        activations = _onnx(exact, path)
    elif part.name == "image" and photos.representative:
        activations = _openvino(exact, path, pixels[::2], pixels[1::4], part.outputs[-1])
    else:
        activations = _openvino_weights(exact, path)
    inputs: dict[str, list[Arrays]] = {
        "image": [{PIXELS: photo[None]} for photo in pixels[3::4]],
        "text": [{IDS: row[None]} for row in ids],
    }
    if not inputs.get(part.name):
        return None
    float32, int8 = library.read(exact, torch.float32), library.read(path, torch.int8)
    result = agreement(float32, int8, inputs[part.name], part.outputs[-1])
    result = replace(result, activations=activations)
    if not result.least >= LEAST_COSINE:  # true for NaN too
        raise UnsupportedError(
            f"int8 changes this model too much: {result} of the {part.name} tower's vectors, and "
            f"{LEAST_COSINE} is the least that is written; export it without int8"
        )
    return result


def agreement(exact: Graph, other: Graph, inputs: Sequence[Arrays], output: str) -> Agreement:
    """The agreement of one output of two graphs over some inputs."""
    cosines = [cosine(exact(arrays)[output], other(arrays)[output]) for arrays in inputs]
    return Agreement(float(np.mean(cosines)), float(np.min(cosines)), len(cosines))


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The cosine between two arrays, each as one vector."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _openvino(exact: Path, path: Path, photos: Pixels, others: Pixels, output: str) -> bool:
    """Quantise weights and activations, with ranges from `photos`; only the weights if the vectors
    of `others` do not agree by GOAL. Returns whether activations are int8."""
    library = import_without_telemetry("openvino", NEEDS)
    nncf = import_without_telemetry("nncf", NEEDS)
    dataset = nncf.Dataset(photos, lambda photo: {PIXELS: photo[None]})
    with _quiet("nncf"):
        model = nncf.quantize(
            core().read_model(exact),
            dataset,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(photos),
        )
    library.save_model(model, path, compress_to_fp16=False)
    float32, int8 = OPENVINO.read(exact, torch.float32), OPENVINO.read(path, torch.int8)
    result = agreement(float32, int8, [{PIXELS: photo[None]} for photo in others], output)
    if result.least >= GOAL:
        return True
    return _openvino_weights(exact, path)


def _openvino_weights(exact: Path, path: Path) -> bool:
    library = import_without_telemetry("openvino", NEEDS)
    nncf = import_without_telemetry("nncf", NEEDS)
    with _quiet("nncf"):
        model = nncf.compress_weights(
            core().read_model(exact), mode=nncf.CompressWeightsMode.INT8_ASYM
        )
    library.save_model(model, path, compress_to_fp16=False)
    return False


def _onnx(exact: Path, path: Path) -> bool:
    name = "onnxruntime.quantization"
    quantization = optional(name, "fast", "int8 for onnxruntime", UnsupportedError)
    with _quiet("root"):  # its advice is for networks that were exported in another way
        quantization.quantize_dynamic(
            exact,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )
    return True


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let a logger report errors only, and keep stdout empty, which is for results."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
