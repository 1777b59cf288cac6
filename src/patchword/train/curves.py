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

WIDTH, DPI = 12.0, 100  # inches, and pixels per inch: 1200 pixels wide
LOSS_HEIGHT, PANEL_HEIGHT = 3.2, 2.1  # of the panel of the loss and of the others, inches
POINTS = 1000  # bins of a longer curve
MARKED = 40  # each point of a shorter curve is marked
TICKS = (1, 2, 2.5, 5, 10)  # ticks are multiples of these, times a power of ten
INK, FAINT, GRID = "#1a1a20", "#70707a", "#e2e2e8"
RAW, SMOOTH = "#b9cdea", "#406ebe"
# Okabe & Ito 2008: distinguishable with any colour vision; on white, without yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STEPS = (
    ("loss", "loss"),
    ("learning_rate", "learning rate"),
    ("samples_per_s", "speed (samples/s)"),
)
NOT_DRAWN = ("forgetting/alpha",)  # it is not a quality


@dataclass
class Series:
    """One number over steps."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)  # NaN where the row had null

    def arrays(self) -> tuple[Values, Values]:
        """Steps and values."""
        return np.array(self.steps, np.float64), np.array(self.values, np.float64)


def curves(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path | None:
    """Draw the rows of a metrics.jsonl as a PNG, 1200 pixels wide. Returns None if there is nothing
    to draw.

    rows: each has "step", and any of "loss", "learning_rate", "samples_per_s", "eval/...",
    "forgetting/..."
    """
    series = collect(rows)
    if not series:
        return None
    from matplotlib import rc_context

    with rc_context({"font.family": font_families(), "text.parse_math": False}):
        figure = draw(series)
        with warnings.catch_warnings(), replacing(path) as part:
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            figure.savefig(part, format="png", dpi=DPI)
    return path


def draw(series: Mapping[str, Series]) -> Figure:
    """Panels below each other, with the same steps on the x axis."""
    from matplotlib.figure import Figure

    by_step = [(title, series[key]) for key, title in STEPS if key in series]
    groups = evaluations(series)
    heights = [PANEL_HEIGHT] * (len(by_step) + len(groups))
    if "loss" in series:
        heights[0] = LOSS_HEIGHT
    size = (WIDTH, sum(heights) + 0.3)
    figure = Figure(size, DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, w_pad=0.12)  # type: ignore[union-attr,call-arg]
    rows = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    axes = rows.ravel().tolist()
    for ax, (title, line) in zip(axes, by_step, strict=False):
        draw_steps(ax, title, *line.arrays())
    for ax, (title, lines) in zip(axes[len(by_step) :], groups, strict=True):
        draw_evaluations(ax, title, lines)
    last = max(line.steps[-1] for line in series.values())
    axes[0].set_xlim(0, max(last, 1) * 1.01)
    axes[-1].set_xlabel("step", color=INK)
    return figure


def collect(rows: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """The series to draw by name, in the order of their first values."""
    by_step = {key for key, _ in STEPS}
    series: dict[str, Series] = {}
    for row in rows:
        for key, value in row.items():
            drawn = key in by_step or key.startswith(("eval/", "forgetting/"))
            if not drawn or key in NOT_DRAWN:
                continue
            line = series.setdefault(key, Series())
            line.steps.append(row["step"])
            line.values.append(math.nan if value is None else value)
    return series


def evaluations(series: Mapping[str, Series]) -> list[tuple[str, list[tuple[str, Series]]]]:
    """The panels of evaluations: a title, and the name and series of each line."""
    groups: dict[str, list[tuple[str, Series]]] = {}
    for key, line in series.items():
        if key.startswith("eval/"):
            title, _, metric = key.removeprefix("eval/").rpartition(" ")
        elif key.startswith("forgetting/"):
            title, metric = "forgetting", key.removeprefix("forgetting/")
        else:
            continue
        if len(title) > 80:
            title = f"{title[:79]}…"
        groups.setdefault(f"{title} (%)", []).append((legend_name(metric), line))
    return list(groups.items())


def legend_name(metric: str) -> str:
    """The name of a metric in a legend: "image_retrieval_recall@1" -> "image recall@1"."""
    return metric.replace("_retrieval", "").replace("_", " ")


def draw_steps(ax: Axes, title: str, steps: Values, values: Values) -> None:
    """A panel of one number at every step; if it is noisy, with its moving median."""
    style_panel(ax, title)
    width = max(5, len(values) // 25)
    smooth = len(values) >= 3 * width and title != "learning rate"
    x, y = thinned(steps, values)
    label = "each step" if smooth else f"at the end {values[-1]:.4g}"
    marker = "o" if len(values) <= MARKED else None
    ax.plot(x, y, color=RAW if smooth else SMOOTH, marker=marker, markersize=3, label=label)
    if smooth:
        places, median = moving_median(values, width)
        name = f"median of {width:,},\nat the end {median[-1]:.4g}"
        ax.plot(steps[places], median, color=SMOOTH, linewidth=1.8, label=name)
        ax.set_ylim(*limits(values, median))
    if title != "loss":
        ax.set_ylim(bottom=0)
    legend(ax)


def draw_evaluations(ax: Axes, title: str, lines: Sequence[tuple[str, Series]]) -> None:
    """A panel of shares, 0 to 1, in percent."""
    style_panel(ax, title)
    for number, (name, line) in enumerate(lines):
        steps, values = line.arrays()
        marker = "o" if len(steps) <= MARKED else None
        style = "-" if number < len(COLOURS) else "--"
        colour = COLOURS[number % len(COLOURS)]
        label = f"{name} {100 * values[-1]:.1f}"
        ax.plot(
            steps, 100 * values, style, color=colour, marker=marker, markersize=4, label=label,
            zorder=3 - number / 100,  # the first of two equal lines is visible
        )  # fmt: skip
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -2), min(high, 102))
    legend(ax)


def style_panel(ax: Axes, title: str) -> None:
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
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=TICKS))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=TICKS))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def legend(ax: Axes) -> None:
    """Put a legend at the right of the panel, where it covers nothing."""
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=INK, fontsize=9
    )


def moving_median(values: Values, width: int) -> tuple[NDArray[np.int64], Values]:
    """At most `POINTS` places in `values`, and the median of the `width` values around each.
    Windows are cut off at the ends, and NaN is left out. Unlike a mean, a median is not moved by a
    single outlier."""
    places = np.unique(
        np.linspace(0, len(values) - 1, min(len(values), POINTS)).round().astype(int)
    )
    medians = np.full(len(places), np.nan)
    for number, place in enumerate(places.tolist()):
        first = place - width // 2
        window = values[max(first, 0) : first + width]
        finite = window[np.isfinite(window)]
        if finite.size:
            medians[number] = np.median(finite)
    return places, medians


def thinned(steps: Values, values: Values) -> tuple[Values, Values]:
    """A curve with fewer points: the smallest and the largest value of each of `POINTS` bins. A
    short curve is returned unchanged."""
    if len(values) <= 2 * POINTS:
        return steps, values
    edges = np.linspace(0, len(values), POINTS + 1).astype(int)[:-1]
    low, high = np.fmin.reduceat(values, edges), np.fmax.reduceat(values, edges)
    return np.repeat(steps[edges], 2), np.stack([low, high], axis=1).ravel()


def limits(values: Values, median: Values) -> tuple[float, float]:
    """Bottom and top of a panel that shows the whole median, and 99% of the values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low = min(float(np.quantile(finite, 0.005)), float(np.nanmin(median)))
    high = max(float(np.quantile(finite, 0.995)), float(np.nanmax(median)))
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def font_families() -> list[str]:
    """DejaVu Sans and, for the characters that it lacks, those fonts of `CJK` that are
    installed."""
    from matplotlib.font_manager import fontManager

    present = {entry.name for entry in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in CJK if name in present)]
