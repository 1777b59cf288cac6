"""Engines by their names."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from patchword.engines import graph_engine
from patchword.engines.graph import Shapes
from patchword.engines.libraries import LIBRARIES
from patchword.engines.protocol import Engine
from patchword.engines.torch_engine import TorchEngine
from patchword.errors import UnsupportedError
from patchword.options import nearest

ENGINES = ("torch", "compile", "openvino", "onnx")


def engine(name: str, network: nn.Module, shapes: Shapes, folder: Path) -> Engine:
    """The engine of that name for a network, on the network's device and in its type.

    torch     runs it as it is written
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
    if name in ("torch", "compile"):
        return TorchEngine(network, shapes.levels, shapes.own, compiled=name == "compile")
    device, dtype = _of(network)
    if device.type != "cpu":
        raise UnsupportedError(f"engine {name} runs on the CPU, not on {device}")
    return graph_engine.made(LIBRARIES[name], network, shapes, dtype, folder / name)


def _of(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    weight = next(network.parameters())
    return weight.device, weight.dtype
