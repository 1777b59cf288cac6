"""JSON Lines files that a continued run appends to: each step is there once, and a line that a
killed run wrote half is deleted."""

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
    """The rows of a file; none where there is no file. A half-written last line is skipped.
    Raises RecipeError, with its number, for any other line that is not a JSON object."""
    try:
        lines = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with lines:
        bad = 0
        for number, line in enumerate(lines, start=1):
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
    """A file of rows; each is in the file when `write` returns, even if the process is killed."""

    def __init__(self, path: Path, keep: Callable[[Row], bool]) -> None:
        """Continue the file; rows for which `keep` is false are deleted."""
        self.path = path
        try:
            if path.exists():
                text = (json.dumps(row) + "\n" for row in read(path) if keep(row))
                write(path, text)
            self.file = path.open("ab", buffering=0)
        except OSError as error:
            raise RecipeError(f"{path}: {error.strerror}") from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line; NaN and infinity, which JSON does not have, become null. Raises
        RecipeError where it cannot be written."""
        line = json.dumps({key: _finite(value) for key, value in row.items()}) + "\n"
        rest = line.encode()
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
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
