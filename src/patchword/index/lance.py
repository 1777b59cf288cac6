"""What the tables of an index share: LanceDB's errors, conditions on paths, merging of files."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

# A table of more files than this is compacted: each commit reads the list of all files.
MAX_FRAGMENTS = 64
PAUSES = (0.02, 0.05, 0.1, 0.2)  # seconds between attempts, while another process merges the files

T = TypeVar("T")

_PATHS_IN_CONDITION = 1000
_DISK_FULL = re.compile(r"os error (28|122|27)\b|no space left|quota exceeded", re.IGNORECASE)


def library() -> Any:
    """LanceDB, imported at its first use, because that takes half a second. Its client of REST
    servers, which takes as long again, is only executed if something uses more than its types."""
    if "lancedb" not in sys.modules:
        _defer("lance_namespace_urllib3_client")
    # LanceDB's warnings are about its internals: thousands of lines when it sorts many vectors.
    os.environ.setdefault("LANCEDB_LOG", "error")
    import lancedb

    return lancedb


def _defer(package: str) -> None:
    """Let the modules of a package be imported without executing its __init__.py, until something
    asks for a name of that."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.loader is None or package in sys.modules:
        return
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def execute(name: str) -> Any:
        if name.startswith("__"):  # asked for by the import of a submodule
            raise AttributeError(name)
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, name)

    module.__dict__["__getattr__"] = execute
    sys.modules.setdefault(package, module)


def is_lancedb_error(error: BaseException) -> bool:
    """Whether LanceDB raised this. A panic of its Rust code is no `Exception` in Python."""
    panics = type(error).__name__ in ("PanicException", "RustPanic")
    return panics or isinstance(error, (RuntimeError, ValueError, OSError))


@contextmanager
def errors_converted(convert: Callable[[BaseException], Exception]) -> Iterator[None]:
    """Raises convert(error) instead of LanceDB's errors inside the block."""
    try:
        yield
    except BaseException as error:  # see `is_lancedb_error`
        if not is_lancedb_error(error):
            raise
        raise convert(error) from error


def short_message(error: BaseException) -> str:
    """LanceDB's message on one line, without the places in its source."""
    text = re.sub(r",? ?/\S+\.rs:\d+:\d+", "", str(error))
    return " ".join(text.split())[:300]


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk is full, or a quota is used up."""
    return bool(_DISK_FULL.search(str(error)))


def retried(action: Callable[[], T]) -> T:
    """action(), tried again after LanceDB's errors: another process may be merging the files."""
    for pause in PAUSES:
        try:
            return action()
        except BaseException as error:  # see `is_lancedb_error`
            if not is_lancedb_error(error):
                raise
        time.sleep(pause)
    return action()


def merge_files(table: Any, max_fragments: int) -> None:
    """Merge a table's files where there are more than `max_fragments`, and delete past versions.
    Nothing is done where another process does so at the same time."""
    if table.stats()["fragment_stats"]["num_fragments"] <= max_fragments:
        return
    try:
        table.optimize(cleanup_older_than=timedelta(milliseconds=1))
    except BaseException as error:  # see `is_lancedb_error`
        if not (is_lancedb_error(error) and "Retryable commit conflict" in str(error)):
            raise


def path_conditions(paths: Iterable[str]) -> Iterator[str]:
    """Conditions in SQL that together match the rows of these paths."""
    names = list(paths)
    for start in range(0, len(names), _PATHS_IN_CONDITION):
        batch = names[start : start + _PATHS_IN_CONDITION]
        quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in batch)
        yield f"path IN ({quoted})"
