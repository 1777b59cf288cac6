"""JSON Lines files to which a continued run appends. Each step is there once; a last line that a
killed run did not finish is deleted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from patchword.atomic_write import write
from patchword.errors import RecipeError

Row = dict[str, Any]


def read(path: Path) -> Iterator[Row]:
    """The rows of a file; none if there is no file. A half-written last line is skipped. Raises
    RecipeError, with the line's number, for any other line that is not a JSON object."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        bad = 0  # the number of a line that is not a JSON object
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if bad:
                raise RecipeError(
                    f"{path}, line {bad}: not a JSON object; remove the line or the file"
                )
            row = _row(line)
            if row is None:
                bad = number
            else:
                yield row


class Journal:
    """A file of rows. A row is in the file when `write` returns, even if the process is then
    killed."""

    def __init__(self, path: Path, keep: Callable[[Row], bool]) -> None:
        """Continue the file. Rows for which `keep` is false are deleted."""
        self.path = path
        try:
            if path.exists():
                lines = (json.dumps(row) + "\n" for row in read(path) if keep(row))
                write(path, lines)
            self.file = path.open("ab", buffering=0)
        except OSError as error:
            raise RecipeError(f"{path}: {error.strerror}") from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line. NaN and infinity, which JSON does not have, become null. Raises
        RecipeError if it cannot be written."""
        line = json.dumps({key: _finite(value) for key, value in row.items()}) + "\n"
        content = line.encode()
        try:
            while content:  # an unbuffered file may write less than it is given
                content = content[self.file.write(content) :]
        except OSError as error:
            raise RecipeError(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
