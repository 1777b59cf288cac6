"""The caller's own columns: read from tables, converted to the types and names that an index
stores, and joined with its rows."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from patchword.data.csv_files import csv_records
from patchword.data.rows import listed, suffix_of, usual_columns
from patchword.errors import IndexStoreError, warn
from patchword.index.lance import short_message
from patchword.index.schema import schema

FILLABLE = {"caption", "tags"}  # columns of every index that tables may fill

_INTEGER = re.compile(r"-?(0|[1-9]\d{0,30})")  # "007" is a text
_COMMA_NUMBER = re.compile(r"-?\d+(\.\d{3})*,\d+")  # a decimal comma, or one between thousands
_NUMBER = re.compile(rf"{_INTEGER.pattern}(\.\d+)?([eE][-+]?\d+)?")
_MAX_EXACT = 2**53  # float64 rounds larger integers


def read_table(path: str, image_columns: Collection[str] = ()) -> Any:
    """A pyarrow.Table of a .csv, .tsv or .parquet. image_columns: in lower case; where a parquet
    file has bytes in one of these, they are not read, and the cells are empty."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    if suffix_of(path) != ".parquet":
        records = csv_records(Path(path))
        _, names = next(records)
        rows = [cells for _, cells in records]
        return pa.table(
            {name: _csv_column([cells[i] for cells in rows], name) for i, name in enumerate(names)}
        )
    try:
        file = pq.ParquetFile(path)
        skipped = [
            field.name
            for field in file.schema_arrow
            if field.name.lower() in image_columns and not _is_text(field.type)
        ]
        table = file.read(columns=[n for n in file.schema_arrow.names if n not in skipped])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IndexStoreError(
            f"{path}: no parquet file that can be read: {short_message(error)}"
        ) from error
    for name in skipped:
        table = table.append_column(name, pa.nulls(file.metadata.num_rows, pa.string()))
    return table


def _is_text(arrow_type: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(arrow_type):  # pandas' categories
        return _is_text(arrow_type.value_type)
    return arrow_type in (pa.string(), pa.large_string(), pa.string_view())


def _csv_column(texts: Sequence[str], name: str) -> Any:
    """A column of a csv: numbers where all cells are numbers that can be stored without rounding,
    else texts; empty cells are null. Numbers with commas stay texts, with a warning: "1,234" has
    two meanings."""
    import pyarrow as pa

    filled = [text for text in texts if text]
    if filled and all(map(_NUMBER.fullmatch, filled)):
        numbers = to_arrow([_parse_number(text) if text else None for text in texts])
        if numbers.type != pa.string():
            return numbers
    commas = [text for text in filled if _COMMA_NUMBER.fullmatch(text)]
    if commas and all(_COMMA_NUMBER.fullmatch(text) or _NUMBER.fullmatch(text) for text in filled):
        warn(
            f"column {name} is kept as text: its numbers have commas, as {commas[0]}; write them "
            "with a point to search and sort by them"
        )
    return to_arrow([text or None for text in texts])


def _parse_number(text: str) -> int | float:
    return int(text) if _INTEGER.fullmatch(text) else float(text)


def to_arrow(values: Sequence[Any]) -> Any:
    """Values as a pyarrow array of a type that an index stores: integers, numbers, booleans, times,
    texts or lists of texts. Mixed or other values, and integers that would be rounded, become
    texts, in JSON where JSON has them. None and NaN are empty."""
    import pyarrow as pa

    values = [_to_python(value) for value in values]
    filled = [value for value in values if value is not None]
    kinds = {
        pa.bool_(): lambda v: isinstance(v, bool),
        pa.int64(): lambda v: type(v) is int and abs(v) < 2**63,
        pa.float64(): lambda v: type(v) is float or (type(v) is int and abs(v) <= _MAX_EXACT),
        pa.string(): lambda v: isinstance(v, str),
        pa.timestamp("us", tz="UTC"): lambda v: isinstance(v, datetime),
        pa.list_(pa.string()): (
            lambda v: isinstance(v, (list, tuple)) and all(isinstance(t, str) for t in v)
        ),
    }
    for arrow_type, fits in kinds.items():
        if filled and all(map(fits, filled)):
            return pa.array(values, arrow_type)
    return pa.array([_as_text(value) for value in values], pa.string())


def _to_python(value: Any) -> Any:
    """A number, text or time of NumPy as one of Python, a date as midnight of that day, and NaN as
    None."""
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float, Mapping, list, tuple)):
        return json.dumps(value, default=str)
    return str(value)


