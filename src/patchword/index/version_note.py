"""version.json beside the table of an index: the newest version, so that its loss is noticed."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

VERSION_FILE = "version.json"


class VersionNote(NamedTuple):
    """The newest version of a table, how many rows it has, and the table's mark (see
    `schema.with_metadata`), "" where the table has none."""

    version: int
    rows: int
    mark: str


def read_note(folder: str) -> VersionNote | None:
    """The note in the folder of an index; None where there is none. Raises ValueError for a damaged
    one."""
    try:
        with open(os.path.join(folder, VERSION_FILE), encoding="utf-8") as file:
            note = json.load(file)
        return VersionNote(int(note["version"]), int(note["rows"]), str(note.get("mark", "")))
    except FileNotFoundError:
        return None
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
