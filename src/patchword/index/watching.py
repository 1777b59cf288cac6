"""Keep an index up to date with folders: list them again and again.

The folders are polled: notifications of changes do not work on network drives.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from patchword.bundle import Bundle
from patchword.images.files import Path
from patchword.index.adding import AddReport
from patchword.index.index import Index

PAUSE = 2.0  # seconds at least, between two updates
# A pause is 20 times as long as the update before it: at most 5% of the time goes into updates.
PAUSE_FACTOR = 20


@dataclass(frozen=True)
class Change:
    """What changed in an update. report: files added and failed; removed: paths of dropped entries;
    missing: folders of which all files are gone, perhaps because a drive is not mounted: their
    entries stay."""

    report: AddReport
    removed: list[str]
    missing: list[str]


def changes(
    index: Index,
    paths: Sequence[Path],
    model: Bundle,
    thumbnails: bool = True,
    pause: Callable[[float], object] = time.sleep,
) -> Iterator[Change]:
    """Update the index again and again, and yield each change. Never ends."""
    missing_before: list[str] = []
    failed_before: set[str] = set()
    while True:
        start = time.monotonic()
        report = index.add(paths, model, thumbnails=thumbnails)
        deleted = _deleted(index.gone(), paths) if len(index) else []
        missing = _missing(index, paths, deleted) if deleted else []
        below_missing = tuple(os.path.join(folder, "") for folder in missing)
        removed = [path for path in deleted if not path.startswith(below_missing)]
        if removed:
            index.remove(removed)
        failed = {str(error) for error in report.failed}
        new_failures = failed - failed_before
        if report.added or report.moved or removed or missing != missing_before or new_failures:
            yield Change(report, removed, missing)
        missing_before, failed_before = missing, failed
        pause(max(PAUSE, PAUSE_FACTOR * (time.monotonic() - start)))


def _deleted(gone: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Those of the gone files that are below `paths`, or in a folder that has other files. The
    others may be on a drive that is not mounted."""
    watched = {os.path.realpath(path) for path in paths}
    below_watched = tuple(os.path.join(path, "") for path in watched)
    has_files = {folder: _has_files(folder) for folder in {os.path.dirname(path) for path in gone}}
    return [
        path
        for path in gone
        if path in watched or path.startswith(below_watched) or has_files[os.path.dirname(path)]
    ]


def _has_files(folder: str) -> bool:
    """Whether there is anything in a folder; an empty one may be the mount point of a drive."""
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def _missing(index: Index, paths: Sequence[Path], deleted: Sequence[str]) -> list[str]:
    """The folders among `paths` that have entries, all of whose files are deleted."""
    missing = []
    for path in paths:
        folder = os.path.realpath(path)
        entries = {entry for entry in index.paths() if entry.startswith(os.path.join(folder, ""))}
        if entries and entries.issubset(deleted):
            missing.append(folder)
    return missing
