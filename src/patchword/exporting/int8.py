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
from typing import Any

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
MOST = 256  # photos
LEAST_COSINE = 0.99  # of a vector to that in float32
GOAL = 0.995  # before that is measured
NEEDS = "int8 for OpenVINO"
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


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
            f"int8 is calibrated on some photos and measured on others: give {FEWEST} or more, not "
            f"{len(pixels)}"
        )
    return pixels


def quantise(
    library: Library, part: Part, whole: Path, path: Path, pixels: Pixels, ids: Sequence[Ids]
) -> Agreement | None:
    """Write the graph of a part that lies at `whole` in int8 to `path`; how the two agree. None for
    the parts of a BLIP that take what others give.

    pixels: of photos: half of them calibrate, a quarter judges how, a quarter measures the result.
    ids: of texts.
    Raises UnsupportedError where a vector is less like its own in float32 than LEAST_COSINE.
    """
    if library.name == "onnx":
        _onnx(whole, path)
    elif part.name == "image":
        _openvino(whole, path, pixels[::2], pixels[1::4], part.outputs[-1])
    else:
        _openvino_weights(whole, path)
    inputs: dict[str, list[Arrays]] = {
        "image": [{PIXELS: each[None]} for each in pixels[3::4]],
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
    cosines = [cosine(exact(each)[output], other(each)[output]) for each in inputs]
    return Agreement(float(np.mean(cosines)), min(cosines), len(cosines))


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Of two outputs, each as one vector."""
    x, y = (each.astype(np.float64).ravel() for each in (a, b))
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _openvino(whole: Path, path: Path, photos: Pixels, others: Pixels, output: str) -> None:
    """Weights and activations, with ranges from `photos`; `others` judge. Where the least cosine is
    below GOAL, without SmoothQuant, which may fit the calibrating photos alone; then with those
    operations back in float32 that matter most."""
    library, nncf = unreporting("openvino", NEEDS), unreporting("nncf", NEEDS)
    given = nncf.Dataset(photos, lambda each: {PIXELS: each[None]})
    how: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(photos)}
    parameters = nncf.quantization.advanced_parameters
    rough = parameters.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)
    plain = parameters.AdvancedQuantizationParameters(smooth_quant_alphas=rough)
    exact = core().compile_model(whole, "CPU", EXACT)
    judges = [(each[None], exact({PIXELS: each[None]})[output]) for each in others]

    def score(compiled: Any, inputs: Any) -> tuple[float, list[float]]:
        cosines = [cosine(compiled({PIXELS: x})[output], right) for x, right in inputs]
        return min(cosines), cosines

    with _quiet("nncf"):
        for options in ({}, {"advanced_parameters": plain}):
            model = nncf.quantize(core().read_model(whole), given, **how, **options)
            compiled = core().compile_model(model, "CPU", EXACT)
            if score(compiled, judges)[0] >= GOAL:
                break
        else:
            model = nncf.quantize_with_accuracy_control(
                core().read_model(whole),
                given,
                nncf.Dataset(judges),
                score,
                max_drop=1 - GOAL,
                **how,
            )
    library.save_model(model, path, compress_to_fp16=False)


def _openvino_weights(whole: Path, path: Path) -> None:
    library, nncf = unreporting("openvino", NEEDS), unreporting("nncf", NEEDS)
    with _quiet("nncf"):
        model = nncf.compress_weights(
            core().read_model(whole), mode=nncf.CompressWeightsMode.INT8_ASYM
        )
    library.save_model(model, path, compress_to_fp16=False)


def _onnx(whole: Path, path: Path) -> None:
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
