"""Write the stored rows of benchmarks into docs/benchmarks.md, and plot cost against size.

    python benchmarks/report.py [--results docs/bench/rows.jsonl] [--page docs/benchmarks.md]

The part of the page between the marks START and END is replaced: a section with tables for each
script, and plots, stored beside the file of rows, one for each of AXES and one for cores, of rows
that differ only by that size.
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
from rows import AXES, HERE, LOWER_IS_BETTER, Row, number, read_rows

from patchword.atomic_write import replacing, write

RESULTS = HERE.parent / "docs" / "bench" / "rows.jsonl"
PAGE = HERE.parent / "docs" / "benchmarks.md"
START, END = "<!-- rows: written by make bench -->", "<!-- end of rows -->"
CORES = "cores"
COLUMNS = ("", "peer", "patchword", "ratio", "wanted", "agreement")
Curves = dict[str, dict[int, float]]  # for each library its values by size
PLOT_HEIGHT = 3.1  # inches


def tables(rows: Iterable[Row]) -> str:
    """Rows in Markdown: the sets of versions, then a section for each script, with a table for each
    processor, set of versions and day."""
    rows = list(rows)
    sets = list(dict.fromkeys(row.versions for row in rows))
    scripts: dict[str, dict[tuple[str, ...], list[Row]]] = {}
    for row in rows:
        threads = "1 thread" if row.threads == 1 else f"{row.threads} threads"
        versions = f"versions {sets.index(row.versions) + 1}"
        origin = (row.processor, threads, versions, f"patchword {row.code}", row.date)
        scripts.setdefault(row.script, {}).setdefault(origin, []).append(row)
    text = ""
    for index, libraries in enumerate(sets, start=1):
        text += f"\nVersions {index}: {libraries}.\n"
    for script, groups in sorted(scripts.items()):
        text += f"\n### {title(script)}\n"
        for origin, group in groups.items():
            text += f"\n{'; '.join(origin)}.\n\n"
            text += line(*COLUMNS) + line(*["---"] * len(COLUMNS))
            text += "".join(line(*cells(row)) for row in group)
            text += reasons(group)
    return text


def reasons(rows: Iterable[Row]) -> str:
    """Lines below a table that explain missed goals, each reason once."""
    by_reason: dict[str, list[Row]] = {}
    for row in rows:
        if row.missed:
            by_reason.setdefault(why(row), []).append(row)
    text = ""
    for reason, missed in by_reason.items():
        more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
        text += f"\nMissed beside {missed[0].peer} ({missed[0].title}{more}): {reason}.\n"
    return text


def line(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |\n"


def cells(row: Row) -> tuple[str, ...]:
    """The cells of a row, in the order of COLUMNS."""
    wanted = ""
    if row.limit:
        wanted = f"{row.goal}: {'**missed**' if row.missed else 'met'}"
    return (
        f"{row.title}, {row.unit}",
        f"{row.peer} {number(row.peer_value)}",
        f"{row.ours} {number(row.our_value)}",
        f"{row.ratio:.2f}",
        wanted,
        row.agreement,
    )


def title(script: str) -> str:
    """The title of a section: a script's name, and the first paragraph of its docstring."""
    path = HERE / script
    document = ast.get_docstring(ast.parse(path.read_text())) if path.is_file() else None
    if not document:
        return f"`{script}`"
    summary = " ".join(document.split("\n\n")[0].split()).rstrip(".")
    return f"`{script}`: {summary}"


def curves(rows: Iterable[Row]) -> dict[str, dict[str, Curves]]:
    """The curves to plot, by axis and by the title of the plot: rows that differ only by that size,
    if there are at least two sizes. Of several engines of patchword, the best at each size."""
    rows = list(rows)
    several_processors = len({row.processor for row in rows}) > 1
    all_plots: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for row in rows:
        points = [(CORES, row.title, row.threads)]
        if row.axis:
            points.append((row.axis, f"{row.what}, {row.threads} threads", row.at))
        best = min if row.unit in LOWER_IS_BETTER else max
        for axis, name, at in points:
            if several_processors:
                name += f", {row.processor}"
            libraries = all_plots[axis][f"{name}, {row.unit}"]
            for library, value in ((row.peer, row.peer_value), ("patchword", row.our_value)):
                libraries[library][at] = best(value, libraries[library].get(at, value))
    plots: dict[str, dict[str, Curves]] = {}
    for axis, by_name in all_plots.items():
        for name, libraries in by_name.items():
            drawable = {library: values for library, values in libraries.items() if len(values) > 1}
            if "patchword" in drawable:
                plots.setdefault(axis, {})[name] = drawable
    return plots


def draw(axis: str, plots: Mapping[str, Curves], path: Path) -> None:
    """Write a picture of these plots, with logarithmic scales."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """Writes 0.9, not 9e-01."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:,g}" if super().__call__(x, pos) else ""

    columns = min(3, len(plots))
    lines = math.ceil(len(plots) / columns)
    size = (PLOT_HEIGHT * 1.4 * columns, PLOT_HEIGHT * lines)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=size, squeeze=False, layout="constrained"
    )
    for unused in axes.flat[len(plots) :]:
        unused.set_visible(False)
    peers = sorted({library for curves in plots.values() for library in curves} - {"patchword"})
    colours = {library: f"C{index}" for index, library in enumerate(("patchword", *peers))}
    for plot, (name_and_unit, libraries) in zip(axes.flat, sorted(plots.items()), strict=False):
        name, _, unit = name_and_unit.rpartition(", ")
        for library, values in sorted(libraries.items()):
            sizes = sorted(values)
            style = {"marker": "o"} if library == "patchword" else {"marker": "x", "ls": "--"}
            style |= {"color": colours[library], "label": library, "markersize": 4}
            plot.plot(sizes, [values[size] for size in sizes], **style)
        plot.set_xscale("log", base=10 if axis in ("texts", "vectors") else 2)
        plot.set(yscale="log", xlabel=AXES.get(axis, axis), ylabel=unit)
        plot.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        plot.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        plot.yaxis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))
        plot.set_title(textwrap.fill(name, 55), fontsize=9)
        plot.legend(fontsize=6)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)


def report(results: Path, page: Path) -> None:
    """Write the rows of a file into a page. Raises ValueError for a page without the two marks."""
    rows = read_rows(results)
    before, mark, rest = page.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"{page} does not hold {START} and then {END}")
    pictures = ""
    for axis, plots in curves(rows).items():
        path = results.parent / f"{axis}.png"
        draw(axis, plots, path)
        pictures += f"\n![Cost against {axis}]({os.path.relpath(path, page.parent)})\n"
    missed = sum(row.missed for row in rows)
    count = f"\n{len(rows)} rows; {missed} of them miss their goal.\n" if rows else ""
    write(page, f"{before}{START}\n{count}{tables(rows)}{pictures}\n{END}{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    report(options.results, options.page)
