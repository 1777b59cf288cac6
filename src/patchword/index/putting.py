"""Store vectors that another program made in an index's table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from patchword.bundle import Bundle
from patchword.embedding import unit
from patchword.errors import ImageError, IndexStoreError, counted
from patchword.images.files import UNPRINTABLE, File, Path, modified, shown
from patchword.index import members
from patchword.index.metadata import to_index_columns, with_path
from patchword.index.schema import arrow_table, cast_to_schema, row_columns, schema
from patchword.index.table import Store

BATCH = 16384  # rows made at a time
COMMIT = 65536  # rows of a commit into a table that has rows already
SAMPLES = 8  # files that are embedded to see whether the vectors are the model's
MIN_COSINE = 0.9  # of the embedded files with the given vectors, as a median

Numbers = Any  # an array (N, D), or an object with the same slices of rows, shape and dtype


def prepare(paths: Sequence[Path], vectors: Numbers, columns: Any) -> tuple[list[File], Any]:
    """The files of N paths, and the columns in the form of an index: a pyarrow.Table, None for no
    columns. vectors (N, D): of any length but 0. Raises IndexStoreError for what cannot be
    stored."""
    files = _files(paths)
    check_vectors(vectors, [file.path for file in files])
    if columns is not None:
        columns = to_index_columns(columns)
    if columns is None or not columns.schema.names:
        return files, None
    if len(columns) != len(files):
        raise IndexStoreError(
            f"{counted(len(columns), 'row')} of columns for {counted(len(files), 'path')}"
        )
    return files, columns


def put(
    store: Store, files: Sequence[File], vectors: Numbers, columns: Any, metadata: Mapping[str, Any]
) -> int:
    """Insert or replace the rows of files. files, columns: from `prepare`. metadata: of a new
    table. Returns how many of the files exist."""
    if store.exists():
        if columns is not None:
            store.check_fit(columns)
        for start in range(0, len(files), COMMIT):
            batch = files[start : start + COMMIT]
            rows = unit(np.asarray(vectors[start : start + COMMIT]))
            store.put(batch, rows, model=metadata.get("fingerprint", ""))
            if columns is not None:
                values = columns.slice(start, COMMIT)
                store.update(with_path([file.path for file in batch], values))
            store.compact()
    else:
        table_schema = schema(vectors.shape[1])
        for field in columns.schema if columns is not None else ():
            if field.name not in table_schema.names:
                table_schema = table_schema.append(field)
        batches = _batches(files, vectors, columns, table_schema)
        store.create_with_rows(batches, table_schema, metadata)
    return sum(file.mtime > 0 for file in files)


def check_shape(vectors: Numbers, paths: Sequence[Path]) -> None:
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


def check_vectors(vectors: Numbers, paths: Sequence[str]) -> None:
    """Raise IndexStoreError for a path named twice, and for a vector that is 0 or not finite."""
    if len(set(paths)) < len(paths):
        twice = Counter(paths).most_common(1)[0][0]
        raise IndexStoreError(f"{twice}: named twice; a path has one vector")
    for start in range(0, len(vectors), BATCH):
        lengths = np.linalg.norm(vectors[start : start + BATCH].astype(np.float32), axis=1)
        bad = ~np.isfinite(lengths) | (lengths < 1e-6)
        if bad.any():
            row = start + int(bad.argmax())
            raise IndexStoreError(
                f"{paths[row]}: its vector, row {row}, has no direction: it is 0 or not finite, as "
                "embed writes it for an image that failed; leave out that row and path"
            )


def check_model(model: Bundle, paths: Sequence[Path], vectors: Numbers) -> None:
    """Embed a few of the files that exist, and compare. Raises IndexStoreError where most of their
    vectors are not those of the model."""
    if vectors.shape[1] != model.dim:
        raise IndexStoreError(
            f"the vectors have shape {vectors.shape}, and {model.name} makes vectors of "
            f"{model.dim} numbers; name the model that made them"
        )
    spread = np.unique(np.linspace(0, len(paths) - 1, 8 * SAMPLES).astype(int)).tolist()
    rows = [row for row in spread if os.path.isfile(paths[row])][:SAMPLES]
    names = [os.fspath(paths[row]) for row in rows]
    cosines: dict[str, float] = {}
    for row, name, (_, embedded) in zip(rows, names, model.embed_each(names), strict=True):
        if not isinstance(embedded, ImageError):
            given = unit(np.asarray(vectors[row : row + 1]))[0]
            cosines[name] = float(embedded @ given)
    if cosines and np.median(list(cosines.values())) < MIN_COSINE:
        path, worst = min(cosines.items(), key=lambda item: item[1])
        raise IndexStoreError(
            f"the vectors are not those of {model.name}: its own vector of {path} has cosine "
            f"{worst:.2f} with the one given; name the model that made them"
        )


def _files(paths: Sequence[Path]) -> list[File]:
    """Paths in the form of an index: absolute, without symbolic links, with the size and time of
    each file that exists."""
    folders: dict[str, str] = {}  # without symbolic links, by their names
    files: list[File] = []
    for path in paths:
        name = os.fspath(path)
        if shown(name) != name or "\0" in name:
            raise IndexStoreError(f"{shown(name)}: {UNPRINTABLE}")
        if not name:
            raise IndexStoreError("a path is empty")
        if members.is_address(name):
            files.append(File(name, 0, 0))
            continue
        if os.path.islink(name):
            files.append(_with_status(os.path.realpath(name)))
            continue
        folder, file = os.path.split(name)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        files.append(_with_status(os.path.join(folders[folder], file)))
    return files


def _with_status(path: str) -> File:
    """A file with its size and time, 0 and 0 where there is none; of an image inside a tar or
    table, those of that file."""
    parts = members.split(path)
    try:
        status = os.stat(parts[0] if parts else path)
    except OSError:
        return File(path, 0, 0)
    return File(path, status.st_size, modified(status))


def _batches(
    files: Sequence[File], vectors: Numbers, columns: Any, table_schema: Any
) -> Iterator[Any]:
    """Rows as pyarrow.RecordBatch of a schema. columns: replace those of the same name."""
    for start in range(0, len(files), BATCH):
        rows = row_columns(
            files[start : start + BATCH], unit(np.asarray(vectors[start : start + BATCH])), {}
        )
        table = arrow_table(rows, vectors.shape[1])
        if columns is not None:
            values = columns.slice(start, BATCH)
            for name in values.schema.names:
                if name in rows:
                    position = table.schema.get_field_index(name)
                    table = table.set_column(position, name, values.column(name))
                else:
                    table = table.append_column(name, values.column(name))
        fitting = cast_to_schema(table, table_schema).select(table_schema.names)
        yield from fitting.cast(table_schema).to_batches(BATCH)
