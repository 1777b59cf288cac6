"""NumPy's .npy files: one image (H, W) or (H, W, C), or several along a first axis."""

from __future__ import annotations

import math
import os
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchword.images.unreadable import RefusedError, TooManyPixelsError

CHANNELS = (1, 2, 3, 4)  # of an array (H, W, C)
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]  # shape, whether columns come first, type


def pages(file: BinaryIO) -> list[int]:
    """The numbers of the images, from 0. Of a truncated file, the images that begin in it. Raises
    ValueError for a damaged header."""
    shape, _, kind = _header(file)
    if not _has_pages(shape) or _channels_first(shape):
        return [0]
    start = file.tell()
    image_size = max(math.prod(shape[1:]) * kind.itemsize, 1)
    complete = (file.seek(0, os.SEEK_END) - start) // image_size
    return list(range(min(shape[0], complete + 1)))


def is_picture(path: str) -> bool:
    """True if a file in a folder holds one or more images. False for a matrix of floats, which may
    be vectors."""
    if not os.path.isfile(path):
        return True  # opening it as an image raises the error
    try:
        with open(path, "rb") as file:
            shape, _, kind = _header(file)
    except (OSError, ValueError):
        return True
    return len(shape) > 2 or (len(shape) == 2 and kind.kind != "f")


def read(file: BinaryIO, page: int, max_pixels: int) -> NDArray[Any]:
    """One image, an array (H, W) or (H, W, C). Raises RefusedError for an array of another shape or
    of objects, and TooManyPixelsError."""
    shape, by_columns, kind = _header(file)
    if kind.hasobject:
        raise RefusedError("an array of Python objects, which only pickle could read")
    has_pages = _has_pages(shape)
    image_shape = shape[1:] if has_pages else shape
    if len(image_shape) not in (2, 3) or 0 in shape:
        raise RefusedError(f"shape {shape} is neither an image (H, W, C) nor several of them")
    if _channels_first(shape):
        raise RefusedError(
            f"shape {shape}: channels come last; save it as (H, W, C), or pages of grey as "
            "(N, H, W, 1)"
        )
    if image_shape[0] * image_shape[1] > max_pixels:
        raise TooManyPixelsError(image_shape[1], image_shape[0])
    if has_pages and not by_columns:  # the bytes of one image are contiguous
        file.seek(page * math.prod(image_shape) * kind.itemsize, os.SEEK_CUR)
        return _values(file, kind, math.prod(image_shape)).reshape(image_shape)
    array = _values(file, kind, math.prod(shape))
    array = array.reshape(shape, order="F" if by_columns else "C")
    return array[page] if has_pages else array


def _values(file: BinaryIO, kind: np.dtype[Any], count: int) -> NDArray[Any]:
    data = file.read(count * kind.itemsize)
    if len(data) < count * kind.itemsize:
        raise EOFError
    return np.frombuffer(data, kind)


def _has_pages(shape: tuple[int, ...]) -> bool:
    """True if the first axis is that of several images."""
    return len(shape) == 4 or (len(shape) == 3 and shape[-1] not in CHANNELS)


def _channels_first(shape: tuple[int, ...]) -> bool:
    """True if channels seem to come first."""
    return len(shape) > 2 and shape[-1] not in CHANNELS and shape[-3] in (1, 3, 4)


def _header(file: BinaryIO) -> Header:
    version = np.lib.format.read_magic(file)
    try:
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        return np.lib.format.read_array_header_2_0(file)
    except TokenError as error:  # from NumPy's reader of headers that Python 2 wrote
        raise ValueError("its header ends too early") from error