def to_table(columns: Any, count: int) -> Any:
    """Columns {name: values} as a pyarrow.Table. Raises IndexStoreError for anything else, and
    unless each column has `count` values."""
    import pyarrow as pa

    if not isinstance(columns, Mapping) or not all(isinstance(name, str) for name in columns):
        raise IndexStoreError("columns are {name: values}, or a pyarrow.Table")
    arrays = {}
    for name, values in columns.items():
        if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, (str, bytes)):
            raise IndexStoreError(f"column {name!r}: not a list of values")
        if len(values) != count:
            raise IndexStoreError(f"column {name!r}: {len(values)} values for {count} paths")
        arrays[name] = to_arrow(list(values))
    return pa.table(arrays)


def to_index_columns(table: Any) -> Any:
    """A pyarrow.Table with the names and types that an index gives to its columns. A UserWarning
    names the columns that are renamed, because of their characters or because every index has a
    column of that name, and the columns of bytes, which are left out."""
    import pyarrow as pa

    names: dict[str, str] = {}
    left_out: list[str] = []
    for field in table.schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            left_out.append(field.name)
            continue
        name = _index_name(field.name)
        if name in names:
            raise IndexStoreError(
                f"columns {names[name]!r} and {field.name!r} are both called {name} in an index; "
                "rename one of them"
            )
        names[name] = field.name
    renamed = [f"{old!r} is {new}" for new, old in names.items() if old != new]
    if renamed:
        warn(f"columns are renamed: {', '.join(renamed)}", UserWarning)
    if left_out:
        warn(f"columns of bytes are left out: {', '.join(left_out)}", UserWarning)
    columns = {new: _to_index_type(table.column(old)) for new, old in names.items()}
    if "tags" in columns and not pa.types.is_list(columns["tags"].type):
        columns["tags"] = to_arrow([_parse_tags(cell) for cell in columns["tags"].to_pylist()])
    return pa.table(columns)


def _parse_tags(cell: Any) -> list[str] | None:
    """The tags in a cell: separated by commas, or a list in JSON."""
    if cell is None:
        return None
    tags: list[Any] = str(cell).split(",")
    if str(cell).startswith("["):
        with suppress(ValueError, RecursionError):
            tags = json.loads(cell)
    stripped = [str(tag).strip() for tag in tags]
    return [tag for tag in stripped if tag]


