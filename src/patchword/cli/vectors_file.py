"""What embed writes and shows: vectors with their names, as .npz, .npy or lines of JSON; a summary
of them."""

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

    Row = tuple[Source, NDArray[Any] | ImageError]  # its name, and its vector or why there is none

ROWS, NUMBERS = 10, 4  # that a summary shows


def check_lines(names: Sequence[Source]) -> None:
    """Refuse names that would not be one line of a file each."""
    if broken := [name for name in map(str, names) if "\n" in name or "\r" in name]:
        refuse(f"{broken[0]!r} has a line break, so that rows of .npy cannot be named; write .npz")


def record(kind: str, name: Source, row: NDArray[Any] | ImageError) -> dict[str, Any]:
    """A vector, or why there is none, as a line of JSON."""
    if isinstance(row, ImageError):
        return {kind: str(name), "vector": None, "error": row.reason}
    return {kind: str(name), "vector": row.tolist()}


def begun(each: Iterator[Row]) -> tuple[int, Iterator[Row]]:
    """How many numbers a vector has, and all rows; 0 where all failed."""
    failed: list[Row] = []
    for name, row in each:
        if not isinstance(row, ImageError):
            return len(row), chain(failed, [(name, row)], each)
        failed.append((name, row))
    return 0, iter(failed)


def show_vectors(kind: str, rows: Iterator[Row], bundle: Model) -> None:
    """Show how many vectors there are and how long, the first ones' names and their first numbers;
    and how to get all."""
    good = ((name, row) for name, row in rows if not isinstance(row, ImageError))
    first = list(islice(good, ROWS))
    heading, names = heading_and_names([name for name, _ in first])
    if kind == "text":
        heading, names = kind, [str(name) for name, _ in first]
    out = table(heading, "first numbers", right=("first numbers",))
    for name, (_, row) in zip(names, first, strict=True):
        out.add_row(name, " ".join(f"{value:.3f}" for value in row[:NUMBERS]) + " ...")
    screen().print(out)
    more = sum(1 for _ in good)
    if more:
        screen().print(f"... and {more} more")
    screen().print(f"{len(first) + more} x {bundle.dim}, unit vectors")
    notes().print("all numbers: -o vectors.npz, or --json")


def save_vectors(
    path: Path, kind: str, rows: Iterator[Row], shape: tuple[int, int], bundle: Model
) -> None:
    """Write rows, one for each image or text, as the file's suffix says, as they come; NaN for
    those that failed."""
    import numpy as np

    if path.suffix == ".jsonl":
        with replacing(path) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record(kind, name, row)) + "\n" for name, row in rows)
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
        # NumPy gives each name the room of the longest: what is empty of it is packed away.
        packed = zipfile.ZipInfo("names.npy")
        packed.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(packed, "w", force_zip64=True) as member:
            kind_of = f"<U{max(map(len, names))}"
            _write_header(member, kind_of, (len(names),))
            for name in names:
                member.write(np.array(name, kind_of).tobytes())
        for field, value in {"model": bundle.name, "fingerprint": bundle.fingerprint}.items():
            with archive.open(f"{field}.npy", "w") as member:
                np.lib.format.write_array(member, np.array(value))


def _write_rows(
    file: IO[bytes], rows: Iterator[Row], shape: tuple[int, int], names: list[str]
) -> None:
    """Write rows as an .npy of that shape; their names go into `names`."""
    import numpy as np

    _write_header(file, "<f4", shape)
    missing = np.full(shape[1], np.nan, "<f4")
    for name, row in rows:
        names.append(str(name))
        file.write((missing if isinstance(row, ImageError) else row.astype("<f4")).tobytes())


def _write_header(file: IO[bytes], kind: str, shape: tuple[int, ...]) -> None:
    """Write how an .npy begins; kind: the type of its values, as NumPy writes it."""
    import numpy as np

    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
