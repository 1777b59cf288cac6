"""The columns of an index's table, and rows for it."""

from __future__ import annotations

import hashlib
import json
import secrets
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.errors import IndexStoreError
from patchword.images.files import File
from patchword.images.reading import Seen

FORMAT = 3  # 1 had no checksums; 2 no ids, sizes, thumbnails, captions, tags
SUMS = ("time_sum", "vector_sum")  # columns of checksums
PRIVATE = {"mtime", *SUMS}  # columns for internal use
ID_BITS = 53  # a number of JSON holds as many in every language

# 2^64 / golden ratio, an odd number: its multiples for neighbouring positions are very different.
_MULTIPLIER = 0x9E3779B97F4A7C15

Vectors = NDArray[np.float32]  # (N, D)
Opened = Mapping[str, Seen]  # what is known of images that were opened, by path


def id_of(path: str) -> int:
    """The id of the row of a path: 53 bits of the path's hash. Several writers need not agree on
    it, and it stays the same when the file changes."""
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - ID_BITS)


def schema(dim: int) -> Any:
    """The pyarrow.Schema of a new table of vectors (D,)."""
    import pyarrow as pa  # type: ignore[import-untyped]

    # With a primary key, two processes that add the same file at once do not both insert it.
    key = {"lance-schema:unenforced-primary-key": "true"}
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False, metadata=key),
            pa.field("id", pa.int64()),
            pa.field("modified", pa.timestamp("us", tz="UTC")),
            pa.field("size", pa.int64()),
            pa.field("mtime", pa.int64()),
            pa.field("hash", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("thumbnail", pa.binary()),
            pa.field("caption", pa.string()),
            pa.field("tags", pa.list_(pa.string())),
            pa.field("vector", pa.list_(pa.float32(), dim)),
            *(pa.field(name, pa.int64()) for name in SUMS),
        ]
    )


def with_metadata(columns: Any, metadata: Mapping[str, Any]) -> Any:
    """A pyarrow.Schema with the metadata of a new table: its format, dim, and a random mark that
    tells it from any other table."""
    dim = columns.field("vector").type.list_size
    mark = secrets.token_hex(8)
    text = json.dumps({"format": FORMAT, "dim": dim, "mark": mark, **metadata})
    return columns.with_metadata({"patchword": text})


def check_model(path: str, metadata: Mapping[str, Any], fingerprint: str) -> None:
    """Raise IndexStoreError where a table holds vectors of another model than the one with this
    fingerprint, because another process made it anew meanwhile. "": of no known model."""
    if fingerprint and fingerprint != metadata.get("fingerprint"):
        raise IndexStoreError(
            f"{path}: another process made it anew, with vectors of {metadata.get('model')} "
            f"({metadata.get('fingerprint')}) instead of {fingerprint}; run it again with that "
            "model, or use another folder"
        )


