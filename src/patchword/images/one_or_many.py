"""A single image of any type, given where several are expected, is taken as a list of one."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import numpy as np
from PIL import Image

from patchword.errors import ImageError, UnsupportedError
from patchword.images.decode import ImageLike
from patchword.images.npy import CHANNELS
from patchword.images.tensors import is_tensor

Images = ImageLike | Iterable[ImageLike]  # one image is a list of one
R = TypeVar("R")


def as_images(images: Images) -> Iterable[ImageLike]:
    """Images as an iterable: a single one becomes a list of one.

    An array (H, W) or (H, W, C) is one image, and a tensor (C, H, W) too; with more axes, the
    first is that of the images. An array (3, H, W) or (4, H, W) is one image too, which is refused
    when it is opened: its channels seem to come first.
    Raises UnsupportedError for what is neither an image nor a collection of them.
    """
    if is_one(images):
        return [cast(ImageLike, images)]
    unordered = isinstance(images, (Mapping, set, frozenset))
    if not isinstance(images, Iterable) or unordered or getattr(images, "ndim", 1) == 0:
        raise UnsupportedError(
            f"images is {reprlib.repr(images)}; give a path, bytes, a PIL image, an array, or a "
            "list of those"
        )
    return cast(Iterable[ImageLike], images)


def is_one(value: Any) -> bool:
    """Whether this is one image, as `as_images` takes it."""
    if isinstance(value, np.ndarray):
        three = value.ndim == 3 and (value.shape[-1] in CHANNELS or value.shape[0] in (3, 4))
        return value.ndim == 2 or three
    if is_tensor(value):
        three = value.ndim == 3 and (value.shape[0] in CHANNELS or value.shape[-1] in CHANNELS)
        return value.ndim == 2 or three
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(value, kinds) or hasattr(value, "read")


def results(found: Iterable[tuple[object, R | ImageError]]) -> Iterator[R]:
    """The results of images, which stand beside them. Raises the first that is an ImageError, after
    those who looked at the images have told what they saw."""
    try:
        for _, result in found:
            if isinstance(result, ImageError):
                raise result
            yield result
    finally:
        if isinstance(found, Generator):
            found.close()
