"""A page about photos beside good ones: the worst first, scores, and what a verdict means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from patchword.errors import counted
from patchword.inspect.inspector import Inspector, on_one_scale
from patchword.inspect.result import Inspection, in_words
from patchword.scope import UNLIKE, current
from patchword.show import html_page, plots
from patchword.show.colours import MAP, shade
from patchword.show.plain_number import plain

SHOWN = 60  # photos with their maps
BINS = 40  # of scores
WIDTH, HEIGHT, FOOT = 440, 110, 22  # of a histogram and of what stands under it
STOPS = 9  # colours of the scale


class Report:
    """Collects what is said of photos, and then writes the page; of all but the worst no picture is
    kept."""

    def __init__(self, inspector: Inspector, false_discoveries: float | None = None) -> None:
        """false_discoveries: by which photos were judged as a list; None: each by itself."""
        self.inspector, self.false_discoveries = inspector, false_discoveries
        self.scores: list[tuple[float, bool | None]] = []
        self._worst: list[tuple[Inspection, str]] = []
        self._limits: set[float] = set()

    def add(self, found: Inspection, name: str) -> None:
        """One photo more, under that name."""
        self.scores.append((found.score, found.rejected))
        if math.isfinite(found.limit):
            self._limits.add(found.limit)
        self._worst.append((found, name))
        self._worst.sort(key=lambda pair: -pair[0].score)
        del self._worst[SHOWN:]

    def page(self, failed: Sequence[str], said: Sequence[str]) -> str:
        """A whole HTML document. failed: photos that could not be opened, with the reasons; said:
        remarks on the run."""
        said = [*said, *(f"Beware: {each}." for each in current().remarks())]
        rejected = sum(bad is True for _, bad in self.scores)
        inspector = self.inspector
        intro = (
            f"{rejected} of {len(self.scores)} photos rejected by {inspector.method.name}, model "
            f"{inspector.model.name}"
        )
        good = counted(inspector.learned, "good photo")
        learned = f", after learning from {good}" * (inspector.learned > 0)
        meant = inspector.guarantee(self.false_discoveries, len(self.scores))
        sections = [
            html_page.section("What the verdict means", " ".join(meant), []),
            *([html_page.section("Remarks", " ".join(said), [])] if said else []),
            html_page.section("Scores", self._explained(), [self._histograms()]),
            self._photos(),
        ]
        if failed:
            sections.append(html_page.section("Not inspected", "; ".join(failed), []))
        return html_page.page("Inspection", f"{intro}{learned}.", sections)

    def _explained(self) -> str:
        if not self._limits:
            none = (
                "There is no threshold." if self.false_discoveries is None else "None is rejected."
            )
            return f"Large scores are bad. {none}"
        return "Large scores are bad; what is right of the dashed line is rejected."

    def _photos(self) -> str:
        words = "The worst first. "
        if len(self.scores) > SHOWN:
            words += f"These are the {SHOWN} worst of {len(self.scores)}. "
        found = on_one_scale([each for each, _ in self._worst])
        if any(each.boxes for each in found):
            words += "Frames say roughly where. "
        pairs = zip(found, self._worst, strict=True)
        bodies = [html_page.cards([card(each, name) for each, (_, name) in pairs])]
        scales = {each.scale for each in found if each.scale}
        if len(scales) == 1:
            words += (
                "All maps share one logarithmic scale, whose colours begin where those of good "
                "photos end."
            )
            bodies.insert(0, legend(*scales.pop()))
        elif scales:
            words += "The colours of the maps begin where those of good photos of the group end."
        elif found:
            words += "Each map has its own scale: no good photos tell a common one."
        return html_page.section("Photos", words, bodies)

    def _histograms(self) -> str:
        """Scores of good photos and of those inspected, on one axis."""
        good = list(self.inspector.calibration.scores)
        kind = self.inspector.calibration.kind
        every = [*good, *(score for score, _ in self.scores), *self._limits]
        low, high = min(every, default=0.0), max(every, default=1.0)
        span = max(high - low, 1e-12)
        charts = [
            _chart(
                f"{counted(len(good), 'good photo')}, {kind}", [(s, None) for s in good], low, span
            )
        ]
        charts += [
            _chart(f"{counted(len(self.scores), 'photo')} inspected", self.scores, low, span)
        ]
        limits = [
            {
                "x": (x := (limit - low) / span * WIDTH),
                "words": f"threshold {plain(limit)}",
                "side": "start" if x < WIDTH / 2 else "end",
                "label": x + (5 if x < WIDTH / 2 else -5),
            }
            for limit in sorted(self._limits)
        ]
        return html_page.render(
            "inspect_histogram", charts=charts[not good :], limits=limits, low=plain(low),
            high=plain(high), width=WIDTH, height=HEIGHT, foot=FOOT,
        )  # fmt: skip


def legend(low: float, high: float) -> str:
    """The colours of the maps, from where they begin."""
    ratio = high / low
    colours = [
        "rgb({},{},{})".format(*shade(level, (0, 1), MAP)[0])
        for level in np.linspace(plots.CLEAR, 1, STOPS).tolist()
    ]
    edge, middle = (low * ratio**level for level in (plots.CLEAR, (1 + plots.CLEAR) / 2))
    ends = {"low": plain(edge), "middle": plain(middle), "high": plain(high)}
    return html_page.render("inspect_scale", colours=colours, **ends)


def card(found: Inspection, name: str) -> html_page.Card:
    """A photo under its map."""
    note = f"score {plain(found.score)}"
    if found.p_value is not None:
        note += f", p {found.p_value:.3g}"
    if found.boxes:
        note += f", {counted(len(found.boxes), 'place')}"
    note += f" · {UNLIKE}" * found.outside
    marks: dict[bool | None, Literal["", "right", "wrong"]] = {True: "wrong", False: "right"}
    mark = "" if found.outside and not found.rejected else marks.get(found.rejected, "")
    title = f"{name}: {in_words(found.rejected, found.outside)}"
    return html_page.Card(found.overlay(html_page.SIDE), title, note, verdict=mark)


def _chart(
    name: str, scores: Sequence[tuple[float, bool | None]], low: float, span: float
) -> dict[str, Any]:
    """A histogram; what is rejected is stacked on what is not."""
    counts = np.zeros((2, BINS), int)
    for score, bad in scores:
        counts[int(bad is True), min(int((score - low) / span * BINS), BINS - 1)] += 1
    most = int(counts.sum(axis=0).max(initial=1))
    bars, side = [], WIDTH / BINS
    for place in range(BINS):
        start = low + span * place / BINS
        words = f"{plain(start)} to {plain(start + span / BINS)}"
        foot = 0.0
        for row, colour in enumerate(("bar", "wrong")):
            height = counts[row, place] / most * (HEIGHT - 16)
            if height:
                bars.append(
                    {
                        "x": place * side + 0.5,
                        "y": HEIGHT - foot - height,
                        "width": side - 1,
                        "height": height,
                        "colour": colour,
                        "words": f"{words}: {counts[row, place]}",
                    }
                )
            foot += height
    return {"name": f"{name} (the highest bar: {most})", "bars": bars}
