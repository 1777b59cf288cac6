"""A network's two ways in as graphs that other engines read, for any number of images or texts."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from patchword.engines.protocol import Rows
from patchword.errors import UnsupportedError
from patchword.models.protocols import ImageNetwork, TextNetwork

MOST = 1 << 16  # images or texts at a time


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
    """pixels (B, 3, H, W) -> features (B, D)."""

    def __init__(self, network: ImageNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.encode_image(pixels)


class Texts(nn.Module):
    """ids (B, L) -> features (B, D)."""

    def __init__(self, network: TextNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor) -> Tensor:
        return self.network.encode_text(ids)


def graphs(network: nn.Module, shapes: Shapes) -> dict[str, ExportedProgram]:
    """The graphs of a network in float32: "image", from "pixels" (B, 3, H, W) float32 to features
    (B, D), and "text", from "ids" (B, L) int64; of those that it has.

    Raises UnsupportedError for a network that takes images each in its own shape.
    """
    if shapes.own:
        raise UnsupportedError(
            "a model that takes each image in its own shape has no graph for other engines; load "
            'it with engine="torch"'
        )
    plain = copy.deepcopy(network).float().eval()
    found: dict[str, ExportedProgram] = {}
    if shapes.size is not None and isinstance(plain, ImageNetwork):
        found["image"] = _exported(Images(plain), torch.zeros(2, 3, *shapes.size), {})
    if shapes.context is not None and isinstance(plain, TextNetwork):
        example = torch.ones(2, shapes.context - (not shapes.full), dtype=torch.int64)
        lengths = {} if shapes.full else {1: Dim("length", min=2, max=shapes.context)}
        found["text"] = _exported(Texts(plain), example, lengths)
    return found


def _exported(module: nn.Module, example: Tensor, dynamic: dict[int, Any]) -> ExportedProgram:
    axes = {0: Dim("batch", min=1, max=MOST), **dynamic}
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=(axes,))


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder` with what `make` writes into it: made once, whole or not at all."""
    if folder.is_dir():
        return folder
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
