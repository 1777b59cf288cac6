"""The index: a folder that stores the vector of every image that was added.

Files are embedded batch by batch, and every batch is one atomic commit: a process killed at any
moment loses at most the batch it was working on, and adding again continues where it stopped.

Paths are stored absolute with symbolic links resolved: an index may be moved and opened from
anywhere while the pictures stay. Pictures that were moved are dropped by `prune` and added anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.bundle import Bundle
from patchword.errors import ImageError, IndexStoreError
from patchword.images import ImageLike
from patchword.images.files import File, Path, find, gone, hashed, several
from patchword.index.nearest import Hit, Nearest
from patchword.index.reading import Reader
from patchword.index.schema import id_of
from patchword.index.table import Store
from patchword.options import at_least, checked
from patchword.options import nearest as nearest_name

BATCH = 128  # files a commit: what a killed process loses at most
HASHERS = 4  # threads that hash files
FRAGMENTS = 16  # files of the store; with more, they are merged when a change ends
LARGE = {"thumbnail", "vector"}  # columns that `rows` gives only when they are named
ROWS = 1000  # ids in one condition
FRAGMENTS_ADDING = 64  # and with more than that, they are merged during a long change

Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class AddReport:
    """The result of `add`: the number of files that were embedded (new or changed) and of those
    that were unchanged, and an error for each that could not be read."""

    added: int
    unchanged: int
    failed: list[ImageError]


def open_index(path: Path, load: Callable[..., Bundle] | None = None) -> Index:
    """The index in the folder `path`, which need not exist before something is added.

    load: opens a model by the name and the options that the index remembers, for searches that are
    given none.
    """
    return Index(path, load)


class Index:
    """Vectors of picture files, made by one model.

    Several processes may add and search at once; every search sees the newest commit. Each method
    raises IndexStoreError where the folder cannot be read or written or, but for `add` and `len`,
    holds no index.
    """

    def __init__(self, path: Path, load: Callable[..., Bundle] | None = None) -> None:
        self.path = os.path.abspath(path)
        self._store = Store(self.path)
        self._nearest = Nearest(self._store)
        self._load = load
        self._model: Bundle | None = None

    def __len__(self) -> int:
        return self._store.count() if self._store.open() else 0

    def __repr__(self) -> str:
        return f"Index({self.path!r})"

    def __bool__(self) -> bool:
        return True

    @property
    def model_name(self) -> str:
        """The name of the model that made the vectors."""
        return str(self._store.described()["model"])

    @property
    def fingerprint(self) -> str:
        """The fingerprint of that model."""
        return str(self._store.described()["fingerprint"])

    @property
    def options(self) -> dict[str, Any]:
        """The options that the model was loaded with, where they change vectors."""
        return dict(self._store.described().get("options", {}))

    @property
    def dim(self) -> int:
        """D, the length of a vector."""
        return int(self._store.described()["dim"])

    @checked
    def add(
        self,
        paths: Path | Iterable[Path],
        model: Bundle,
        progress: Progress | None = None,
        *,
        batch: int = BATCH,
        thumbnails: bool = True,
        reindex: bool = False,
    ) -> AddReport:
        """Embed the files, and the pictures in the folders and theirs, that are new or changed.

        In a folder a picture is known by its suffix; a file named itself is always tried. A file
        is unchanged when its size and modification time are what they were, or its size and
        content. progress(done, total) counts the files to embed. Files that cannot be read are
        reported and everything else is indexed; one that could be read before is dropped.
        thumbnails: store a JPEG of 256 pixels of each. reindex: begin anew, whatever there is.
        Raises IndexStoreError when the index is another model's.
        """
        if reindex:
            self._store.clear()
        exists = self._store.open()
        if exists:
            self._check(model)
        failed: list[ImageError] = []
        files = find(several(paths), failed)
        known = self._store.known() if exists else {}
        same = self._unchanged(files, known) if exists else set()
        todo = [file for file in files if file.path not in same]
        unread = self._embed(todo, model, known, progress, batch, thumbnails)
        if self._store.open():
            self._store.compact(FRAGMENTS)
        self._model = model
        return AddReport(len(todo) - len(unread), len(same), failed + unread)

    @property
    def columns(self) -> dict[str, str]:
        """The columns, and what each holds: text, number, boolean, time, list, vector or bytes."""
        return self._store.columns()

    @checked
    def rows(
        self, ids: Iterable[int], columns: Iterable[str] | None = None
    ) -> list[dict[str, Any]]:
        """The rows of these ids, in their order, each with the values of its columns by name; by
        default of all but thumbnail and vector. Raises IndexStoreError for an id or a column that
        is not there."""
        wanted, known = list(ids), self.columns
        names = [n for n in known if n not in LARGE] if columns is None else list(columns)
        for name in names:
            if name not in known:
                raise IndexStoreError(
                    f"{self.path}: no column {name}{nearest_name(name, known)}; it has "
                    f"{', '.join(known)}"
                )
        found: dict[int, dict[str, Any]] = {}
        for start in range(0, len(wanted), ROWS):
            some = ", ".join(str(int(each)) for each in wanted[start : start + ROWS])
            table = self._store.select(
                f"id IN ({some})", list(dict.fromkeys(["id", "path", *names]))
            )
            for row in table.to_pylist():
                if id_of(row["path"]) != row["id"]:
                    raise IndexStoreError(f"{self.path}: the entry of {row['path']!r} is damaged")
                found[row["id"]] = {name: row[name] for name in names}
        if lost := [each for each in wanted if each not in found]:
            raise IndexStoreError(f"{self.path}: no row of id {lost[0]}")
        return [found[each] for each in wanted]

    @checked
    def row(self, number: int, columns: Iterable[str] | None = None) -> dict[str, Any]:
        """The row of one id, see `rows`."""
        return self.rows([number], columns)[0]

    @checked
    def remove(self, paths: Path | Iterable[Path]) -> int:
        """Drop files, and everything below folders. Returns how many entries that were."""
        targets = {os.path.realpath(path) for path in several(paths)}
        below = tuple(os.path.join(target, "") for target in targets)
        known = self._store.known()
        return self._drop([path for path in known if path in targets or path.startswith(below)])

    @checked
    def prune(self) -> list[str]:
        """Drop the entries whose files are gone. Returns their paths."""
        lost = self.gone()
        self._drop(lost)
        return lost

    @checked
    def gone(self) -> list[str]:
        """The paths of the entries whose files are gone, sorted."""
        return sorted(path for path in self._store.known() if gone(path))

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

    def _create(self, model: Bundle) -> None:
        """An empty table that remembers the model; unless another process just made one."""
        about = {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "options": dict(model.options),
        }
        self._store.create(model.dim, about)
        self._check(model)

    def _check(self, model: Bundle) -> None:
        """Raise unless `model` made the vectors."""
        if model.fingerprint != self.fingerprint:
            raise IndexStoreError(
                f"{self.path}: holds vectors of {self.model_name} ({self.fingerprint}), which "
                f"cannot be compared with those of {model.name} ({model.fingerprint}); "
                f"use {self.model_name}, index into another folder, or begin anew: --reindex "
                "(reindex=True)"
            )

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

    def _unchanged(self, files: Sequence[File], known: dict[str, File]) -> set[str]:
        """Paths of the files that need no new vector. Where only the time differs, the content
        hash decides, and the new time is stored."""
        pairs = [(file, known[file.path]) for file in files if file.path in known]
        same = {new.path for new, old in pairs if (new.size, new.mtime) == (old.size, old.mtime)}
        later = [new for new, old in pairs if new.path not in same and new.size == old.size]
        with ThreadPoolExecutor(HASHERS) as pool:
            checked = pool.map(hashed, later)
            touched = [f for f in checked if f.digest and f.digest == known[f.path].digest]
        self._store.touch(touched)
        return same | {file.path for file in touched}

    def _embed(
        self,
        todo: Sequence[File],
        model: Bundle,
        known: Collection[str],
        progress: Progress | None,
        batch: int,
        thumbnails: bool,
    ) -> list[ImageError]:
        """Embed and commit batch by batch. Returns the errors; entries in `known` of files that
        cannot be read any more are dropped."""
        failed: list[ImageError] = []
        opener = model.opener
        reader = Reader(opener.stretch, opener.max_pixels, opener.urls, thumbnails)
        results = replace(model, opener=reader).embed_each(file.path for file in todo)
        for start in range(0, len(todo), batch):
            good: list[File] = []
            bad: list[ImageError] = []
            vectors: list[NDArray[np.float32]] = []
            # zip takes the file first, so that it computes no result beyond the batch
            files = todo[start : start + batch]
            for done, (file, (_, result)) in enumerate(zip(files, results, strict=False), 1):
                if isinstance(result, ImageError):
                    bad.append(result)
                elif not np.isfinite(result).all():
                    bad.append(ImageError(file.path, f"{model.name} makes no finite vector of it"))
                else:
                    good.append(file)
                    vectors.append(result)
                if progress:
                    progress(start + done, len(todo))
            if good:
                if not self._store.open():
                    self._create(model)
                with ThreadPoolExecutor(HASHERS) as pool:
                    self._store.put(list(pool.map(hashed, good)), np.stack(vectors), reader.seen)
                self._store.compact(FRAGMENTS_ADDING)
            self._store.delete([error.image for error in bad if error.image in known])
            for file in files:
                reader.seen.pop(file.path, None)
            failed += bad
        return failed

    def _drop(self, paths: Sequence[str]) -> int:
        self._store.delete(paths)
        self._store.compact(FRAGMENTS)
        return len(paths)


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
