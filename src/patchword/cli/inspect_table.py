"""What inspect shows in a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from patchword.cli.output import heading_and_names
from patchword.errors import counted
from patchword.show.plain_number import plain
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.cli.member_images import Source
    from patchword.inspect.inspector import Inspector


MARK = " *"


def one_good(first: str, good: Sequence[Source], sources: Sequence[Source]) -> str:
    """What to say where GOOD is one photo and several are inspected, as of a glob without quotes;
    else empty."""
    if len(good) > 1 or len(sources) < 2 or first.startswith("@") or os.path.isdir(first):
        return ""
    return (
        f"GOOD is one photo, {good[0]}; {len(sources)} photos are inspected. To learn from "
        "several, give their folder, or a glob in quotes"
    )


def verdicts(rows: Sequence[dict[str, Any]]) -> Table:
    """A row for each photo, the worst first; of its boxes how many there are, and the largest. What
    `MARK` means, `marked` says."""
    from patchword.inspect.result import in_words

    done = sorted((row for row in rows if "error" not in row), key=lambda row: -row["score"])
    heading, names = heading_and_names([row["path"] for row in done])
    last = "boxes: largest"
    calibrated = any(row["p_value"] is not None for row in done)
    column = ("p-value",) * calibrated
    out = table(heading, "score", *column, "verdict", last, right=("score", "p-value", last))
    for name, row in zip(names, done, strict=True):
        p = ["-" if row["p_value"] is None else f"{row['p_value']:.3g}"] * calibrated
        verdict = in_words(row["rejected"], row.get("outside", False)) + MARK * doubtful(row)
        style = "bold" if row["rejected"] else ""
        out.add_row(name, plain(row["score"]), *p, verdict, largest(row["boxes"]), style=style)
    return out


def doubtful(row: dict[str, Any]) -> bool:
    """Whether a photo is not rejected and unlike all that the model knows."""
    return row.get("rejected") is False and row.get("outside", False)


def marked(rows: Sequence[dict[str, Any]], model: str) -> str:
    """What `MARK` means, under a table that has it; else empty."""
    if not any(map(doubtful, rows)):
        return ""
    return f"{MARK.strip()} unlike what {model} knows: that it is not rejected says little"


def largest(boxes: Sequence[Sequence[int]]) -> str:
    """How many boxes there are, and the corners of the largest."""
    if not boxes:
        return ""
    x1, y1, x2, y2 = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return f"{len(boxes)}: {x1},{y1},{x2},{y2}"


def summary(rows: Sequence[dict[str, Any]], inspector: Inspector, listed: bool) -> str:
    """How many are rejected, and by which threshold; empty where nothing was inspected.
    listed: photos were judged as one list."""
    found = [row["rejected"] for row in rows if "error" not in row]
    if not found:
        return ""
    limits = [each.limit for each in inspector.judges().values()]
    if listed:
        by = "judged as one list"
    elif inspector.grouped:
        by = "a threshold for each folder"
    else:
        by = f"threshold {plain(limits[0])}" if limits[0] < float("inf") else "no threshold"
    learned = inspector.learned
    good = f", learned from {counted(learned, 'good photo')}" if learned else ""
    without = f", {found.count(None)} without a verdict" if None in found else ""
    return f"{found.count(True)} of {len(found)} rejected{without}; {by}{good}"
