"""The arithmetic of losses: float32 at least, autocast or not."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def widest(x: Tensor) -> torch.dtype:
    """float64, or what x's device has instead."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Within which products on x's device keep their type."""
    return torch.autocast(x.device.type, enabled=False)
