"""A network's two ways in as graphs that other engines read, for any number of images or texts."""

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

from patchword.engines.libraries import torch_untold
from patchword.engines.protocol import Rows
from patchword.errors import UnsupportedError
from patchword.models.protocols import ImageNetwork, TextNetwork

MOST = 1 << 16  # images or texts at a time
LEAST = {"length": 2, "asked": 3}  # of an axis of that name; of any other 1
FEATURES = "features"  # what a graph of one output calls it


@dataclass(frozen=True)
class Shapes:
    """What a model's graphs take.

    size     (H, W) of an image; None for a model without an image tower
    context  ids of a text at most; None for a model that embeds no text
    full     every text is padded to the context
    own      each image keeps its own shape (NaFlex), for which there is no graph
    levels   (3, 256): what each level of a channel is for the network
    """

    size: tuple[int, int] | None
    context: int | None
    full: bool = False
    own: bool = False
    levels: Rows | None = field(default=None, compare=False)


class Images(nn.Module):
    """pixel_values (B, 3, H, W) -> features (B, D)."""

    def __init__(self, network: ImageNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.network.encode_image(pixel_values)


class Texts(nn.Module):
    """input_ids (B, L) -> features (B, D)."""

    def __init__(self, network: TextNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.network.encode_text(input_ids)


def graphs(network: nn.Module, shapes: Shapes) -> dict[str, ExportedProgram]:
    """The graphs of a network in float32: "image", from "pixel_values" (B, 3, H, W) float32 to
    features (B, D), and "text", from "input_ids" (B, L) int64; of those that it has.

    Raises UnsupportedError for a network that takes images each in its own shape.
    """
    plain = evaluated(network, shapes)
    return {
        name: traced(module, inputs) for name, (module, inputs) in ways_in(plain, shapes).items()
    }


def ways_in(network: nn.Module, shapes: Shapes) -> dict[str, tuple[nn.Module, dict[str, Given]]]:
    """What becomes a graph of a network, by its name, "image" and "text", and what each takes."""
    found: dict[str, tuple[nn.Module, dict[str, Given]]] = {}
    if shapes.size is not None and isinstance(network, ImageNetwork):
        found["image"] = Images(network), {"pixel_values": images(shapes.size)}
    if shapes.context is not None and isinstance(network, TextNetwork):
        found["text"] = Texts(network), {"input_ids": texts(shapes.context, shapes.full)}
    return found


def evaluated(network: nn.Module, shapes: Shapes) -> nn.Module:
    """A copy of a network in float32, for images of its size alone: OpenVINO has no operation that
    resamples positions. Raises UnsupportedError for one that takes images each in its own shape."""
    if shapes.own:
        raise UnsupportedError(
            "a model that takes each image in its own shape has no graph for other engines; load "
            'it with engine="torch"'
        )
    copied = copy.deepcopy(network).float().eval()
    if shapes.size is not None and isinstance(copied, ImageNetwork):
        copied.image.fix_size(shapes.size)
    return copied


class Given(NamedTuple):
    """An input of a graph: an example, and the names of those axes that may have any length, each
    with the most that it may have."""

    example: Tensor
    axes: Mapping[int, tuple[str, int]] = {0: ("batch", MOST)}


def images(size: tuple[int, int]) -> Given:
    """Pixels (B, 3, H, W), H and W fixed."""
    return Given(torch.zeros(2, 3, *size))


def texts(context: int, full: bool = False, named: str = "length", spare: int = 0) -> Given:
    """Ids (B, L), L at most the context, less the spare positions; with `full` always that. named:
    the axis of L."""
    lengths = {} if full else {1: (named, context - spare)}
    example = torch.ones(2, context - spare - (not full), dtype=torch.int64)
    return Given(example, {0: ("batch", MOST), **lengths})


def traced(module: nn.Module, inputs: Mapping[str, Given]) -> ExportedProgram:
    """The graph of a module, by the names of what its `forward` takes. Axes of one name are equally
    long."""
    named = {name: most for each in inputs.values() for name, most in each.axes.values()}
    sizes = {name: Dim(name, min=LEAST.get(name, 1), max=most) for name, most in named.items()}
    axes = {n: {axis: sizes[name] for axis, (name, _) in g.axes.items()} for n, g in inputs.items()}
    examples = {name: given.example for name, given in inputs.items()}
    with torch.no_grad(), torch_untold():
        return torch.export.export(module, (), kwargs=examples, dynamic_shapes=axes)


def kept(folder: Path, make: Callable[[Path], None], engine: str) -> Path:
    """`folder` with the graphs of an engine that `make` writes into it: made once, whole or not at
    all. Raises UnsupportedError where nothing can be written."""
    try:
        return folder if folder.is_dir() else _made(folder, make)
    except OSError as error:
        raise UnsupportedError(
            f"engine {engine} cannot keep its graphs in {folder}: {error.strerror or error}; name "
            "another place in the environment variable PATCHWORD_CACHE"
        ) from error


def _made(folder: Path, make: Callable[[Path], None]) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        make(beside)
        try:
            os.rename(beside, folder)
        except OSError:  # another process was sooner
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder
