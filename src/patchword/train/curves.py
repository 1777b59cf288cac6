"""A run as a picture: loss, learning rate, speed and evaluations over steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchword.atomic_write import replacing
from patchword.show.text_drawing import CJK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.float64]

WIDTH, DPI = 12.0, 100  # inches, and pixels of one: 1200 pixels wide
TALL, LOW = 3.2, 2.1  # height of the panel of the loss and of the others, inches
POINTS = 1000  # bins of a longer curve
DOTS = 40  # points up to which each is marked
ROUND = (1, 2, 2.5, 5, 10)  # ticks are of these, times a power of ten
INK, FAINT, GRID = "#1a1a20", "#70707a", "#e2e2e8"
RAW, SMOOTH = "#b9cdea", "#406ebe"
# Okabe & Ito 2008: distinguishable with any colour vision; on white, without yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STEPS = (
    ("loss", "loss"),
    ("learning_rate", "learning rate"),
    ("samples_per_s", "speed (samples/s)"),
)
NOT_DRAWN = ("forgetting/alpha",)  # no quality


@dataclass
class Series:
    """One number over steps."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)  # NaN where there was no number

    def arrays(self) -> tuple[Values, Values]:
        """Steps and values."""
        return np.array(self.steps, np.float64), np.array(self.values, np.float64)


