"""The output of embed: vectors and their names as .npz, .npy or .jsonl, and a summary."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from patchword.atomic_write import replacing, write
from patchword.cli.member_images import Source
from patchword.cli.output import heading_and_names, notes, refuse, screen
from patchword.errors import ImageError
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from patchword.api import Model

    Row = tuple[Source, NDArray[Any] | ImageError]  # a name, and its vector or the error

ROWS, NUMBERS = 10, 4  # how many vectors a summary shows, and how many numbers of each


def check_lines(names: Sequence[Source]) -> None:
    """Refuse names with a line break, which a file of one name per line cannot hold."""
    for name in map(str, names):
        if "\n" in name or "\r" in name:
            refuse(f"{name!r} has a line break, so that rows of .npy cannot be named; write .npz")


def vector_record(kind: str, name: Source, row: NDArray[Any] | ImageError) -> dict[str, Any]:
    """A vector, or the error in its place, as a JSON record. kind: "image" or "text"."""
    if isinstance(row, ImageError):
        return {kind: str(name), "vector": None, "error": row.reason}
    return {kind: str(name), "vector": row.tolist()}


def vector_size(rows: Iterator[Row]) -> tuple[int, Iterator[Row]]:
    """How many numbers a vector has, 0 where all rows failed; and all rows."""
    failed: list[Row] = []
    for name, row in rows:
        if not isinstance(row, ImageError):
            return len(row), chain(failed, [(name, row)], rows)
        failed.append((name, row))
    return 0, iter(failed)


def show_vectors(kind: str, rows: Iterator[Row], bundle: Model) -> None:
    """Print a summary: the first vectors' names and first numbers, how many vectors there are and
    how long they are, and how to get all."""
    vectors = ((name, row) for name, row in rows if not isinstance(row, ImageError))
    first = list(islice(vectors, ROWS))
    heading, names = heading_and_names([name for name, _ in first])
    if kind == "text":
        heading, names = kind, [str(name) for name, _ in first]
    out = table(heading, "first numbers", right=("first numbers",))
    for name, (_, row) in zip(names, first, strict=True):
        out.add_row(name, " ".join(f"{value:.3f}" for value in row[:NUMBERS]) + " ...")
    screen().print(out)
    more = sum(1 for _ in vectors)
    if more:
        screen().print(f"... and {more} more")
    screen().print(f"{len(first) + more} x {bundle.dim}, unit vectors")
    notes().print("all numbers: -o vectors.npz, or --json")


def save_vectors(
    path: Path, kind: str, rows: Iterator[Row], shape: tuple[int, int], bundle: Model
) -> None:
    """Write rows as they come, one for each image or text, in the format of the file's suffix. A
    row that failed is NaN. shape: of all vectors."""
    import numpy as np

    if path.suffix == ".jsonl":
        with replacing(path) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(vector_record(kind, name, row)) + "\n" for name, row in rows)
        return
    names: list[str] = []
    if path.suffix == ".npy":
        with replacing(path) as part, part.open("wb") as file:
            _write_rows(file, rows, shape, names)
        beside = path.with_suffix(".paths.txt" if kind == "image" else ".texts.txt")
        lines = "".join(f"{name}\n" for name in names)
        write(beside, lines.encode("utf-8", "surrogateescape"))
        return
    with replacing(path) as part, zipfile.ZipFile(part, "w") as archive:  # as np.savez writes it
        with archive.open("vectors.npy", "w", force_zip64=True) as member:
            _write_rows(member, rows, shape, names)
        # NumPy pads each name to the length of the longest; compression makes the padding small.
        names_info = zipfile.ZipInfo("names.npy")
        names_info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(names_info, "w", force_zip64=True) as member:
            dtype = f"<U{max(map(len, names))}"
            _write_header(member, dtype, (len(names),))
            for name in names:
                member.write(np.array(name, dtype).tobytes())
        for field, value in {"model": bundle.name, "fingerprint": bundle.fingerprint}.items():
            with archive.open(f"{field}.npy", "w") as member:
                np.lib.format.write_array(member, np.array(value))


def _write_rows(
    file: IO[bytes], rows: Iterator[Row], shape: tuple[int, int], names: list[str]
) -> None:
    """Write rows as an .npy of this shape, and add their names to `names`."""
    import numpy as np

    _write_header(file, "<f4", shape)
    missing = np.full(shape[1], np.nan, "<f4")
    for name, row in rows:
        names.append(str(name))
        file.write((missing if isinstance(row, ImageError) else row.astype("<f4")).tobytes())


def _write_header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    """Write the header of an .npy."""
    import numpy as np

    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
