"""An engine that runs a network's graphs by OpenVINO or onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from patchword.engines.graph import FEATURES, Shapes, cached_folder, graph_modules, graphs
from patchword.engines.libraries import Graph, Library, last_line
from patchword.engines.pixel_values import look_up
from patchword.engines.protocol import Ids, Pixels, Rows
from patchword.errors import UnsupportedError
from patchword.models.protocols import PairNetwork

Run = Callable[[Any], Any]  # a graph with one input and one output: array -> array


class GraphEngine:
    """A network's graphs, run on the CPU by another library. It gives vectors only."""

    device = torch.device("cpu")
    streams = False  # a graph has threads of its own

    def __init__(
        self,
        name: str,
        runs: Mapping[str, Run],
        dtype: torch.dtype,
        scale: float,
        bias: float,
        levels: Rows | None = None,
        graphs: Mapping[str, Graph] | None = None,
        agreement: Mapping[str, str] | None = None,
        exported_from: str = "",
    ) -> None:
        """runs: "image" and "text", as far as the network has these towers. levels: as in
        TorchEngine. graphs: all graphs of an exported model, by part. agreement: for int8, a text
        about how close the vectors of "image" and "text" are to those in float32. exported_from:
        the name of the model from which an exported one was created."""
        self.name, self.dtype, self.scale, self.bias = name, dtype, scale, bias
        self._runs, self._levels, self.graphs = runs, levels, graphs or {}
        self.agreement = agreement or {}
        self.advice = 'load it with engine="torch"'  # for what this engine cannot do
        if exported_from:
            self.advice = f"take the model that it was exported from: {exported_from}"

    def encode_image(self, pixels: Pixels) -> Rows:
        if "image" not in self._runs:
            raise UnsupportedError("this network has no image tower")
        batch = np.asarray(pixels)
        if batch.dtype == np.uint8 and self._levels is not None:
            batch = look_up(torch.from_numpy(batch), torch.from_numpy(self._levels)).numpy()
        return self._run("image", batch)

    def encode_text(self, ids: Ids) -> Rows:
        if "text" not in self._runs:
            raise UnsupportedError("this network has no text tower")
        return self._run("text", ids)

    def _run(self, part: str, values: Any) -> Rows:
        return np.asarray(self._runs[part](np.ascontiguousarray(values)), np.float32)


def create(
    library: Library, network: nn.Module, shapes: Shapes, dtype: torch.dtype, folder: Path
) -> GraphEngine:
    """The engine of a network's graphs in `folder`; they are created if they do not exist."""
    library.check(dtype)

    def save_graphs(place: Path) -> None:
        for part, program in graphs(network, shapes).items():
            library.save(program, place / f"{part}{library.suffix}", [FEATURES])

    place = cached_folder(folder, save_graphs, library.name)
    runs: dict[str, Run] = {}
    for part, (_, inputs) in graph_modules(network, shapes).items():
        path = place / f"{part}{library.suffix}"
        try:
            runs[part] = single(library.read(path, dtype), next(iter(inputs)), FEATURES)
        except UnsupportedError:  # the library is not installed
            raise
        except Exception as error:  # each library has its own errors for a damaged file
            raise UnsupportedError(
                f"engine {library.name} cannot read {path} ({last_line(error)}): delete "
                f"{place}, and it is made again"
            ) from error
    scale, bias = 1.0, 0.0
    if isinstance(network, PairNetwork):
        with torch.no_grad():
            scale, bias = float(network.scale), float(network.bias)
    return GraphEngine(library.name, runs, dtype, scale, bias, shapes.levels)


def single(graph: Graph, input_name: str, output_name: str) -> Run:
    """A graph as a function from one input to one output. It can be pickled."""
    return partial(_single, graph, input_name, output_name)


def _single(graph: Graph, input_name: str, output_name: str, values: Any) -> Any:
    return graph({input_name: values})[output_name]
