"""Converts tensors to arrays, without importing torch."""

from __future__ import annotations

from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from patchword.images.npy import CHANNELS
from patchword.images.unreadable import RefusedError


class Tensor(Protocol):
    """The methods of a torch tensor that are used."""

    @property
    def shape(self) -> Any: ...
    @property
    def ndim(self) -> int: ...
    def detach(self) -> Any: ...
    def cpu(self) -> Any: ...
    def is_floating_point(self) -> bool: ...


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """True for a torch tensor, recognised by its methods."""
    return hasattr(value, "detach") and hasattr(value, "is_floating_point")


def to_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor (C, H, W), as in torchvision, (H, W, C) or (H, W) as an array (H, W, C) or (H, W).
    Raises RefusedError for a shape that may be (C, H, W) or (H, W, C)."""
    values = tensor.detach().cpu()
    array: NDArray[Any] = (values.float() if tensor.is_floating_point() else values).numpy()
    if array.ndim != 3 or array.shape[0] not in CHANNELS:
        return array
    if array.shape[2] in CHANNELS:
        raise RefusedError(
            f"shape {array.shape}: channels may come first or last; give a numpy array (H, W, C)"
        )
    return np.moveaxis(array, 0, -1)
