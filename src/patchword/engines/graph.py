"""Exports a network's image and text encoders as graphs, for any number of images or texts."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from patchword.engines.libraries import quiet_export
from patchword.engines.protocol import Rows
from patchword.errors import UnsupportedError
from patchword.models.protocols import ImageNetwork, TextNetwork

MOST = 1 << 16  # images or texts at a time
MIN_LENGTH = {"length": 2, "question_length": 3}  # of an axis with that name; of any other 1
FEATURES = "features"  # name of the output of a graph with one output


@dataclass(frozen=True)
class Shapes:
    """The shapes of a model's inputs.

    size           (H, W) of an image; None for a model without an image tower
    context        most ids of a text; None for a model that does not embed texts
    padded         true: every text is padded to the context
    variable_size  true: each image has a size of its own (NaFlex), for which there is no graph
    levels         (3, 256), the normalised value of each level of a channel
    """

    size: tuple[int, int] | None
    context: int | None
    padded: bool = False
    variable_size: bool = False
    levels: Rows | None = field(default=None, compare=False)


class ImageGraph(nn.Module):
    """pixel_values (B, 3, H, W) -> features (B, D)."""

    def __init__(self, network: ImageNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.network.encode_image(pixel_values)


class TextGraph(nn.Module):
    """input_ids (B, L) -> features (B, D)."""

    def __init__(self, network: TextNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.network.encode_text(input_ids)


def graphs(network: nn.Module, shapes: Shapes) -> dict[str, ExportedProgram]:
    """The graphs of a network in float32, as far as it has these towers: "image", from
    "pixel_values" (B, 3, H, W) float32 to features (B, D), and "text", from "input_ids" (B, L)
    int64 to features (B, D).

    Raises UnsupportedError for a network whose images have sizes of their own.
    """
    modules = graph_modules(float32_copy(network, shapes), shapes)
    return {name: export_graph(module, inputs) for name, (module, inputs) in modules.items()}


def graph_modules(
    network: nn.Module, shapes: Shapes
) -> dict[str, tuple[nn.Module, dict[str, GraphInput]]]:
    """The modules to export, "image" and "text", each with its inputs by name."""
    modules: dict[str, tuple[nn.Module, dict[str, GraphInput]]] = {}
    if shapes.size is not None and isinstance(network, ImageNetwork):
        modules["image"] = ImageGraph(network), {"pixel_values": image_input(shapes.size)}
    if shapes.context is not None and isinstance(network, TextNetwork):
        ids = text_input(shapes.context, shapes.padded)
        modules["text"] = TextGraph(network), {"input_ids": ids}
    return modules


def float32_copy(network: nn.Module, shapes: Shapes) -> nn.Module:
    """A copy of a network in float32, for images of one size only: OpenVINO has no operation that
    resamples positions. Raises UnsupportedError for a network whose images have sizes of their
    own."""
    if shapes.variable_size:
        raise UnsupportedError(
            "a model that takes each image in its own shape has no graph for other engines; load "
            'it with engine="torch"'
        )
    copied = copy.deepcopy(network).float().eval()
    if shapes.size is not None and isinstance(copied, ImageNetwork):
        copied.image.fix_size(shapes.size)
    return copied


class GraphInput(NamedTuple):
    """An input of a graph: an example, and its axes of variable length, each with its name and
    maximum."""

    example: Tensor
    axes: Mapping[int, tuple[str, int]] = {0: ("batch", MOST)}


def image_input(size: tuple[int, int]) -> GraphInput:
    """Pixels (B, 3, H, W), H and W fixed."""
    return GraphInput(torch.zeros(2, 3, *size))


def text_input(
    context: int, padded: bool = False, axis: str = "length", reserved: int = 0
) -> GraphInput:
    """Ids (B, L), L at most the context without the reserved positions; with `padded` exactly that.
    axis: the name of the axis of L."""
    longest = context - reserved
    batch = ("batch", MOST)
    if padded:
        return GraphInput(torch.ones(2, longest, dtype=torch.int64), {0: batch})
    example = torch.ones(2, longest - 1, dtype=torch.int64)
    return GraphInput(example, {0: batch, 1: (axis, longest)})


def export_graph(module: nn.Module, inputs: Mapping[str, GraphInput]) -> ExportedProgram:
    """The graph of a module, whose `forward` takes `inputs` by their names. Axes with the same name
    have the same length."""
    dims: dict[str, Dim] = {}
    dynamic_shapes: dict[str, dict[int, Dim]] = {}
    for input_name, graph_input in inputs.items():
        dynamic_shapes[input_name] = {}
        for axis, (name, longest) in graph_input.axes.items():
            if name not in dims:
                dims[name] = Dim(name, min=MIN_LENGTH.get(name, 1), max=longest)
            dynamic_shapes[input_name][axis] = dims[name]
    examples = {name: graph_input.example for name, graph_input in inputs.items()}
    with torch.no_grad(), quiet_export():
        return torch.export.export(module, (), kwargs=examples, dynamic_shapes=dynamic_shapes)


def cached_folder(folder: Path, fill: Callable[[Path], None], engine: str) -> Path:
    """`folder` with an engine's graphs. If it does not exist, `fill` writes them, completely or not
    at all. Raises UnsupportedError if nothing can be written."""
    try:
        return folder if folder.is_dir() else _create_folder(folder, fill)
    except OSError as error:
        raise UnsupportedError(
            f"engine {engine} cannot keep its graphs in {folder}: {error.strerror or error}; name "
            "another place in the environment variable PATCHWORD_CACHE"
        ) from error


def _create_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        fill(temporary)
        try:
            os.rename(temporary, folder)
        except OSError:  # another process has created it
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
