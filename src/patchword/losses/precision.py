"""The precision of losses: float32 at least, with or without autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """x in float32; a float64 tensor stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sum_dtype(x: Tensor) -> torch.dtype:
    """The type in which numbers on x's device are summed: float64, or float32 where the device has
    no float64."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Context without autocast: products of tensors on x's device keep the tensors' type."""
    return torch.autocast(x.device.type, enabled=False)
