"""Vectors that were made elsewhere, put into an index's table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from patchword.bundle import Bundle, unit
from patchword.errors import ImageError, IndexStoreError, counted
from patchword.images.files import UNPRINTABLE, File, Path, shown
from patchword.index import members
from patchword.index.metadata import columns_of
from patchword.index.schema import arrow, fitting, row_columns, schema
from patchword.index.table import Store

PIECE = 16384  # rows made at a time
COMMIT = 65536  # rows of a commit into a table that has rows already
SAMPLED = 8  # files that are embedded to see whether the vectors are the model's
LIKE = 0.9  # cosine that such files have with their vectors

Numbers = Any  # an array (N, D), or what gives slices of rows, shape and dtype as one does


def ready(paths: Sequence[Path], vectors: Numbers, columns: Any) -> tuple[list[File], Any]:
    """The files of paths, and the columns, a pyarrow.Table of N rows or None, as an index has them;
    vectors (N, D) of any length but 0. Raises IndexStoreError for what cannot be put."""
    files = _files(paths)
    check(vectors, [file.path for file in files])
    told = None if columns is None else columns_of(columns)
    if told is not None and not told.schema.names:
        told = None
    if told is not None and len(told) != len(files):
        raise IndexStoreError(
            f"{counted(len(told), 'row')} of columns for {counted(len(files), 'path')}"
        )
    return files, told


def put(
    store: Store, files: Sequence[File], vectors: Numbers, told: Any, about: Mapping[str, Any]
) -> int:
    """Insert or replace the rows of files, with what `ready` found. about: what a new table is
    described by. Returns how many of the files were there, with their sizes and times."""
    if store.open():
        if told is not None:
            store.check_fit(told)
        for start in range(0, len(files), COMMIT):
            some = files[start : start + COMMIT]
            store.put(some, unit(np.asarray(vectors[start : start + COMMIT])))
            if told is not None:
                part = told.slice(start, COMMIT)
                store.update(part.add_column(0, "path", [[file.path for file in some]]))
            store.compact()
    else:
        dim = vectors.shape[1]
        whole = schema(dim)
        new = [] if told is None else [f for f in told.schema if f.name not in whole.names]
        for field in new:
            whole = whole.append(field)
        store.load(_batches(files, vectors, told, whole), whole, about)
    return sum(file.mtime > 0 for file in files)


def check_form(vectors: Numbers, paths: Sequence[Path]) -> None:
    """Raise IndexStoreError unless there is a vector of floats for each path, and one at all."""
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.shape[1]:
        raise IndexStoreError(
            f"vectors are floats (N, D); these are {vectors.dtype} of shape {vectors.shape}"
        )
    if len(vectors) != len(paths):
        raise IndexStoreError(
            f"{counted(len(vectors), 'vector')} for {counted(len(paths), 'path')}"
        )
    if not paths:
        raise IndexStoreError("no vectors")


def check(vectors: Numbers, paths: Sequence[str]) -> None:
    """Raise IndexStoreError for a path named twice, and for a vector that is 0 or not finite."""
    if len(set(paths)) < len(paths):
        twice = Counter(paths).most_common(1)[0][0]
        raise IndexStoreError(f"{twice}: named twice; a path has one vector")
    for start in range(0, len(vectors), PIECE):
        lengths = np.linalg.norm(vectors[start : start + PIECE].astype(np.float32), axis=1)
        bad = ~np.isfinite(lengths) | (lengths < 1e-6)
        if bad.any():
            row = start + int(bad.argmax())
            raise IndexStoreError(
                f"{paths[row]}: its vector, row {row}, has no direction: it is 0 or not finite, as "
                "embed writes it for an image that failed; leave out that row and path"
            )


def check_model(model: Bundle, paths: Sequence[Path], vectors: Numbers) -> int:
    """Embed a few of the files that are there and compare: returns how many that were. Raises
    IndexStoreError where most vectors are not those of the model."""
    if vectors.shape[1] != model.dim:
        raise IndexStoreError(
            f"the vectors have shape {vectors.shape}, and {model.name} makes vectors of "
            f"{model.dim} numbers; name the model that made them"
        )
    spread = np.linspace(0, len(paths) - 1, 8 * SAMPLED).astype(int) if len(paths) else ()
    rows = [row for row in dict.fromkeys(map(int, spread)) if os.path.isfile(paths[row])]
    rows = rows[:SAMPLED]
    cosines: dict[str, float] = {}
    names = [os.fspath(paths[row]) for row in rows]
    for row, (_, own) in zip(rows, model.embed_each(names), strict=True):
        if not isinstance(own, ImageError):
            theirs = unit(np.asarray(vectors[row : row + 1]))[0]
            cosines[os.fspath(paths[row])] = float(own @ theirs)
    if cosines and np.median(list(cosines.values())) < LIKE:
        path, worst = min(cosines.items(), key=lambda each: each[1])
        raise IndexStoreError(
            f"the vectors are not those of {model.name}: its own vector of {path} has cosine "
            f"{worst:.2f} with the one given; name the model that made them"
        )
    return len(cosines)


def _files(paths: Sequence[Path]) -> list[File]:
    """Paths as an index has them: absolute, with size and time where there is such a file."""
    folders: dict[str, str] = {}
    out: list[File] = []
    for path in paths:
        name = os.fspath(path)
        if shown(name) != name or "\0" in name:
            raise IndexStoreError(f"{shown(name)}: {UNPRINTABLE}")
        if not name:
            raise IndexStoreError("a path is empty")
        if members.is_address(name):
            out.append(File(name, 0, 0))
            continue
        folder, file = os.path.split(name)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], file)
        out.append(_status(os.path.realpath(name) if os.path.islink(name) else real))
    return out


def _status(path: str) -> File:
    parts = members.split(path)
    try:
        status = os.stat(parts[0] if parts else path)
    except OSError:
        return File(path, 0, 0)
    return File(path, status.st_size, status.st_mtime_ns)


def _batches(files: Sequence[File], vectors: Numbers, told: Any, whole: Any) -> Iterator[Any]:
    """Rows as pyarrow.RecordBatch of the schema `whole`."""

    for start in range(0, len(files), PIECE):
        some = files[start : start + PIECE]
        columns = row_columns(some, unit(np.asarray(vectors[start : start + PIECE])), {})
        table = arrow(columns, vectors.shape[1])
        if told is not None:
            part = told.slice(start, PIECE)
            for name in part.schema.names:
                if name in columns:
                    place = table.schema.get_field_index(name)
                    table = table.set_column(place, name, part.column(name))
                else:
                    table = table.append_column(name, part.column(name))
        yield from fitting(table, whole).select(whole.names).cast(whole).to_batches(PIECE)
