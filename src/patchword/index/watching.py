"""Keep an index and folders together: look at them again and again.

Folders are listed rather than listened to: that works on every disk, those of a network too, which
tell nobody of their changes.
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

PAUSE = 2.0  # seconds between two looks
SHARE = 20  # a pause is so many times as long as the look before: at most 5% of the time is looking


@dataclass(frozen=True)
class Change:
    """What a look at the folders found new: files added and failed, paths of entries removed, and
    folders nothing of which is there, perhaps because a drive is not mounted: their entries stay.
    """

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
    """Each change of the folders, after the index was brought up to date with it. Never ends."""
    missing: list[str] = []
    failed: set[str] = set()
    while True:
        start = time.monotonic()
        report = index.add(paths, model, thumbnails=thumbnails)
        lost = _deleted(index.gone(), paths) if len(index) else []
        away = _missing(index, paths, lost) if lost else []
        below = tuple(os.path.join(folder, "") for folder in away)
        removed = [path for path in lost if not (below and path.startswith(below))]
        if removed:
            index.remove(removed)
        now = {str(error) for error in report.failed}
        if report.added or report.moved or removed or away != missing or now - failed:
            yield Change(report, removed, away)
        missing, failed = away, now
        pause(max(PAUSE, SHARE * (time.monotonic() - start)))


def _deleted(lost: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """The entries, of those whose files are gone, that are below `paths`, or in a folder that holds
    other files. Of the rest nothing is known: perhaps their drive is not mounted."""
    tops = {os.path.realpath(path) for path in paths}
    below = tuple(os.path.join(top, "") for top in tops)
    there = {folder: _holds(folder) for folder in {os.path.dirname(path) for path in lost}}
    return [
        path
        for path in lost
        if path in tops or path.startswith(below) or there[os.path.dirname(path)]
    ]


def _holds(folder: str) -> bool:
    """Whether there is anything in a folder; an empty one may be where a drive is mounted."""
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def _missing(index: Index, paths: Sequence[Path], lost: Sequence[str]) -> list[str]:
    """The folders among `paths` that have entries, all of whose files are gone."""
    gone, out = set(lost), []
    for path in paths:
        below = os.path.join(os.path.realpath(path), "")
        inside = [known for known in index.paths() if known.startswith(below)]
        if inside and gone.issuperset(inside):
            out.append(below[:-1])
    return out
