"""Engines by their names."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from patchword.engines import graph_engine
from patchword.engines.auto import AutoEngine
from patchword.engines.graph import Shapes
from patchword.engines.libraries import LIBRARIES
from patchword.engines.protocol import Engine
from patchword.engines.torch_engine import TorchEngine
from patchword.errors import UnsupportedError
from patchword.options import nearest

ENGINES = ("torch", "auto", "compile", "openvino", "onnx")
FAST = "openvino"  # ahead of torch and of onnx on CPUs, in every row of docs/benchmarks.md


def engine(name: str, network: nn.Module, shapes: Shapes, folder: Path) -> Engine:
    """The engine of that name for a network, on the network's device and in its type.

    torch     runs it as it is written
    auto      torch; for images on a CPU, after `auto.MANY` of them, openvino where that is
              installed and the network has a graph
    compile   torch.compile makes kernels for it: seconds at the first batch, and again at the first
              of another size
    openvino  Intel's library for CPUs, in float32 or bfloat16
    onnx      onnxruntime, in float32

    folder: where the graphs of the last two are kept. Raises UnsupportedError for another name, a
    device or type that an engine does not have, and for a library that is not installed.
    """
    if name not in ENGINES:
        raise UnsupportedError(
            f"no engine {name!r}{nearest(name, ENGINES)}; there are {', '.join(ENGINES)}"
        )
    device, dtype = _of(network)
    fast = LIBRARIES[FAST]
    able = device.type == "cpu" and dtype in fast.dtypes and not shapes.own
    if name == "auto" and able and find_spec(FAST):
        make = partial(graph_engine.made, fast, network, shapes, dtype, folder / FAST)
        return AutoEngine(network, shapes.levels, shapes.own, make)
    if name not in LIBRARIES:
        return TorchEngine(network, shapes.levels, shapes.own, compiled=name == "compile")
    if device.type != "cpu":
        raise UnsupportedError(f"engine {name} runs on the CPU, not on {device}")
    return graph_engine.made(LIBRARIES[name], network, shapes, dtype, folder / name)


def _of(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    weight = next(network.parameters())
    return weight.device, weight.dtype
