"""A network of `models`, run by torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchword.engines.pixel_values import looked_up
from patchword.engines.protocol import Ids, Pixels, Rows
from patchword.errors import UnsupportedError
from patchword.models.protocols import ImageNetwork, PairNetwork, TextNetwork
from patchword.nn.inference_mode import inference

FEW = 16  # images at a time, for which a GPU computes no longer than its kernels take to launch


class TorchEngine:
    """`network` in evaluation mode, on its device and in its type, without gradients."""

    def __init__(
        self,
        network: nn.Module,
        levels: Rows | None = None,
        own_shapes: bool = False,
        compiled: bool = False,
    ) -> None:
        """levels: (3, 256), what each level of a channel is for the network; None: it is given
        floats alone. own_shapes: true if each image keeps its own shape (NaFlex), so that they
        cannot be stacked. compiled: vectors are computed by the kernels that torch.compile makes at
        the first batch, and once more, for any number, at the first of another size; of FEW images
        on an NVIDIA GPU as one CUDA graph, see `mode`."""
        self.network = network.eval()
        self.lent = False  # whether somebody has the network who may change its weights
        self.levels = levels
        self.own_shapes = own_shapes
        self.name = "compile" if compiled else "torch"
        self._compiled: dict[tuple[str, str | None], Callable[[Any], Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Of copies and pickles: what is compiled runs this network, and is compiled again."""
        return {**self.__dict__, "_compiled": {}}

    @property
    def device(self) -> torch.device:
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    @property
    def scale(self) -> float:
        with torch.no_grad():
            return float(self.network.scale) if isinstance(self.network, PairNetwork) else 1.0

    @property
    def bias(self) -> float:
        with torch.no_grad():
            return float(self.network.bias) if isinstance(self.network, PairNetwork) else 0.0

    def encode_image(self, pixels: Pixels) -> Rows:
        network = self.network
        if not isinstance(network, ImageNetwork):
            raise UnsupportedError("this network has no image tower")
        images = 0 if self.own_shapes else len(pixels)
        return self.run(self.ready(network.encode_image, images), pixels)

    def encode_text(self, ids: Ids) -> Rows:
        network = self.network
        if not isinstance(network, TextNetwork):
            raise UnsupportedError("this network has no text tower")
        with inference(self.network):
            return _rows(self.ready(network.encode_text)(self.tensor(ids)))

    def ready(self, method: Callable[..., Any], images: int = 0) -> Callable[[Any], Tensor]:
        """A method of the network as this engine runs it, compiled if it is to be. images: how many
        of one size there will be at a time; 0: it is given others, or texts."""
        if self.name == "torch":
            return method
        key = (method.__name__, mode(self.device, images))
        if key not in self._compiled:
            self._compiled[key] = torch.compile(_apart(method), fullgraph=True, mode=key[1])
        return self._compiled[key]

    def run(self, function: Callable[[Any], Tensor], pixels: Pixels) -> Rows:
        """`function` of images as the network takes them: (B, 3, H, W), or a list of (3, H, W)."""
        batch: Any
        if self.own_shapes:
            batch = [self._pixels(each[None])[0] for each in pixels]
        else:
            batch = self._pixels(self._stacked(pixels))
        with inference(self.network):
            return _rows(function(batch))

    def _stacked(self, pixels: Pixels) -> NDArray[Any]:
        """Images of one size (B, 3, H, W); for a GPU in pinned memory, which is copied faster,
        and which torch keeps for the next."""
        if self.device.type != "cuda":
            return np.stack(pixels)
        like = torch.from_numpy(pixels[0][None])
        batch = torch.empty((len(pixels), *like.shape[1:]), dtype=like.dtype, pin_memory=True)
        return np.stack(pixels, out=batch.numpy())

    def _pixels(self, batch: NDArray[Any]) -> Tensor:
        """Images (B, 3, H, W) as the network takes them. One byte a pixel goes to its device."""
        pixels = self.tensor(batch)
        if pixels.is_floating_point() or self.levels is None:
            return pixels
        return looked_up(pixels, self.tensor(self.levels))

    def tensor(self, values: NDArray[Any]) -> Tensor:
        """An array as the network takes it: on its device, floating-point numbers in its type."""
        tensor = torch.from_numpy(values).to(self.device)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    @property
    def _like(self) -> Tensor:
        return next(self.network.parameters())


def mode(device: torch.device, images: int) -> str | None:
    """How torch.compile runs so many images: its "reduce-overhead" records a CUDA graph of each
    number of images, in memory that the next call overwrites, and which before torch 2.13 only the
    main thread may replay. None: as usual."""
    main = threading.current_thread() is threading.main_thread()
    few = 0 < images <= FEW
    return "reduce-overhead" if device.type == "cuda" and few and main else None


def _apart(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method with a code object of its own. torch.compile makes at most eight versions of one,
    and counts those of other models' methods, too."""
    if not isinstance(method, MethodType):
        return method
    function = method.__func__
    code = function.__code__.replace()
    parts = (function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    return MethodType(FunctionType(code, *parts), method.__self__)


def _rows(values: Tensor) -> Rows:
    rows: Rows = values.float().cpu().numpy()
    return rows
