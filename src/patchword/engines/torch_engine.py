"""The engine that runs a network of `models` by torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchword.engines.pixel_values import look_up
from patchword.engines.protocol import Ids, Pixels, Rows
from patchword.errors import UnsupportedError
from patchword.models.protocols import ImageNetwork, PairNetwork, TextNetwork
from patchword.nn.inference_mode import inference

FEW = 16  # images at a time, for which launching a GPU's kernels takes longer than running them


class TorchEngine:
    """Runs `network` in evaluation mode, on its device and in its type, without gradients."""

    def __init__(
        self,
        network: nn.Module,
        levels: Rows | None = None,
        variable_size: bool = False,
        compiled: bool = False,
    ) -> None:
        """levels: (3, 256), the normalised value of each level of a channel; None: images are
        normalised floats. variable_size: true if each image has a size of its own (NaFlex), so that
        they cannot be stacked. compiled: torch.compile creates the kernels at the first batch, and
        again, for any number of images, at the first batch of another size. At most `FEW` images on
        an NVIDIA GPU run as one CUDA graph, see `mode`."""
        self.network = network.eval()
        self.weights_may_change = False  # true once a caller has got the network
        self.levels = levels
        self.variable_size = variable_size
        self.name = "compile" if compiled else "torch"
        self._compiled: dict[tuple[str, str | None], Callable[[Any], Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """The state of copies and pickles, without compiled functions: they run this network."""
        return {**self.__dict__, "_compiled": {}}

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @property
    def streams(self) -> bool:
        """Not after a caller has got the network: hooks on it may need batches in order."""
        return self.device.type == "cpu" and self.name == "torch" and not self.weights_may_change

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
        images = 0 if self.variable_size else len(pixels)
        return self.run(self.ready(network.encode_image, images), pixels)

    def encode_text(self, ids: Ids) -> Rows:
        network = self.network
        if not isinstance(network, TextNetwork):
            raise UnsupportedError("this network has no text tower")
        with inference(self.network):
            return _rows(self.ready(network.encode_text)(self.tensor(ids)))

    def ready(self, method: Callable[..., Any], images: int = 0) -> Callable[[Any], Tensor]:
        """A method of the network, compiled if this engine compiles. images: how many images of one
        size it gets at a time; 0: images of different sizes, or texts."""
        if self.name == "torch":
            return method
        key = (method.__name__, mode(self.device, images))
        if key not in self._compiled:
            self._compiled[key] = torch.compile(_with_own_code(method), fullgraph=True, mode=key[1])
        return self._compiled[key]

    def run(self, function: Callable[[Any], Tensor], pixels: Pixels) -> Rows:
        """`function` of normalised images on the device: (B, 3, H, W), or a list of (3, H, W)."""
        batch: Any
        if self.variable_size:
            batch = [self._pixels(image[None])[0] for image in pixels]
        else:
            batch = self._pixels(self._stacked(pixels))
        with inference(self.network):
            return _rows(function(batch))

    def _stacked(self, pixels: Pixels) -> NDArray[Any]:
        """Images of one size as (B, 3, H, W). For a GPU in pinned memory, which is copied faster
        and which torch reuses."""
        if self.device.type != "cuda":
            return np.stack(pixels)
        like = torch.from_numpy(pixels[0][None])
        batch = torch.empty((len(pixels), *like.shape[1:]), dtype=like.dtype, pin_memory=True)
        return np.stack(pixels, out=batch.numpy())

    def _pixels(self, batch: NDArray[Any]) -> Tensor:
        """Normalised images (B, 3, H, W). They are normalised on the device, to which only bytes
        are copied."""
        pixels = self.tensor(batch)
        if pixels.is_floating_point() or self.levels is None:
            return pixels
        return look_up(pixels, self.tensor(self.levels))

    def tensor(self, values: NDArray[Any]) -> Tensor:
        """An array as a tensor on the network's device, floating-point numbers in its type."""
        tensor = torch.from_numpy(values).to(self.device)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


def mode(device: torch.device, images: int) -> str | None:
    """The `mode` of torch.compile for that number of images. "reduce-overhead" records a CUDA graph
    for each number of images; the next call overwrites its memory, and before torch 2.13 only the
    main thread may replay it. None: the default mode."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if device.type == "cuda" and 0 < images <= FEW and in_main_thread:
        return "reduce-overhead"
    return None


def _with_own_code(method: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a method with a code object of its own. torch.compile creates at most eight
    versions of a code object, and would count those of other models."""
    if not isinstance(method, MethodType):
        return method
    function = method.__func__
    code = function.__code__.replace()
    parts = (function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    return MethodType(FunctionType(code, *parts), method.__self__)


def _rows(values: Tensor) -> Rows:
    rows: Rows = values.float().cpu().numpy()
    return rows
