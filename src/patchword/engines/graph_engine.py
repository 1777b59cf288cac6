"""Engines that run a network's graphs elsewhere than in torch: OpenVINO and onnxruntime."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from patchword.engines.graph import Shapes, graphs, kept
from patchword.engines.levels import looked_up
from patchword.engines.protocol import Ids, Pixels, Rows
from patchword.errors import UnsupportedError
from patchword.models.protocols import PairNetwork
from patchword.optional import optional

Run = Callable[[Any], Any]  # of one graph: an array in, an array out


class GraphEngine:
    """A network's graphs, run on the CPU by another library. It gives vectors alone."""

    device = torch.device("cpu")

    def __init__(
        self,
        name: str,
        runs: Mapping[str, Run],
        dtype: torch.dtype,
        scale: float,
        bias: float,
        levels: Rows | None = None,
    ) -> None:
        """runs: "image" and "text", of those that the network has. levels: as of TorchEngine."""
        self.name, self.dtype, self.scale, self.bias = name, dtype, scale, bias
        self._runs, self._levels = runs, levels

    def encode_image(self, pixels: Pixels) -> Rows:
        if "image" not in self._runs:
            raise UnsupportedError("this network has no image tower")
        batch = np.stack(pixels)
        if batch.dtype == np.uint8 and self._levels is not None:
            batch = looked_up(torch.from_numpy(batch), torch.from_numpy(self._levels)).numpy()
        return self._run("image", batch)

    def encode_text(self, ids: Ids) -> Rows:
        if "text" not in self._runs:
            raise UnsupportedError("this network has no text tower")
        return self._run("text", ids)

    def _run(self, part: str, values: Any) -> Rows:
        return np.asarray(self._runs[part](np.ascontiguousarray(values)), np.float32)


def openvino(network: nn.Module, shapes: Shapes, dtype: torch.dtype, folder: Path) -> GraphEngine:
    """By OpenVINO, in float32 or bfloat16. folder: where its graphs are kept; made if need be."""
    # It would tell its makers of each import and each graph, by a process each time; where it is
    # not there, OpenVINO tells nobody.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    library = optional("openvino", "fast", "engine openvino", UnsupportedError)
    hint = {torch.float32: "f32", torch.bfloat16: "bf16"}.get(dtype)
    if hint is None:
        raise UnsupportedError(_no_type("openvino", dtype, "float32 and bfloat16"))

    def save(program: ExportedProgram, place: Path) -> None:
        library.save_model(
            library.convert_model(program), place.with_suffix(".xml"), compress_to_fp16=False
        )

    def read(place: Path) -> Run:
        # Without a hint OpenVINO takes bfloat16 where the processor has it.
        options = {"INFERENCE_PRECISION_HINT": hint}
        compiled = _core(library).compile_model(place.with_suffix(".xml"), "CPU", options)
        return lambda values: compiled(values)[0]

    return _made("openvino", network, shapes, dtype, folder, save, read)


@cache
def _core(openvino: ModuleType) -> Any:
    """OpenVINO's one core of this process, kept to its end. A core gives signals a stack of its own
    and takes it away when it goes: where two of them go, the older first, signals are left with a
    stack that is no more, and the next signal ends the process."""
    return openvino.Core()


def onnx(network: nn.Module, shapes: Shapes, dtype: torch.dtype, folder: Path) -> GraphEngine:
    """By onnxruntime, in float32. folder: where its graphs are kept; made if need be."""
    library = optional("onnxruntime", "fast", "engine onnx", UnsupportedError)
    optional("onnxscript", "fast", "engine onnx", UnsupportedError)
    if dtype != torch.float32:
        raise UnsupportedError(_no_type("onnx", dtype, "float32"))

    def save(program: ExportedProgram, place: Path) -> None:
        model = torch.onnx.export(program, dynamo=True, verbose=False)
        assert model is not None  # only without dynamo it is
        model.save(str(place.with_suffix(".onnx")), external_data=True)

    def read(place: Path) -> Run:
        session = library.InferenceSession(place.with_suffix(".onnx"))
        (given,) = (each.name for each in session.get_inputs())
        return lambda values: session.run(None, {given: values})[0]

    return _made("onnx", network, shapes, dtype, folder, save, read)


def _no_type(name: str, dtype: torch.dtype, known: str) -> str:
    return f"engine {name} computes in {known}, not in {str(dtype).removeprefix('torch.')}"


def _made(
    name: str,
    network: nn.Module,
    shapes: Shapes,
    dtype: torch.dtype,
    folder: Path,
    save: Callable[[ExportedProgram, Path], None],
    read: Callable[[Path], Run],
) -> GraphEngine:
    """An engine of the graphs in `folder`, which are made first where they are not there."""

    def make(place: Path) -> None:
        for part, program in graphs(network, shapes).items():
            save(program, place / part)

    try:
        place = kept(folder, make)
    except OSError as error:
        raise UnsupportedError(
            f"engine {name} cannot keep its graphs in {folder}: {error.strerror or error}; name "
            "another place in the environment variable PATCHWORD_CACHE"
        ) from error
    parts = [part for part in ("image", "text") if any(place.glob(f"{part}.*"))]
    runs: dict[str, Run] = {}
    for part in parts:
        try:
            runs[part] = read(place / part)
        except Exception as error:  # each library has its own for a file that is damaged
            raise UnsupportedError(
                f"engine {name} cannot read {place / part} ({str(error).splitlines()[0]}): delete "
                f"{place}, and it is made again"
            ) from error
    scale, bias = 1.0, 0.0
    if isinstance(network, PairNetwork):
        with torch.no_grad():
            scale, bias = float(network.scale), float(network.bias)
    return GraphEngine(name, runs, dtype, scale, bias, shapes.levels)