def file_columns(files: Sequence[File]) -> dict[str, Any]:
    """The columns that only depend on the files themselves: path, size, times, hash."""
    import pyarrow as pa

    times = pa.array([file.mtime // 1000 for file in files], pa.int64())
    paths = [file.path for file in files]
    return {
        "path": paths,
        "modified": times.cast(pa.timestamp("us", tz="UTC")),
        "size": [file.size for file in files],
        "mtime": [file.mtime for file in files],
        "hash": [file.digest for file in files],
        "time_sum": checksums(paths, times.to_numpy(), None)["time_sum"],
    }


def row_columns(files: Sequence[File], vectors: Vectors, seen: Opened) -> dict[str, Any]:
    """All columns of new rows; vectors (N, D). seen: the images that were opened, by path. Captions
    and tags are empty: those of an earlier content of a file do not fit any more."""
    import pyarrow as pa

    columns = file_columns(files)
    paths = columns["path"]
    times = columns["modified"].cast(pa.int64()).to_numpy()
    unknown = Seen(0, 0, None)
    images = [seen.get(path, unknown) for path in paths]
    columns |= {
        "id": [id_of(path) for path in paths],
        "hash": [image.digest or file.digest for image, file in zip(images, files, strict=True)],
        "width": [image.width or None for image in images],
        "height": [image.height or None for image in images],
        "thumbnail": [image.thumbnail for image in images],
        "caption": [None] * len(paths),
        "tags": [None] * len(paths),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
    }
    return columns | checksums(paths, times, vectors)


def arrow_table(columns: Mapping[str, Any], dim: int = 1) -> Any:
    """A pyarrow.Table of some columns of the schema."""
    import pyarrow as pa

    arrays = {
        name: pa.array(values) if isinstance(values, np.ndarray) else values
        for name, values in columns.items()
    }
    all_columns = schema(dim)
    return pa.table(arrays, schema=pa.schema([all_columns.field(name) for name in columns]))


def checksums(
    paths: Sequence[str], modified: NDArray[np.int64], vectors: Vectors | None
) -> dict[str, NDArray[np.int64]]:
    """Checksums (N,) of rows by the name of their column: "time_sum" changes with any bit of path
    or time, "vector_sum" with any bit of path or vector. Each is a sum of 32-bit words, every word
    times an odd number that depends on its position, modulo 2^64."""
    multiplier = np.uint64(_MULTIPLIER)
    path_sums = np.array([zlib.crc32(path.encode()) for path in paths], np.uint64) * multiplier
    out = {"time_sum": path_sums + modified.astype(np.uint64) * np.uint64(3)}
    if vectors is not None:
        words = np.ascontiguousarray(vectors).view(np.uint32)
        positions = np.arange(words.shape[1], dtype=np.uint64)
        out["vector_sum"] = path_sums + words @ (positions * multiplier | np.uint64(1))
    return {name: values.astype(np.int64) for name, values in out.items()}


def column_kind(arrow_type: Any) -> str:
    """What a column holds, for people: text, number, boolean, time, list, vector or bytes."""
    import pyarrow as pa

    tests = {
        "text": (pa.types.is_string, pa.types.is_large_string),
        "number": (pa.types.is_integer, pa.types.is_floating),
        "boolean": (pa.types.is_boolean,),
        "time": (pa.types.is_timestamp, pa.types.is_date),
        "vector": (pa.types.is_fixed_size_list,),
        "list": (pa.types.is_list, pa.types.is_large_list),
    }
    for kind, tests_of_kind in tests.items():
        if any(test(arrow_type) for test in tests_of_kind):
            return kind
    return "bytes"


def visible_columns(table_schema: Any) -> dict[str, str]:
    """The kind of each column of a table by its name, without the columns for internal use."""
    fields = [field for field in table_schema if field.name not in PRIVATE]
    return {field.name: column_kind(field.type) for field in fields}


def rows_for_new_paths(rows: Any, pairs: Sequence[tuple[File, str]]) -> Any:
    """For each pair (file, path): the row that `rows` has for the path, as a row of the file."""
    import pyarrow as pa

    row_of = {path: row for row, path in enumerate(rows.column("path").to_pylist())}
    pairs = [(file, old) for file, old in pairs if old in row_of]
    rows = rows.take(pa.array([row_of[old] for _, old in pairs], pa.int64()))
    vectors = rows.column("vector").combine_chunks()
    dim = vectors.type.list_size
    vectors = vectors.flatten().to_numpy().reshape(-1, dim)
    new = row_columns([file for file, _ in pairs], vectors, {})
    columns = {name: rows.column(name) for name in rows.schema.names}
    for name in ("path", "id", "modified", "mtime", *SUMS):
        columns[name] = pa.array(new[name], rows.schema.field(name).type)
    return cast_to_schema(pa.table(columns), rows.schema)


def with_replaced_values(rows: Any, new: Any) -> Any:
    """Rows with the values of some columns replaced by those that `new` has for the same paths."""
    import pyarrow as pa

    row_of = {path: row for row, path in enumerate(new.column("path").to_pylist())}
    order = pa.array([row_of[path] for path in rows.column("path").to_pylist()], pa.int64())
    new = cast_to_schema(new, rows.schema).take(order)
    columns = {
        name: (new if name in new.schema.names else rows).column(name) for name in rows.schema.names
    }
    return cast_to_schema(pa.table(columns), rows.schema)


def cast_to_schema(rows: Any, table_schema: Any) -> Any:
    """A pyarrow.Table with the types that a table has for its columns; other columns keep theirs.
    Raises IndexStoreError for values that do not fit."""
    import pyarrow as pa

    columns = {}
    for name in rows.schema.names:
        known = table_schema.names
        wanted = table_schema.field(name).type if name in known else rows.schema.field(name).type
        try:
            columns[name] = rows.column(name).cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise IndexStoreError(
                f"column {name} of the index holds {column_kind(wanted)}s of type {wanted}, and "
                f"these values do not fit: {error}"
            ) from error
    path = schema(1).field("path")
    fields = [path if name == "path" else pa.field(name, columns[name].type) for name in columns]
    return pa.table(list(columns.values()), schema=pa.schema(fields))
