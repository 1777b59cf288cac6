"""The index: a folder that stores the vector of every image that was added.

Files are embedded batch by batch, and every batch is one atomic commit: a process killed at any
moment loses at most the batch it was working on, and adding again continues where it stopped.

Paths are stored absolute with symbolic links resolved: an index may be moved and opened from
anywhere while the pictures stay. Pictures that were moved are known by their content.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle
from patchword.errors import IndexStoreError
from patchword.images import ImageLike
from patchword.images.files import Path
from patchword.index.nearest import Hit, Nearest
from patchword.index.writing import Writing
from patchword.options import at_least, checked


def open_index(path: Path, load: Callable[..., Bundle] | None = None) -> Index:
    """The index in the folder `path`, which need not exist before something is added.

    load: opens a model by the name and the options that the index remembers, for searches that are
    given none.
    """
    return Index(path, load)


class Index(Writing):
    """Vectors of picture files, made by one model.

    Several processes may add and search at once; every search sees the newest commit. Each method
    raises IndexStoreError where the folder cannot be read or written or, but for `add` and `len`,
    holds no index.
    """

    def __init__(self, path: Path, load: Callable[..., Bundle] | None = None) -> None:
        super().__init__(path, load)
        self._nearest = Nearest(self._store)

    @checked
    def search(
        self,
        query: str | NDArray[Any] | None = None,
        k: int = 10,
        *,
        image: ImageLike | None = None,
        where: str | None = None,
        model: Bundle | None = None,
        long_text: str = "truncate",
    ) -> list[Hit]:
        """The k entries nearest to a text or a vector (D,), an image, or both (the mean of their
        unit vectors, with equal weight), best first, equal scores by path. Exact: every vector is
        compared.

        where: a condition in SQL on path and modified, such as
        "path LIKE '%wafer%' AND modified >= date '2026-01-01'". model: the one that made the
        index; by default the one last used here, else the one that `load` opens by its name.
        long_text: of a query beyond the model's context, see `Bundle.embed_texts`.
        Raises IndexStoreError, ImageError, and UnsupportedError for a text without a text tower.
        """
        at_least("k", k)
        searcher = self._searcher(model)
        unit = _query(searcher, query, image, long_text)
        return self._nearest.find(unit[None], k, where)[0]

    def _searcher(self, model: Bundle | None) -> Bundle:
        """The model that embeds queries."""
        model = model or self._model
        if model is None:
            if self._load is None:
                raise IndexStoreError(
                    f"{self.path}: made by {self.model_name}; pass model=load({self.model_name!r})"
                )
            model = self._load(self.model_name, **self.options)
        self._check(model)
        self._model = model
        return model


def _query(
    model: Bundle, query: str | NDArray[Any] | None, image: ImageLike | None, long_text: str
) -> NDArray[np.float64]:
    """Unit vector (D,) of a text or vector, an image, or the mean of both."""
    parts: list[NDArray[Any]] = []
    if isinstance(query, str):
        parts.append(model.embed_texts([query], long_text=long_text)[0])
    elif query is not None:
        parts.append(_unit(_array(query), model.dim))
    if image is not None:
        parts.append(model.embed_images([image])[0])
    if not parts:
        raise IndexStoreError("nothing to search for: give a text, a vector, an image, or both")
    return _unit(np.array(parts, np.float64).mean(axis=0), model.dim)


def _array(query: Any) -> NDArray[Any]:
    """A query of numbers as an array; an empty one where it cannot be converted."""
    try:
        return np.asarray(query)
    except (TypeError, ValueError, RuntimeError):  # lists in lists; a tensor elsewhere
        return np.asarray(None)


def _unit(vector: NDArray[Any], dim: int) -> NDArray[np.float64]:
    """A vector (D,) of length 1. Raises IndexStoreError for anything else."""
    numbers = vector.dtype.kind in "fiu" and vector.shape == (dim,)
    if not numbers or not np.isfinite(vector).all():
        raise IndexStoreError(
            f"a query is a text, or a vector of {dim} finite numbers; this is an array of shape "
            f"{vector.shape} and type {vector.dtype}"
        )
    exact = vector.astype(np.float64)
    return exact / max(float(np.linalg.norm(exact)), 1e-12)
