"""Accepts a single image wherever several are expected."""

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
    """Images as an iterable: a single image becomes a list of one.

    An array (H, W) or (H, W, C) is one image, and so is a tensor (C, H, W). With more axes, the
    first is that of the images. An array (3, H, W) or (4, H, W) is one image too; opening it
    refuses it, because its channels seem to come first. Raises UnsupportedError for anything that
    is neither an image nor a collection of images.
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
    """True for one image, by the rules of `as_images`."""
    if isinstance(value, np.ndarray):
        if value.ndim != 3:
            return value.ndim == 2
        return value.shape[-1] in CHANNELS or value.shape[0] in (3, 4)
    if is_tensor(value):
        if value.ndim != 3:
            return value.ndim == 2
        return value.shape[0] in CHANNELS or value.shape[-1] in CHANNELS
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(value, kinds) or hasattr(value, "read")


def results(pairs: Iterable[tuple[object, R | ImageError]]) -> Iterator[R]:
    """The results out of pairs of image and result. Raises the first ImageError among them, after
    the generator of the pairs has ended, which may give warnings."""
    try:
        for _, result in pairs:
            if isinstance(result, ImageError):
                raise result
            yield result
    finally:
        if isinstance(pairs, Generator):
            pairs.close()
