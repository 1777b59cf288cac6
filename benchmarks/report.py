"""Write the rows of benchmarks into docs/benchmarks.md, and draw cost against size.

    python benchmarks/report.py [--results docs/bench/rows.jsonl] [--page docs/benchmarks.md]

What stands in the page between the two marks is replaced: a table for each script, and pictures
beside the rows' file, one for each of AXES and one of cores, where rows differ by that alone.
"""

import argparse
import ast
import math
import os
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from known_gaps import why
from rows import AXES, HERE, LESS, Row, number, stored

from patchword.atomic_write import replacing, write

RESULTS = HERE.parent / "docs" / "bench" / "rows.jsonl"
PAGE = HERE.parent / "docs" / "benchmarks.md"
START, END = "<!-- rows: written by make bench -->", "<!-- end of rows -->"
CORES = "cores"
COLUMNS = ("", "peer", "patchword", "ratio", "wanted", "agreement")
Lines = dict[str, dict[int, float]]  # value by size, of each who
SMALL = 3.1  # inches of a picture's side for each curve


def tables(rows: Iterable[Row]) -> str:
    """Rows in Markdown: the sets of versions, then a section for each script, and in it a table for
    each processor, set of versions and day."""
    rows = list(rows)
    sets = list(dict.fromkeys(row.versions for row in rows))
    scripts: dict[str, dict[tuple[str, ...], list[Row]]] = {}
    for row in rows:
        threads = f"{row.threads} thread{'s' * (row.threads > 1)}"
        versions = f"versions {sets.index(row.versions) + 1}"
        origin = (row.processor, threads, versions, f"patchword {row.code}", row.date)
        scripts.setdefault(row.script, {}).setdefault(origin, []).append(row)
    text = "".join(f"\nVersions {number}: {each}.\n" for number, each in enumerate(sets, start=1))
    for script, parts in sorted(scripts.items()):
        text += f"\n### {about(script)}\n"
        for origin, some in parts.items():
            text += f"\n{'; '.join(origin)}.\n\n"
            text += line(*COLUMNS) + line(*["---"] * len(COLUMNS))
            text += "".join(line(*cells(row)) for row in some)
            text += reasons(some)
    return text


def reasons(rows: Iterable[Row]) -> str:
    """Lines below a table: why rows missed their goals, each reason once."""
    by_reason: dict[str, list[Row]] = {}
    for row in rows:
        if row.missed:
            by_reason.setdefault(why(row), []).append(row)
    text = ""
    for reason, missed in by_reason.items():
        more = f" and {len(missed) - 1} more" if missed[1:] else ""
        text += f"\nMissed beside {missed[0].peer} ({missed[0].title}{more}): {reason}.\n"
    return text


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def cells(row: Row) -> tuple[str, ...]:
    sign = "at most" if row.unit in LESS else "at least"
    wanted = f"{sign} {row.limit:.3g}: {'**missed**' if row.missed else 'met'}" if row.limit else ""
    return (
        f"{row.title}, {row.unit}",
        f"{row.peer} {number(row.peer_value)}",
        f"{row.ours} {number(row.our_value)}",
        f"{row.ratio:.2f}",
        wanted,
        row.agreement,
    )


def about(script: str) -> str:
    """A section's title: the first sentence of the script's description, and its name."""
    path = HERE / script
    document = ast.get_docstring(ast.parse(path.read_text())) if path.is_file() else ""
    words = " ".join((document or "").split("\n\n")[0].split()).rstrip(".")
    return f"`{script}`" + f": {words}" * bool(words)


def curves(rows: Iterable[Row]) -> dict[str, dict[str, Lines]]:
    """By axis, and by what with its unit: lines of rows that differ by that alone, of two sizes or
    more. Of several engines of patchword the best one at each size is drawn."""
    rows = list(rows)
    several = len({row.processor for row in rows}) > 1
    found: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for row in rows:
        places = [(CORES, row.title, row.threads)]
        places += [(row.axis, f"{row.what}, {row.threads} threads", row.at)] if row.axis else []
        best = min if row.unit in LESS else max
        for axis, what, at in places:
            lines = found[axis][f"{what}{f', {row.processor}' * several}, {row.unit}"]
            for who, value in ((row.peer, row.peer_value), ("patchword", row.our_value)):
                lines[who][at] = best(value, lines[who].get(at, value))
    kept: dict[str, dict[str, Lines]] = {}
    for axis, whats in found.items():
        for what, lines in whats.items():
            some = {who: points for who, points in lines.items() if len(points) > 1}
            if "patchword" in some:
                kept.setdefault(axis, {})[what] = some
    return kept


def draw(axis: str, whats: Mapping[str, Lines], path: Path) -> None:
    """A picture with a plot for each `what`, both scales logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """0.9, and not 9e-01."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:,g}" if super().__call__(x, pos) else ""

    across = min(3, len(whats))
    down = math.ceil(len(whats) / across)
    size = (SMALL * 1.4 * across, SMALL * down)
    figure, axes = pyplot.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    for place in axes.flat[len(whats) :]:
        place.set_visible(False)
    peers = sorted({who for lines in whats.values() for who in lines} - {"patchword"})
    colours = {who: f"C{number}" for number, who in enumerate(("patchword", *peers))}
    for place, (what, lines) in zip(axes.flat, whats.items(), strict=False):
        name, _, unit = what.rpartition(", ")
        for who, points in sorted(lines.items()):
            style = {"color": colours[who], "label": who, "markersize": 4}
            style |= {"marker": "o"} if who == "patchword" else {"marker": "x", "linestyle": "--"}
            place.plot(*zip(*sorted(points.items()), strict=True), **style)
        place.set_xscale("log", base=10 if axis in ("texts", "vectors") else 2)
        place.set(yscale="log", xlabel=AXES.get(axis, axis), ylabel=unit)
        place.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        place.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        place.yaxis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))
        place.set_title(textwrap.fill(name, 55), fontsize=9)
        place.legend(fontsize=6)
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")
    pyplot.close(figure)


def report(results: Path, page: Path) -> None:
    """Raises ValueError for a page without the two marks."""
    rows = stored(results)
    before, mark, rest = page.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"{page} does not hold {START} and then {END}")
    pictures = ""
    for axis, whats in curves(rows).items():
        path = results.parent / f"{axis}.png"
        draw(axis, whats, path)
        pictures += f"\n![Cost against {axis}]({os.path.relpath(path, page.parent)})\n"
    missed = sum(row.missed for row in rows)
    count = f"\n{len(rows)} rows; {missed} of them miss their goal.\n" if rows else ""
    write(page, f"{before}{START}\n{count}{tables(rows)}{pictures}\n{END}{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    report(given.results, given.page)
