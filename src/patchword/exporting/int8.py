"""Graphs in int8, and how far they are from float32 on photos that they were not calibrated on.

By OpenVINO weights and activations of the image tower are int8, with ranges that NNCF takes from
photos (Kozlov et al. 2020), if other photos' vectors then still agree; else, and in the parts that
read texts, the weights alone. By onnxruntime all parts have int8 weights, and ranges of activations
are taken from each input while it runs.
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

from patchword.engines.libraries import OPENVINO, Arrays, Graph, Library, core, unreporting
from patchword.errors import UnsupportedError
from patchword.exporting.parts import IDS, PIXELS, Part
from patchword.optional import optional

Pixels = Sequence[NDArray[np.float32]]  # each (3, H, W), as the network takes it
Ids = NDArray[np.int64]  # of a text, (L,)
FEWEST = 16  # photos
MOST = 128  # photos
LEAST_COSINE = 0.99  # of a vector to that in float32
GOAL = 0.995  # of activations in int8, on photos that neither calibrate nor measure
NEEDS = "int8 for OpenVINO"


@dataclass(frozen=True)
class Agreement:
    """Cosines of vectors in int8 to those in float32. activations: they are int8 too, and not the
    weights alone."""

    mean: float
    least: float
    count: int
    activations: bool = True

    def __str__(self) -> str:
        found = f"cosine to float32: mean {self.mean:.5f}, least {self.least:.5f} of {self.count}"
        return found + "; weights alone in int8" * (not self.activations)


@dataclass(frozen=True)
class Photos:
    """Photos for int8, each (3, H, W), as the network takes it. like: they are like those that the
    model is for, so that ranges of activations can be taken from them."""

    pixels: Pixels
    like: bool = True


def calibrated(pixels: Pixels, like: bool) -> Photos:
    """Photos as `quantise` takes them. Raises UnsupportedError for too few."""
    if len(pixels) < FEWEST:
        raise UnsupportedError(
            f"int8 is calibrated on some photos and measured on others: give {FEWEST} or more, not "
            f"{len(pixels)}"
        )
    return Photos(pixels, like)


def quantise(
    library: Library, part: Part, whole: Path, path: Path, photos: Photos, ids: Sequence[Ids]
) -> Agreement | None:
    """Write the graph of a part that lies at `whole` in int8 to `path`; how the two agree. None for
    the parts of a BLIP that take what others give.

    photos: half of them calibrate, a quarter judges how, a quarter measures the result. ids: of
    texts.
    Raises UnsupportedError where a vector is less like its own in float32 than LEAST_COSINE.
    """
    pixels = photos.pixels
    if library.name == "onnx":
        activations = _onnx(whole, path)
    elif part.name == "image" and photos.like:
        activations = _openvino(whole, path, pixels[::2], pixels[1::4], part.outputs[-1])
    else:
        activations = _openvino_weights(whole, path)
    inputs: dict[str, list[Arrays]] = {
        "image": [{PIXELS: each[None]} for each in pixels[3::4]],
        "text": [{IDS: row[None]} for row in ids],
    }
    if not inputs.get(part.name):
        return None
    exact, other = library.read(whole, torch.float32), library.read(path, torch.int8)
    found = agreement(exact, other, inputs[part.name], part.outputs[-1])
    found = replace(found, activations=activations)
    if not found.least >= LEAST_COSINE:  # NaN, of outputs that are no numbers, too
        raise UnsupportedError(
            f"int8 changes this model too much: {found} of the {part.name} tower's vectors, and "
            f"{LEAST_COSINE} is the least that is written; export it without int8"
        )
    return found


def agreement(exact: Graph, other: Graph, inputs: Sequence[Arrays], output: str) -> Agreement:
    """How one output of two graphs agrees over some inputs."""
    cosines = [cosine(exact(each)[output], other(each)[output]) for each in inputs]
    return Agreement(float(np.mean(cosines)), float(np.min(cosines)), len(cosines))


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Of two outputs, each as one vector."""
    x, y = (each.astype(np.float64).ravel() for each in (a, b))
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _openvino(whole: Path, path: Path, photos: Pixels, others: Pixels, output: str) -> bool:
    """Weights and activations, with ranges from `photos`, where the vectors of `others` agree by
    GOAL; else weights alone. Whether activations are int8 too."""
    library, nncf = unreporting("openvino", NEEDS), unreporting("nncf", NEEDS)
    given = nncf.Dataset(photos, lambda each: {PIXELS: each[None]})
    with _quiet("nncf"):
        model = nncf.quantize(
            core().read_model(whole),
            given,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(photos),
        )
    library.save_model(model, path, compress_to_fp16=False)
    exact, other = OPENVINO.read(whole, torch.float32), OPENVINO.read(path, torch.int8)
    found = agreement(exact, other, [{PIXELS: each[None]} for each in others], output)
    return found.least >= GOAL or _openvino_weights(whole, path)


def _openvino_weights(whole: Path, path: Path) -> bool:
    library, nncf = unreporting("openvino", NEEDS), unreporting("nncf", NEEDS)
    with _quiet("nncf"):
        model = nncf.compress_weights(
            core().read_model(whole), mode=nncf.CompressWeightsMode.INT8_ASYM
        )
    library.save_model(model, path, compress_to_fp16=False)
    return False


def _onnx(whole: Path, path: Path) -> bool:
    name = "onnxruntime.quantization"
    quantization = optional(name, "fast", "int8 for onnxruntime", UnsupportedError)
    with _quiet("root"):  # it advises a step for networks that were traced otherwise
        quantization.quantize_dynamic(
            whole,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )
    return True


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """A logger that says errors alone meanwhile, and nothing on stdout, which is for results."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
