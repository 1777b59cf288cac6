"""The caller's own columns: read from tables, given types and names of an index, and joined."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from patchword.data.csv_files import csv_records
from patchword.data.rows import listed, suffix_of, usual_columns
from patchword.errors import IndexStoreError, warn
from patchword.index.lance import line
from patchword.index.schema import schema

FILLED = {"caption", "tags"}  # columns of every index that tables may fill

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")  # "007" is a text
_COMMA = re.compile(r"-?\d+(\.\d{3})*,\d+")  # a decimal comma, or one between thousands
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")


def read_table(path: str, but: Collection[str] = ()) -> Any:
    """A pyarrow.Table of a .csv, .tsv or .parquet. but: names of columns of images, which are not
    read from a parquet file where they hold bytes: their cells are empty."""
    import pyarrow as pa  # type: ignore[import-untyped]

    if suffix_of(path) != ".parquet":
        records = csv_records(Path(path))
        _, names = next(records)
        rows = [cells for _, cells in records]
        return pa.table(
            {name: _of_texts([cells[i] for cells in rows], name) for i, name in enumerate(names)}
        )
    with _parquet(path):
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        file = pq.ParquetFile(path)
        images = [
            field.name
            for field in file.schema_arrow
            if field.name.lower() in but and not _is_text(field.type)
        ]
        kept = [name for name in file.schema_arrow.names if name not in images]
        table = file.read(columns=kept)
    for name in images:
        table = table.append_column(name, pa.nulls(file.metadata.num_rows, pa.string()))
    return table


@contextmanager
def _parquet(path: str) -> Iterator[None]:
    """Raises IndexStoreError for what pyarrow raises of a file that it cannot read."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IndexStoreError(f"{path}: no parquet file that can be read: {line(error)}") from error


