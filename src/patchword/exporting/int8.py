"""Graphs in int8, and how far they are from float32 on photos that they were not calibrated on.

By OpenVINO weights and activations of the image tower are int8, with ranges that NNCF takes from
photos (Kozlov et al. 2020), and the weights alone of the parts that read texts. By onnxruntime all
parts have int8 weights, and ranges of activations are taken from each input while it runs.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.engines.libraries import Arrays, Graph, Library, core, unreporting
from patchword.errors import UnsupportedError
from patchword.exporting.parts import IDS, PIXELS, Part
from patchword.optional import optional

Pixels = Sequence[NDArray[np.float32]]  # each (3, H, W), as the network takes it
Ids = NDArray[np.int64]  # of a text, (L,)
FEWEST = 16  # photos
MOST = 256  # photos: half to calibrate on, half to measure on
LEAST_COSINE = 0.99  # of a vector to that in float32
NEEDS = "int8 for OpenVINO"


@dataclass(frozen=True)
class Agreement:
    """Cosines of vectors in int8 to those in float32."""

    mean: float
    least: float
    count: int

    def __str__(self) -> str:
        return f"cosine to float32: mean {self.mean:.5f}, least {self.least:.5f} of {self.count}"


def calibrated(pixels: Pixels) -> Pixels:
    """Photos as `quantise` takes them. Raises UnsupportedError for too few."""
    if len(pixels) < FEWEST:
        raise UnsupportedError(
            f"int8 is calibrated on every other photo and measured on the rest: give {FEWEST} "
            f"photos or more, not {len(pixels)}"
        )
    return pixels


def quantise(
    library: Library, part: Part, whole: Path, path: Path, pixels: Pixels, ids: Sequence[Ids]
) -> Agreement | None:
    """Write the graph of a part that lies at `whole` in int8 to `path`; how the two agree. None for
    the parts of a BLIP that take what others give.

    pixels: of photos: every other one calibrates, the rest measure. ids: of texts.
    Raises UnsupportedError where a vector is less like its own in float32 than LEAST_COSINE.
    """
    calibrating = pixels[::2] if part.name == "image" else ()
    (_openvino if library.name == "openvino" else _onnx)(whole, path, calibrating)
    inputs: dict[str, list[Arrays]] = {
        "image": [{PIXELS: each[None]} for each in pixels[1::2]],
        "text": [{IDS: row[None]} for row in ids],
    }
    if not inputs.get(part.name):
        return None
    exact, other = (library.read(each, torch.float32) for each in (whole, path))
    found = agreement(exact, other, inputs[part.name], part.outputs[-1])
    if found.least < LEAST_COSINE:
        raise UnsupportedError(
            f"int8 changes this model too much: {found} of the {part.name} tower's vectors, and "
            f"{LEAST_COSINE} is the least that is written; export it without int8"
        )
    return found


def agreement(exact: Graph, other: Graph, inputs: Sequence[Arrays], output: str) -> Agreement:
    """How one output of two graphs agrees over some inputs."""
    cosines = []
    for each in inputs:
        a, b = (run(each)[output].astype(np.float64).ravel() for run in (exact, other))
        cosines.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return Agreement(float(np.mean(cosines)), min(cosines), len(cosines))


def _openvino(whole: Path, path: Path, calibrating: Pixels) -> None:
    library, nncf = unreporting("openvino", NEEDS), unreporting("nncf", NEEDS)
    model = core().read_model(whole)
    with _quiet("nncf"):
        if calibrating:
            photos = nncf.Dataset(calibrating, lambda each: {PIXELS: each[None]})
            size = len(calibrating)
            kind = nncf.ModelType.TRANSFORMER
            model = nncf.quantize(model, photos, model_type=kind, subset_size=size)
        else:
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    library.save_model(model, path, compress_to_fp16=False)


def _onnx(whole: Path, path: Path, calibrating: Pixels) -> None:
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
