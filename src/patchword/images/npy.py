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
    """The images, from 0: where a file is cut off, those that begin in it. Raises ValueError for a
    damaged header."""
    shape, _, kind = _header(file)
    if not _counts(shape) or _planes(shape):
        return [0]
    here = file.tell()
    present = (file.seek(0, os.SEEK_END) - here) // max(math.prod(shape[1:]) * kind.itemsize, 1)
    return list(range(min(shape[0], present + 1)))


def is_picture(path: str) -> bool:
    """Whether a file in a folder is certainly one or more images: a matrix of floats may be
    vectors that were saved there."""
    if not os.path.isfile(path):
        return True  # opening it raises the error
    try:
        with open(path, "rb") as file:
            shape, _, kind = _header(file)
    except (OSError, ValueError):
        return True  # so does that
    return len(shape) > 2 or (len(shape) == 2 and kind.kind != "f")


def read(file: BinaryIO, page: int, max_pixels: int) -> NDArray[Any]:
    """One image, an array (H, W) or (H, W, C). Raises RefusedError for one of another shape and of
    objects, and TooManyPixelsError."""
    shape, by_columns, kind = _header(file)
    if kind.hasobject:
        raise RefusedError("an array of Python objects, which only pickle could read")
    counts = _counts(shape)
    own = shape[counts:]  # of one image
    if len(own) not in (2, 3) or 0 in shape:
        raise RefusedError(f"shape {shape} is neither an image (H, W, C) nor several of them")
    if _planes(shape):
        raise RefusedError(
            f"shape {shape}: channels come last; save it as (H, W, C), or pages of grey as "
            "(N, H, W, 1)"
        )
    if own[0] * own[1] > max_pixels:
        raise TooManyPixelsError(own[1], own[0])
    alone = bool(counts) and not by_columns  # then the bytes of an image are contiguous
    count = math.prod(own if alone else shape)
    if alone:
        file.seek(page * count * kind.itemsize, 1)
    data = file.read(count * kind.itemsize)
    if len(data) < count * kind.itemsize:
        raise EOFError
    array = np.frombuffer(data, kind)
    if alone:
        return array.reshape(own)
    array = array.reshape(shape, order="F" if by_columns else "C")
    return array[page] if counts else array


def _counts(shape: tuple[int, ...]) -> int:
    """1 where the first axis counts images, else 0."""
    return int(len(shape) == 4 or (len(shape) == 3 and shape[-1] not in CHANNELS))


def _planes(shape: tuple[int, ...]) -> bool:
    """Whether channels seem to come first."""
    return len(shape) > 2 and shape[-1] not in CHANNELS and shape[-3] in (1, 3, 4)


def _header(file: BinaryIO) -> Header:
    version = np.lib.format.read_magic(file)
    try:
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        return np.lib.format.read_array_header_2_0(file)
    except TokenError as error:  # of a header that NumPy reads as one of Python 2
        raise ValueError("its header ends too early") from error
