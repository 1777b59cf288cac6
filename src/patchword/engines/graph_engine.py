"""An engine that runs a network's graphs elsewhere than in torch: by OpenVINO or onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from patchword.engines.graph import FEATURES, Shapes, graphs, kept, ways_in
from patchword.engines.libraries import Graph, Library, cause
from patchword.engines.pixel_values import looked_up
from patchword.engines.protocol import Ids, Pixels, Rows
from patchword.errors import UnsupportedError
from patchword.models.protocols import PairNetwork

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
        graphs: Mapping[str, Graph] | None = None,
        agreement: Mapping[str, str] | None = None,
        exported_from: str = "",
    ) -> None:
        """runs: "image" and "text", of those that the network has. levels: as of TorchEngine.
        graphs: of an exported model, all of them by their parts. agreement: in int8, how near the
        vectors of "image" and "text" are to those in float32, in words. exported_from: the name of
        the model that an exported one was."""
        self.name, self.dtype, self.scale, self.bias = name, dtype, scale, bias
        self._runs, self._levels, self.graphs = runs, levels, graphs or {}
        self.agreement = agreement or {}
        self.advice = 'load it with engine="torch"'  # for what it does not give
        if exported_from:
            self.advice = f"take the model that it was exported from: {exported_from}"

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


def made(
    library: Library, network: nn.Module, shapes: Shapes, dtype: torch.dtype, folder: Path
) -> GraphEngine:
    """The engine of a network's graphs in `folder`, which are made first where they are not
    there."""
    library.check(dtype)

    def make(place: Path) -> None:
        for part, program in graphs(network, shapes).items():
            library.save(program, place / f"{part}{library.suffix}", [FEATURES])

    place = kept(folder, make, library.name)
    runs: dict[str, Run] = {}
    for part, (_, inputs) in ways_in(network, shapes).items():
        path = place / f"{part}{library.suffix}"
        try:
            runs[part] = single(library.read(path, dtype), next(iter(inputs)), FEATURES)
        except UnsupportedError:  # it is not installed
            raise
        except Exception as error:  # each library has its own for a file that is damaged
            raise UnsupportedError(
                f"engine {library.name} cannot read {path} ({cause(error)}): delete "
                f"{place}, and it is made again"
            ) from error
    scale, bias = 1.0, 0.0
    if isinstance(network, PairNetwork):
        with torch.no_grad():
            scale, bias = float(network.scale), float(network.bias)
    return GraphEngine(library.name, runs, dtype, scale, bias, shapes.levels)


def single(graph: Graph, given: str, wanted: str) -> Run:
    """A graph as a function of one of its inputs that gives one of its outputs."""
    return partial(_single, graph, given, wanted)


def _single(graph: Graph, given: str, wanted: str, values: Any) -> Any:
    return graph({given: values})[wanted]
