"""The precision of losses: float32 at least, with or without autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def widest(x: Tensor) -> torch.dtype:
    """float64, or float32 on a device without it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Context in which products on x's device keep their type."""
    return torch.autocast(x.device.type, enabled=False)