def _is_text(arrow_type: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(arrow_type):  # pandas' categories
        return _is_text(arrow_type.value_type)
    return arrow_type in (pa.string(), pa.large_string(), pa.string_view())


def _of_texts(texts: Sequence[str], name: str) -> Any:
    """A column of a csv: numbers where all cells are, else texts; empty cells are null. Numbers
    with commas stay texts, and that is told: nothing says what "1,234" means."""
    filled = [text for text in texts if text]
    for pattern, convert in ((_WHOLE, int), (_NUMBER, float)):
        if filled and all(map(pattern.fullmatch, filled)):
            return column([convert(text) if text else None for text in texts])
    commas = [text for text in filled if _COMMA.fullmatch(text)]
    if commas and all(_COMMA.fullmatch(text) or _NUMBER.fullmatch(text) for text in filled):
        warn(
            f"column {name} is kept as text: its numbers have commas, as {commas[0]}; write them "
            "with a point to search and sort by them"
        )
    return column([text or None for text in texts])


def column(values: Sequence[Any]) -> Any:
    """Values as a pyarrow array of a type that an index stores: whole numbers, numbers, booleans,
    times, texts or lists of texts; what is mixed, or none of these, as texts, of JSON where it has
    a way to write them. None and NaN are empty."""
    import pyarrow as pa

    values = [_of_python(value) for value in values]
    filled = [value for value in values if value is not None]
    kinds = {
        pa.bool_(): lambda v: isinstance(v, bool),
        pa.int64(): lambda v: isinstance(v, int) and abs(v) < 2**63 and not isinstance(v, bool),
        pa.float64(): lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
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


def _of_python(value: Any) -> Any:
    """A number, text or time of NumPy as one of Python, a day as the time that it begins at, and
    NaN as None."""
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day)
    return None if isinstance(value, float) and value != value else value


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    of_json = isinstance(value, (bool, int, float, Mapping, list, tuple))
    return json.dumps(value, default=str) if of_json else str(value)


def table_of(columns: Any, count: int) -> Any:
    """{name: values} as a pyarrow.Table. Raises IndexStoreError unless it is that, of `count`
    values each."""
    import pyarrow as pa

    if not isinstance(columns, Mapping) or not all(isinstance(name, str) for name in columns):
        raise IndexStoreError("columns are {name: values}, or a pyarrow.Table")
    values = {}
    for name, each in columns.items():
        if not isinstance(each, (Sequence, np.ndarray)) or isinstance(each, (str, bytes)):
            raise IndexStoreError(f"column {name!r}: not a list of values")
        values[name] = list(each)
        if len(values[name]) != count:
            raise IndexStoreError(f"column {name!r}: {len(values[name])} values for {count} paths")
    return pa.table({name: column(each) for name, each in values.items()})


def columns_of(table: Any) -> Any:
    """A pyarrow.Table with columns as an index has them. A UserWarning names those that are called
    otherwise here, because of their signs or because the index has such a column of its own, and
    those of bytes, which are left out."""
    import pyarrow as pa

    names: dict[str, str] = {}
    left: list[str] = []
    for field in table.schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            left.append(field.name)
            continue
        name = _own_name(field.name)
        if name in names:
            raise IndexStoreError(
                f"columns {names[name]!r} and {field.name!r} are both called {name} in an index; "
                "rename one of them"
            )
        names[name] = field.name
    renamed = [f"{old!r} is {new}" for new, old in names.items() if old != new]
    for what, said in (("columns are renamed", renamed), ("columns of bytes are left out", left)):
        if said:
            warn(f"{what}: {', '.join(said)}", UserWarning)
    found = {new: _stored(table.column(old)) for new, old in names.items()}
    if "tags" in found and not pa.types.is_list(found["tags"].type):
        found["tags"] = column([_tags(cell) for cell in found["tags"].to_pylist()])
    return pa.table(found)


def _tags(cell: Any) -> list[str] | None:
    """Words between commas, or in a list of JSON, as a list."""
    if cell is None:
        return None
    words: list[Any] = str(cell).split(",")
    if str(cell).startswith("["):
        with suppress(ValueError, RecursionError):
            words = json.loads(cell)
    return [word for word in (str(each).strip() for each in words) if word]


def _stored(values: Any) -> Any:
    """A column of a type that an index stores, without a loop where Arrow knows how. NaN, which
    conditions would take for larger than all numbers, is empty."""
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
            finer = pa.types.is_timestamp(kind) and kind.unit == "ns"  # pandas has them so
            return values.cast(pa.timestamp("us", tz="UTC"), safe=not finer)
    except pa.ArrowInvalid:  # too large
        return values.cast(pa.string())
    return column(values.to_pylist())


def _own_name(name: str) -> str:
    """The name of a column in an index: small letters, digits and _, as conditions have them."""
    plain = re.sub(r"\W+", "_", name.strip().lower()).strip("_") or "column"
    plain = f"_{plain}" if plain[0].isdigit() else plain
    own = schema(1).names
    return f"table_{plain}" if plain in own and plain not in FILLED else plain


def told_table(told: Mapping[str, Mapping[str, Any]], paths: Collection[str]) -> Any:
    """What tables and tars say of images, {column: {path: value}}, as a pyarrow.Table with `path`,
    of these paths alone."""
    import pyarrow as pa

    about = [path for path in paths if any(path in values for values in told.values())]
    found = {name: column([values.get(p) for p in about]) for name, values in told.items()}
    named = columns_of(pa.table(found))
    return with_path(about, named)


def differing(new: Any, stored: Any) -> Any:
    """Which rows (N,) of a table with `path` say something else than the stored row of that path,
    or more; not those of paths that are not stored."""
    import pyarrow as pa

    old = {row["path"]: row for row in stored.to_pylist()}
    empty = dict.fromkeys(new.schema.names)
    rows = new.to_pylist()
    found = [row["path"] in old and row != {**empty, **old[row["path"]]} for row in rows]
    return pa.array(found, pa.bool_())


def with_path(paths: Sequence[str], columns: Any) -> Any:
    """A pyarrow.Table of N rows with a column `path` before its own, which there may be none of."""
    import pyarrow as pa

    own = dict(zip(columns.schema.names, columns.columns, strict=True))
    return pa.table({"path": pa.array(paths, pa.string()), **own})


def joined(table: Any, key: str, folder: str, known: Collection[str]) -> tuple[Any, list[str]]:
    """A table of the caller as one with `path` for an index that has the paths `known`, and a line
    for each row that belongs to none: its file name, or what is wrong with it.

    key: the column of paths, from `folder`, or file names. A path that is none of the index, as
    one of another machine, is that of a file whose name and folder are called the same.
    """
    import pyarrow as pa

    by_name: dict[str, list[str]] = {}  # also by the name of the folder, and that
    for path in known:
        for end in (1, 2):
            by_name.setdefault("/".join(path.split("/")[-end:]), []).append(path)
    paths: list[str] = []
    rows: list[int] = []
    lost: list[str] = []
    taken: set[str] = set()
    for row, cell in enumerate(table.column(key).to_pylist()):
        name = str(cell or "").replace("\0", "\ufffd")  # which no path has
        whole = os.path.join(folder, name)
        found = [p for p in (name, whole, os.path.realpath(whole)) if p in known][:1]
        tail = "/".join(os.path.normpath(name).split("/")[-2:]) if name else ""
        found = found or by_name.get(tail, [])
        if len(found) != 1 or found[0] in taken:
            why = f"{len(found)} files of that name" if len(found) > 1 else "twice" * bool(found)
            lost.append(f"{name or f'row {row + 1}, which is empty'}{f' ({why})' * bool(why)}")
            continue
        taken.add(found[0])
        paths.append(found[0])
        rows.append(row)
    named = columns_of(table.drop_columns([key])).take(pa.array(rows, pa.int64()))
    return with_path(paths, named), lost


def key_of(table: Any, usual: Sequence[str], where: str) -> str:
    """The column of paths or file names. Raises IndexStoreError where there is none."""
    names = usual_columns(table.schema.names, usual)
    if not names:
        raise IndexStoreError(
            f"{where}: no column of paths or file names; it has {listed(table.schema.names)}; "
            "call that one path"
        )
    return names[0]