def curves(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path | None:
    """Draw the rows of a metrics.jsonl as a PNG, 1200 pixels wide; None without a row to draw.

    rows: each with "step", and any of "loss", "learning_rate", "samples_per_s", "eval/...",
    "forgetting/..."
    """
    series = collect(rows)
    if not series:
        return None
    from matplotlib import rc_context

    with rc_context({"font.family": families(), "text.parse_math": False}):
        figure = draw(series)
        with warnings.catch_warnings(), replacing(path) as part:
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # in no font here
            figure.savefig(part, format="png", dpi=DPI)
    return path


def draw(series: Mapping[str, Series]) -> Figure:
    """Panels under each other, all over the same steps."""
    from matplotlib.figure import Figure

    plain = [(title, series[key]) for key, title in STEPS if key in series]
    groups = evaluations(series)
    heights = [TALL if title == "loss" else LOW for title, _ in plain] + [LOW] * len(groups)
    size = (WIDTH, sum(heights) + 0.3)
    figure = Figure(size, DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, w_pad=0.12)  # type: ignore[union-attr,call-arg]
    rows = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    axes = rows.ravel().tolist()
    for ax, (title, one) in zip(axes, plain, strict=False):
        each_step(ax, title, *one.arrays())
    for ax, (title, lines) in zip(axes[len(plain) :], groups, strict=True):
        evaluated(ax, title, lines)
    last = max(each.steps[-1] for each in series.values())
    axes[0].set_xlim(0, max(last, 1) * 1.01)
    axes[-1].set_xlabel("step", color=INK)
    return figure


def collect(rows: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """The series to draw by name, in the order of their first values."""
    known = {key for key, _ in STEPS}
    out: dict[str, Series] = {}
    for row in rows:
        for key, value in row.items():
            drawn = key in known or key.startswith(("eval/", "forgetting/"))
            if not drawn or key in NOT_DRAWN:
                continue
            one = out.setdefault(key, Series())
            one.steps.append(row["step"])
            one.values.append(math.nan if value is None else value)
    return out


def evaluations(series: Mapping[str, Series]) -> list[tuple[str, list[tuple[str, Series]]]]:
    """Panels of evaluations: a title, and the name and numbers of each line."""
    groups: dict[str, list[tuple[str, Series]]] = {}
    for key, one in series.items():
        if key.startswith("eval/"):
            title, _, number = key.removeprefix("eval/").rpartition(" ")
        elif key.startswith("forgetting/"):
            title, number = "forgetting", key.removeprefix("forgetting/")
        else:
            continue
        title = title if len(title) <= 80 else f"{title[:79]}…"
        groups.setdefault(f"{title} (%)", []).append((words(number), one))
    return list(groups.items())


def words(number: str) -> str:
    """The name of a number as a legend says it: "image_retrieval_recall@1" -> "image recall@1"."""
    return number.replace("_retrieval", "").replace("_", " ")


def each_step(ax: Axes, title: str, steps: Values, values: Values) -> None:
    """A panel of a number that every step has and, of a noisy one, of its moving median."""
    dress(ax, title)
    width = max(5, len(values) // 25)
    smooth = len(values) >= 3 * width and title != "learning rate"
    x, y = thinned(steps, values)
    label = "each step" if smooth else f"at the end {values[-1]:.4g}"
    marker = "o" if len(values) <= DOTS else None
    ax.plot(x, y, color=RAW if smooth else SMOOTH, marker=marker, markersize=3, label=label)
    if smooth:
        at, median = moving_median(values, width)
        name = f"median of {width:,},\nat the end {median[-1]:.4g}"
        ax.plot(steps[at], median, color=SMOOTH, linewidth=1.8, label=name)
        ax.set_ylim(*limits(values, median))
    if title != "loss":
        ax.set_ylim(bottom=0)
    legend(ax)


def evaluated(ax: Axes, title: str, lines: Sequence[tuple[str, Series]]) -> None:
    """A panel of shares, 0 to 1, as percent."""
    dress(ax, title)
    for number, (name, one) in enumerate(lines):
        steps, values = one.arrays()
        marker = "o" if len(steps) <= DOTS else None
        style = "-" if number < len(COLOURS) else "--"
        colour = COLOURS[number % len(COLOURS)]
        label = f"{name} {100 * values[-1]:.1f}"
        ax.plot(
            steps, 100 * values, style, color=colour, marker=marker, markersize=4, label=label,
            zorder=3 - number / 100,  # of lines that coincide the first is seen
        )  # fmt: skip
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -2), min(high, 102))
    legend(ax)


def dress(ax: Axes, title: str) -> None:
    """Set the style of a panel."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    ax.grid(color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GRID)
    ax.tick_params(colors=FAINT, length=0, labelbottom=True)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=ROUND))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def legend(ax: Axes) -> None:
    """At the right of the panel, where it covers nothing."""
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=INK, fontsize=9
    )


def moving_median(values: Values, width: int) -> tuple[NDArray[np.int64], Values]:
    """Places in `values`, at most `POINTS`, and the median of the `width` values around each, of
    fewer at the ends; NaN is left out. A single outlier does not move it, as it would a mean."""
    at = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS)).round().astype(int))
    medians = np.full(len(at), np.nan)
    for number, place in enumerate(at.tolist()):
        first = place - width // 2
        around = values[max(first, 0) : first + width]
        known = around[np.isfinite(around)]
        if known.size:
            medians[number] = np.median(known)
    return at, medians


def thinned(steps: Values, values: Values) -> tuple[Values, Values]:
    """The smallest and the largest value of each of `POINTS` bins, of a curve of more points than
    these are."""
    if len(values) <= 2 * POINTS:
        return steps, values
    edges = np.linspace(0, len(values), POINTS + 1).astype(int)[:-1]
    low, high = np.fmin.reduceat(values, edges), np.fmax.reduceat(values, edges)
    return np.repeat(steps[edges], 2), np.stack([low, high], axis=1).ravel()


def limits(values: Values, median: Values) -> tuple[float, float]:
    """Bottom and top that show the median whole, and all values but one in a hundred."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low = min(float(np.quantile(known, 0.005)), float(np.nanmin(median)))
    high = max(float(np.quantile(known, 0.995)), float(np.nanmax(median)))
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def families() -> list[str]:
    """DejaVu Sans, and for characters that it lacks those of `CJK` that the system has."""
    from matplotlib.font_manager import fontManager

    present = {entry.name for entry in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in CJK if name in present)]