def _to_index_type(values: Any) -> Any:
    """A pyarrow column converted to a type that an index stores, without a loop in Python where
    Arrow can convert it. NaN becomes empty: conditions would take it for larger than all
    numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    kind = values.type
    if pa.types.is_boolean(kind) or kind == pa.list_(pa.string()):
        return values
    try:
        if pa.types.is_integer(kind):
            return values.cast(pa.int64())
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            numbers = values.cast(pa.float64())
            return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
        if _is_text(kind):
            return values.cast(pa.string())
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            nanoseconds = pa.types.is_timestamp(kind) and kind.unit == "ns"  # as pandas has them
            return values.cast(pa.timestamp("us", tz="UTC"), safe=not nanoseconds)
    except pa.ArrowInvalid:  # too large
        return values.cast(pa.string())
    return to_arrow(values.to_pylist())


def _index_name(name: str) -> str:
    """The name of a column in an index: lower-case letters, digits and _, as in conditions."""
    plain = re.sub(r"\W+", "_", name.strip().lower()).strip("_") or "column"
    if plain[0].isdigit():
        plain = f"_{plain}"
    if plain in schema(1).names and plain not in FILLABLE:
        return f"table_{plain}"
    return plain


def table_by_path(columns: Mapping[str, Mapping[str, Any]], paths: Collection[str]) -> Any:
    """Columns {name: {path: value}} as a pyarrow.Table with a column `path`, of those of `paths`
    that have a value."""
    import pyarrow as pa

    filled = [path for path in paths if any(path in values for values in columns.values())]
    arrays = {name: to_arrow([values.get(p) for p in filled]) for name, values in columns.items()}
    return with_path(filled, to_index_columns(pa.table(arrays)))


def changed_rows(new: Any, stored: Any) -> Any:
    """Which rows (N,) of a table with a column `path` differ from the stored row of that path. Rows
    of paths that are not stored do not count."""
    import pyarrow as pa

    old = {row["path"]: row for row in stored.to_pylist()}
    empty = dict.fromkeys(new.schema.names)
    changed = [
        row["path"] in old and row != {**empty, **old[row["path"]]} for row in new.to_pylist()
    ]
    return pa.array(changed, pa.bool_())


def with_path(paths: Sequence[str], table: Any) -> Any:
    """A pyarrow.Table of N rows with the column `path` put first. `table` may have no columns."""
    import pyarrow as pa

    columns = dict(zip(table.schema.names, table.columns, strict=True))
    return pa.table({"path": pa.array(paths, pa.string()), **columns})


def join(table: Any, key: str, folder: str, stored: Collection[str]) -> tuple[Any, list[str]]:
    """Join a table of the caller with an index. Returns a pyarrow.Table with a column `path`, and
    for each row that matches no image, or several, a line: its file name, and why.

    key: the column of file names or of paths, relative ones from `folder`. stored: the paths in the
    index. A path that the index does not have, for example of another machine, matches the image
    whose file name and folder have the same names.
    """
    import pyarrow as pa

    by_name: dict[str, list[str]] = {}  # by "file" and by "folder/file"
    for path in stored:
        for parts in (1, 2):
            by_name.setdefault("/".join(path.split("/")[-parts:]), []).append(path)
    matched: dict[str, int] = {}  # the row of each path
    unmatched: list[str] = []
    for row, cell in enumerate(table.column(key).to_pylist()):
        name = str(cell or "").replace("\0", "\ufffd")  # no path has a zero byte
        matches = _matches(name, folder, stored, by_name)
        if len(matches) > 1:
            unmatched.append(f"{name} ({len(matches)} files of that name)")
        elif not matches:
            unmatched.append(name or f"row {row + 1}, which is empty")
        elif matches[0] in matched:
            unmatched.append(f"{name} (twice)")
        else:
            matched[matches[0]] = row
    rows = pa.array(list(matched.values()), pa.int64())
    columns = to_index_columns(table.drop_columns([key])).take(rows)
    return with_path(list(matched), columns), unmatched


def _matches(
    name: str, folder: str, stored: Collection[str], by_name: Mapping[str, list[str]]
) -> list[str]:
    """The stored paths that a cell of a table may mean."""
    full = os.path.join(folder, name)
    for path in (name, full, os.path.realpath(full)):
        if path in stored:
            return [path]
    if not name:
        return []
    return by_name.get("/".join(os.path.normpath(name).split("/")[-2:]), [])


def path_column(table: Any, usual: Sequence[str], where: str) -> str:
    """The name of the column of paths or file names. Raises IndexStoreError where there is none."""
    names = usual_columns(table.schema.names, usual)
    if not names:
        raise IndexStoreError(
            f"{where}: no column of paths or file names; it has {listed(table.schema.names)}; "
            "call that one path"
        )
    return names[0]
