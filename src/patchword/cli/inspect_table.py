"""What inspect shows in a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from patchword.cli.output import heading_and_names
from patchword.errors import counted
from patchword.show.plain_number import DIGITS, digits_beside, plain
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.cli.member_images import Source
    from patchword.inspect.inspector import Inspector


MARK = " *"  # behind a verdict that says little


def hint_at_one_good(argument: str, good: Sequence[Source], sources: Sequence[Source]) -> str:
    """A hint where GOOD is one photo and several are inspected, as with a glob without quotes; else
    empty. argument: GOOD as it was written."""
    if len(good) > 1 or len(sources) < 2 or argument.startswith("@") or os.path.isdir(argument):
        return ""
    return (
        f"GOOD is one photo, {good[0]}; {len(sources)} photos are inspected. To learn from "
        "several, give their folder, or a glob in quotes"
    )


def score_digits(rows: Sequence[dict[str, Any]], inspector: Inspector) -> int:
    """The significant digits of scores and of the threshold, where `summary` names one."""
    if inspector.grouped:
        return DIGITS
    [judge] = inspector.judges().values()
    return digits_beside([row["score"] for row in rows if "error" not in row], judge.limit)


def verdicts_table(rows: Sequence[dict[str, Any]], digits: int = DIGITS) -> Table:
    """A row for each photo, the worst first, with the number of its boxes and the largest one.
    digits: of scores. `mark_footnote` explains MARK."""
    from patchword.inspect.result import in_words

    done = sorted((row for row in rows if "error" not in row), key=lambda row: -row["score"])
    heading, names = heading_and_names([row["path"] for row in done])
    columns = [heading, "score", "verdict", "boxes: largest"]
    calibrated = any(row["p_value"] is not None for row in done)
    if calibrated:
        columns.insert(2, "p-value")
    out = table(*columns, right=("score", "p-value", "boxes: largest"))
    for name, row in zip(names, done, strict=True):
        cells = [name, plain(row["score"], digits)]
        if calibrated:
            cells.append("-" if row["p_value"] is None else f"{row['p_value']:.3g}")
        verdict = in_words(row["rejected"], row.get("outside", False))
        if is_doubtful(row):
            verdict += MARK
        style = "bold" if row["rejected"] else ""
        out.add_row(*cells, verdict, largest_box(row["boxes"]), style=style)
    return out


def is_doubtful(row: dict[str, Any]) -> bool:
    """Whether a photo is unlike what the model knows, and not rejected."""
    return row.get("rejected") is False and row.get("outside", False)


def mark_footnote(rows: Sequence[dict[str, Any]], model: str) -> str:
    """The meaning of MARK, for a table that has it; else empty."""
    if not any(map(is_doubtful, rows)):
        return ""
    return f"{MARK.strip()} unlike what {model} knows: that it is not rejected says little"


def largest_box(boxes: Sequence[Sequence[int]]) -> str:
    """The number of boxes, and the corners of the largest."""
    if not boxes:
        return ""
    x1, y1, x2, y2 = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return f"{len(boxes)}: {x1},{y1},{x2},{y2}"


def summary(rows: Sequence[dict[str, Any]], inspector: Inspector, as_list: bool) -> str:
    """How many photos are rejected, and by which threshold; empty where none was inspected.
    as_list: they were judged as one list."""
    rejected = [row["rejected"] for row in rows if "error" not in row]
    if not rejected:
        return ""
    limits = [judge.limit for judge in inspector.judges().values()]
    if as_list:
        rule = "judged as one list"
    elif inspector.grouped:
        rule = "a threshold for each folder"
    elif limits[0] < float("inf"):
        rule = f"threshold {plain(limits[0], score_digits(rows, inspector))}"
    else:
        rule = "no threshold"
    result = f"{rejected.count(True)} of {len(rejected)} rejected"
    if None in rejected:
        result += f", {rejected.count(None)} without a verdict"
    result += f"; {rule}"
    if inspector.learned:
        result += f", learned from {counted(inspector.learned, 'good photo')}"
    return result
