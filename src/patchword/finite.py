"""Numbers of a network that are none, NaN or infinite: one clear error instead of an answer."""

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
    """What is said of a model of that name and type. network: the one that torch runs; where it has
    weights that are no numbers, they are to blame."""
    said = f"{name} makes no finite vector of {of}"
    for weight, values in network.state_dict().items() if network else ():
        # In a narrow type weights may be infinite that were finite in float32.
        if not values.isfinite().all() if dtype == FULL else values.isnan().any():
            return (
                f"{said}: its weights are NaN or infinite, first in {weight}, as after a training "
                "that diverged; load it anew, or an earlier checkpoint"
            )
    if dtype == FULL:
        return said
    return f"{said} in {str(dtype).removeprefix('torch.')}; load it in float32"


def finite_each(
    found: Iterable[tuple[ImageLike, Row | ImageError]], why: Callable[[], str]
) -> Iterator[tuple[ImageLike, Row | ImageError]]:
    """The same, with an ImageError for each image in whose row a number is none. why: makes
    `reason`."""
    for source, row in found:
        if isinstance(row, ImageError) or np.isfinite(row).all():
            yield source, row
        else:
            yield source, failed(source, why)


def failed(image: ImageLike, why: Callable[[], str]) -> ImageError:
    """The error of an image that was opened. why: makes `reason`."""
    error = ImageError(name_of(image), why())
    error.opened = True
    return error


def check_image(
    image: ImageLike, values: NDArray[Any] | torch.Tensor, why: Callable[[], str]
) -> None:
    """Raise the ImageError of an image where a number is none. why: makes `reason`."""
    if not _finite(values):
        raise failed(image, why)


def check_finite(values: NDArray[Any] | torch.Tensor, why: Callable[[], str]) -> None:
    """Raise PatchwordError where a number is none. why: makes `reason`."""
    if not _finite(values):
        raise PatchwordError(why())


def _finite(values: NDArray[Any] | torch.Tensor) -> bool:
    if isinstance(values, torch.Tensor):
        return bool(values.isfinite().all())
    return bool(np.isfinite(values).all())
