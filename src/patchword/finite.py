"""Errors for results of a network that are NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from patchword.errors import ImageError, PatchwordError
from patchword.images import ImageLike, name_of

Row = NDArray[np.float32]
FULL = torch.float32


def reason(name: str, dtype: torch.dtype, network: nn.Module | None, of: str = "it") -> str:
    """The error message for a model with that name and type. network: torch's, whose weights are
    checked as a cause; None for other engines."""
    message = f"{name} makes no finite vector of {of}"
    weights = network.state_dict() if network else {}
    for weight, values in weights.items():
        # Weights that were finite in float32 may be infinite in a narrower type.
        is_bad = ~values.isfinite() if dtype == FULL else values.isnan()
        if is_bad.any():
            return (
                f"{message}: its weights are NaN or infinite, first in {weight}, as after a "
                "training that diverged; load it anew, or an earlier checkpoint"
            )
    if dtype == FULL:
        return message
    return f"{message} in {str(dtype).removeprefix('torch.')}; load it in float32"


def finite_each(
    pairs: Iterable[tuple[ImageLike, Row | ImageError]], why: Callable[[], str]
) -> Iterator[tuple[ImageLike, Row | ImageError]]:
    """The pairs, with an ImageError for each row that is not finite. why: returns `reason`."""
    for source, row in pairs:
        if isinstance(row, ImageError) or np.isfinite(row).all():
            yield source, row
        else:
            yield source, failed(source, why)


def failed(image: ImageLike, why: Callable[[], str]) -> ImageError:
    """The error for an image that was opened. why: returns `reason`."""
    error = ImageError(name_of(image), why())
    error.opened = True
    return error


def check_image(
    image: ImageLike, values: NDArray[Any] | torch.Tensor, why: Callable[[], str]
) -> None:
    """Raise the ImageError of an image whose values are not finite. why: returns `reason`."""
    if not _finite(values):
        raise failed(image, why)


def check_finite(values: NDArray[Any] | torch.Tensor, why: Callable[[], str]) -> None:
    """Raise PatchwordError for values that are not finite. why: returns `reason`."""
    if not _finite(values):
        raise PatchwordError(why())


def _finite(values: NDArray[Any] | torch.Tensor) -> bool:
    if isinstance(values, torch.Tensor):
        return bool(values.isfinite().all())
    return bool(np.isfinite(values).all())
