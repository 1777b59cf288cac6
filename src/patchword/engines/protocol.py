"""The interface of an engine, which runs a network. Arrays go in and come out; the engine decides
whether a tensor library, a compiled graph or another process computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Rows = NDArray[np.float32]  # (B, ...)
# Images (3, H, W), of one size or of different sizes: levels 0 to 255, or already normalised.
Pixels = Sequence[NDArray[np.uint8]] | Sequence[NDArray[np.float32]]
Ids = NDArray[np.int64]  # (B, L)


class Engine(Protocol):
    """A network, ready to run."""

    name: str  # in `load(engine=...)`

    @property
    def device(self) -> torch.device:
        """The device on which it runs."""

    @property
    def dtype(self) -> torch.dtype:
        """The number type in which it computes."""

    @property
    def streams(self) -> bool:
        """Whether several batches are encoded sooner at the same time, see `streams`."""

    @property
    def scale(self) -> float:
        """The logit scale by which a cosine is multiplied before a softmax."""

    @property
    def bias(self) -> float:
        """The bias that is added to a scaled cosine before a sigmoid (SigLIP); 0 for other
        models."""

    def encode_image(self, pixels: Pixels) -> Rows:
        """Features (B, D) of images, not normalised."""

    def encode_text(self, ids: Ids) -> Rows:
        """Features (B, D) of texts, not normalised."""
