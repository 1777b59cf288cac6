"""Numbers of a network that are none, NaN or infinite: one clear error instead of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchword.errors import ImageError, PatchwordError
from patchword.images import ImageLike, name_of

Row = NDArray[np.float32]
FULL = torch.float32


def reason(name: str, dtype: torch.dtype, of: str = "it") -> str:
    """What is said of a model of that name and type."""
    said = f"{name} makes no finite vector of {of}"
    if dtype == FULL:
        return said
    return f"{said} in {str(dtype).removeprefix('torch.')}; load it in float32"


def finite_each(
    found: Iterable[tuple[ImageLike, Row | ImageError]], why: str
) -> Iterator[tuple[ImageLike, Row | ImageError]]:
    """The same, with an ImageError for each image in whose row a number is none. why: `reason`."""
    for source, row in found:
        if isinstance(row, ImageError) or np.isfinite(row).all():
            yield source, row
        else:
            yield source, failed(source, why)


def failed(image: ImageLike, why: str) -> ImageError:
    """The error of an image that was opened, by `reason`."""
    error = ImageError(name_of(image), why)
    error.opened = True
    return error


def check_image(image: ImageLike, values: NDArray[Any] | torch.Tensor, why: str) -> None:
    """Raise the ImageError of an image where a number is none. why: `reason`."""
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
