"""Creates engines by their names."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path

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
FAST = "openvino"  # faster than torch and onnx on CPUs in every row of docs/benchmarks.md


def engine(name: str, network: nn.Module, shapes: Shapes, folder: Path) -> Engine:
    """The engine of that name for a network, on the network's device and in its type.

    torch     runs the network's Python code
    auto      torch; for images on a CPU, after `auto.MANY` of them, openvino if that is installed
              and the network has a graph
    compile   kernels by torch.compile, which takes seconds at the first batch and at the first
              batch of another size
    openvino  Intel's library for CPUs, in float32 or bfloat16
    onnx      onnxruntime, in float32

    folder: the cache for graphs of the last two. Raises UnsupportedError for another name, for a
    device or type that an engine does not support, and for a library that is not installed.
    """
    if name not in ENGINES:
        raise UnsupportedError(
            f"no engine {name!r}{nearest(name, ENGINES)}; there are {', '.join(ENGINES)}"
        )
    weight = next(network.parameters())
    device, dtype = weight.device, weight.dtype
    fast = LIBRARIES[FAST]
    supported = device.type == "cpu" and dtype in fast.dtypes and not shapes.variable_size
    if name == "auto" and supported and find_spec(FAST):
        create = partial(graph_engine.create, fast, network, shapes, dtype, folder / FAST)
        return AutoEngine(network, shapes.levels, shapes.variable_size, create)
    if name not in LIBRARIES:
        compiled = name == "compile"
        return TorchEngine(network, shapes.levels, shapes.variable_size, compiled)
    if device.type != "cpu":
        raise UnsupportedError(f"engine {name} runs on the CPU, not on {device}")
    return graph_engine.create(LIBRARIES[name], network, shapes, dtype, folder / name)
