"""The columns of an index's table, and rows for it."""

from __future__ import annotations

import hashlib
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
PRIVATE = {"mtime", *SUMS}  # columns that serve the index alone
ID_BITS = 53  # a number of JSON holds as many in every language

_ODD = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: neighbouring places get very different numbers

Vectors = NDArray[np.float32]  # (N, D)


def id_of(path: str) -> int:
    """The id of the row of a path: 53 bits of its hash, so that several writers need not agree on
    one, and it stays when the file changes."""
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


def file_columns(files: Sequence[File]) -> dict[str, Any]:
    """The columns of files that change with them, and with nothing else."""
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


def row_columns(
    files: Sequence[File], vectors: Vectors, seen: Mapping[str, Seen]
) -> dict[str, Any]:
    """All columns of new rows; vectors (N, D). seen: by path, of those that were opened. What was
    said of an earlier content, captions and tags, is emptied."""
    import pyarrow as pa

    columns = file_columns(files)
    paths = columns["path"]
    times = columns["modified"].cast(pa.int64()).to_numpy()
    none = Seen(0, 0, None)
    sights = [seen.get(path, none) for path in paths]
    columns |= {
        "id": [id_of(path) for path in paths],
        "hash": [sight.digest or each.digest for sight, each in zip(sights, files, strict=True)],
        "width": [sight.width or None for sight in sights],
        "height": [sight.height or None for sight in sights],
        "thumbnail": [sight.thumbnail for sight in sights],
        "caption": [None] * len(paths),
        "tags": [None] * len(paths),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
    }
    return columns | checksums(paths, times, vectors)


def arrow(columns: Mapping[str, Any], dim: int = 1) -> Any:
    """A pyarrow.Table of some columns of the schema."""
    import pyarrow as pa

    whole = schema(dim)
    return pa.table(
        {name: pa.array(values) if isinstance(values, np.ndarray) else values
         for name, values in columns.items()},
        schema=pa.schema([whole.field(name) for name in columns]),
    )  # fmt: skip


def checksums(
    paths: Sequence[str], modified: NDArray[np.int64], vectors: Vectors | None
) -> dict[str, NDArray[np.int64]]:
    """Numbers (N,) of each row by the name of their column: "time_sum" changes with any bit of its
    path or time, "vector_sum" with any of its path or vector. A sum of words, each times an odd
    number of its place, modulo 2^64."""
    names = np.array([zlib.crc32(path.encode()) for path in paths], np.uint64) * np.uint64(_ODD)
    out = {"time_sum": names + modified.astype(np.uint64) * np.uint64(3)}
    if vectors is not None:
        words = np.ascontiguousarray(vectors).view(np.uint32)
        places = np.arange(words.shape[1], dtype=np.uint64)
        out["vector_sum"] = names + words @ (places * np.uint64(_ODD) | np.uint64(1))
    return {name: values.astype(np.int64) for name, values in out.items()}


def kind(arrow_type: Any) -> str:
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
    return next(
        (name for name, each in tests.items() if any(test(arrow_type) for test in each)), "bytes"
    )


def renamed(rows: Any, pairs: Sequence[tuple[File, str]]) -> Any:
    """Rows of a table, of the second path of each pair, as rows of its file."""
    import pyarrow as pa

    places = {path: row for row, path in enumerate(rows.column("path").to_pylist())}
    files = [file for file, old in pairs if old in places]
    rows = rows.take(pa.array([places[old] for _, old in pairs if old in places], pa.int64()))
    vectors = rows.column("vector").combine_chunks()
    dim = vectors.type.list_size
    vectors = vectors.flatten().to_numpy().reshape(-1, dim)
    new = row_columns(files, vectors, {})
    changed = ("path", "id", "modified", "mtime", *SUMS)
    columns = {
        field.name: pa.array(new[field.name], field.type)
        if field.name in changed
        else rows.column(field.name)
        for field in rows.schema
    }
    return fitting(pa.table(columns), rows.schema)


def overlaid(rows: Any, new: Any) -> Any:
    """Rows with some columns replaced by those that `new` has for the same paths."""
    import pyarrow as pa

    places = {path: row for row, path in enumerate(new.column("path").to_pylist())}
    order = pa.array([places[path] for path in rows.column("path").to_pylist()], pa.int64())
    found = fitting(new, rows.schema).take(order)
    columns = {
        name: (found if name in found.schema.names else rows).column(name)
        for name in rows.schema.names
    }
    return fitting(pa.table(columns), rows.schema)


def fitting(rows: Any, known: Any) -> Any:
    """A pyarrow.Table of the types that a table's schema, `known`, has for its columns. Raises
    IndexStoreError for values that do not fit."""
    import pyarrow as pa

    columns = {}
    for name in rows.schema.names:
        wanted = known.field(name) if name in known.names else rows.schema.field(name)
        values = rows.column(name)
        try:
            columns[name] = values.cast(wanted.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise IndexStoreError(
                f"column {name} of the index holds {kind(wanted.type)}s of type {wanted.type}, and "
                f"these values do not fit: {error}"
            ) from error
    path = schema(1).field("path")
    fields = [path if name == "path" else pa.field(name, columns[name].type) for name in columns]
    return pa.table(list(columns.values()), schema=pa.schema(fields))
