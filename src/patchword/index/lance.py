"""What the tables of an index share: LanceDB's errors, conditions on paths, leftovers."""

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

FRAGMENTS = 64  # files of a table; with more, they are merged, because each commit looks at all
PAUSES = (0.02, 0.05, 0.1, 0.2)  # seconds between attempts, where another process merges them

T = TypeVar("T")

_AT_ONCE = 1000  # paths in one condition
_NO_ROOM = re.compile(r"os error (28|122|27)\b|no space left|quota exceeded", re.IGNORECASE)


def library() -> Any:
    """LanceDB, which is imported when it is first used: it takes half a second. Its client of
    REST servers, as much again, is executed only where something asks for more than its types."""
    if "lancedb" not in sys.modules:
        _defer("lance_namespace_urllib3_client")
    # Its warnings are of its own work, thousands of lines while it sorts millions of vectors.
    os.environ.setdefault("LANCEDB_LOG", "error")
    import lancedb

    return lancedb


def _defer(package: str) -> None:
    """Let a package's modules be imported without executing the package's own file, until
    something asks for a name of that."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.loader is None or package in sys.modules:
        return
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def execute(name: str) -> Any:
        if name.startswith("__"):  # which the import of a module asks for
            raise AttributeError(name)
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, name)

    module.__dict__["__getattr__"] = execute
    sys.modules.setdefault(package, module)


def of_library(error: BaseException) -> bool:
    """Whether LanceDB raised this. A panic of its code is no `Exception` in Python."""
    panics = type(error).__name__ in ("PanicException", "RustPanic")
    return panics or isinstance(error, (RuntimeError, ValueError, OSError))


@contextmanager
def told_as(made: Callable[[BaseException], Exception]) -> Iterator[None]:
    """Instead of LanceDB's errors of what is done inside, what is made of them."""
    try:
        yield
    except BaseException as error:  # see `of_library`
        if not of_library(error):
            raise
        raise made(error) from error


def line(error: BaseException) -> str:
    """LanceDB's message on one line, without the places in its source."""
    text = re.sub(r",? ?/\S+\.rs:\d+:\d+", "", str(error))
    return " ".join(text.split())[:300]


def no_room(error: BaseException) -> bool:
    """Whether the disk is full, or a quota is."""
    return bool(_NO_ROOM.search(str(error)))


def tried_again(action: Callable[[], T]) -> T:
    """action(), tried again after LanceDB's errors: another process may be merging the files."""
    for pause in PAUSES:
        try:
            return action()
        except BaseException as error:  # see `of_library`
            if not of_library(error):
                raise
        time.sleep(pause)
    return action()


def merge_files(table: Any, most: int) -> None:
    """Merge a table's files where there are more than `most`, and delete past versions; unless
    another process does so meanwhile."""
    if table.stats()["fragment_stats"]["num_fragments"] <= most:
        return
    try:
        table.optimize(cleanup_older_than=timedelta(milliseconds=1))
    except BaseException as error:  # see `of_library`
        if not (of_library(error) and "Retryable commit conflict" in str(error)):
            raise


def path_conditions(paths: Iterable[str]) -> Iterator[str]:
    """Conditions in SQL that together name the rows of these paths."""
    names = list(paths)
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in some)
        yield f"path IN ({quoted})"
