"""The HTML report of an inspection: what a verdict means, scores, and the worst photos."""

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
from patchword.show.plain_number import DIGITS, digits_beside, plain

SHOWN = 60  # photos that are shown with their maps
BINS = 40  # of a histogram
WIDTH, HEIGHT, FOOT = 440, 110, 22  # of a histogram and of its labels, pixels
STOPS = 9  # colours of the legend


class Report:
    """Collects results and then writes the page. Only the worst photos are kept in memory."""

    def __init__(self, inspector: Inspector, false_discoveries: float | None = None) -> None:
        """false_discoveries: the rate at which photos were judged as one list; None: they were
        judged one by one."""
        self.inspector, self.false_discoveries = inspector, false_discoveries
        self.scores: list[tuple[float, bool | None]] = []
        self._worst: list[tuple[Inspection, str]] = []
        self._judged: dict[float, list[float]] = {}  # by the limit that they are compared with

    def add(self, inspection: Inspection, name: str) -> None:
        """Add the result of one photo, shown under that name."""
        self.scores.append((inspection.score, inspection.rejected))
        if math.isfinite(inspection.limit):
            self._judged.setdefault(inspection.limit, []).append(inspection.score)
        self._worst.append((inspection, name))
        self._worst.sort(key=lambda pair: -pair[0].score)
        del self._worst[SHOWN:]

    def page(self, failed: Sequence[str], remarks: Sequence[str]) -> str:
        """The HTML document. failed: photos that could not be opened, with the reasons; remarks: on
        the whole run."""
        remarks = [*remarks, *(f"Beware: {remark}." for remark in current().remarks())]
        rejected = sum(bad is True for _, bad in self.scores)
        inspector = self.inspector
        intro = (
            f"{rejected} of {len(self.scores)} photos rejected by {inspector.method.name}, model "
            f"{inspector.model.name}"
        )
        if inspector.learned:
            intro += f", after learning from {counted(inspector.learned, 'good photo')}"
        guarantee = inspector.guarantee(self.false_discoveries, len(self.scores))
        sections = [html_page.section("What the verdict means", " ".join(guarantee), [])]
        if remarks:
            sections.append(html_page.section("Remarks", " ".join(remarks), []))
        sections.append(html_page.section("Scores", self._explanation(), [self._histograms()]))
        sections.append(self._photos())
        if failed:
            sections.append(html_page.section("Not inspected", "; ".join(failed), []))
        return html_page.page("Inspection", f"{intro}.", sections)

    @property
    def _digits(self) -> int:
        """The significant digits of scores and thresholds."""
        needed = (digits_beside(scores, limit) for limit, scores in self._judged.items())
        return max(needed, default=DIGITS)

    def _explanation(self) -> str:
        if self._judged:
            return "Large scores are bad; what is right of the dashed line is rejected."
        if self.false_discoveries is None:
            return "Large scores are bad. There is no threshold."
        return "Large scores are bad. None is rejected."

    def _photos(self) -> str:
        words = "The worst first. "
        if len(self.scores) > SHOWN:
            words += f"These are the {SHOWN} worst of {len(self.scores)}. "
        worst = on_one_scale([each for each, _ in self._worst])
        names = [name for _, name in self._worst]
        if any(each.boxes for each in worst):
            words += "Frames say roughly where. "
        cards = [card(each, name, self._digits) for each, name in zip(worst, names, strict=True)]
        bodies = [html_page.cards(cards)]
        scales = {each.scale for each in worst if each.scale}
        if len(scales) == 1:
            words += (
                "All maps share one logarithmic scale, whose colours begin where those of good "
                "photos end."
            )
            bodies.insert(0, legend(*scales.pop()))
        elif scales:
            words += "The colours of the maps begin where those of good photos of the group end."
        elif worst:
            words += "Each map has its own scale: no good photos tell a common one."
        return html_page.section("Photos", words, bodies)

    def _histograms(self) -> str:
        """Scores of good photos and of the inspected ones, on one axis."""
        calibration = self.inspector.calibration
        values = [*calibration.scores, *(score for score, _ in self.scores), *self._judged]
        low, high = min(values, default=0.0), max(values, default=1.0)
        span = max(high - low, 1e-12)
        charts = []
        if calibration.scores:
            good = counted(len(calibration.scores), "good photo")
            scores = [(score, None) for score in calibration.scores]
            charts.append(_chart(f"{good}, {calibration.kind}", scores, low, span))
        inspected = counted(len(self.scores), "photo")
        charts.append(_chart(f"{inspected} inspected", self.scores, low, span))
        limits = []
        for limit in sorted(self._judged):
            x = (limit - low) / span * WIDTH
            left = x < WIDTH / 2
            limits.append(
                {
                    "x": x,
                    "words": f"threshold {plain(limit, self._digits)}",
                    "side": "start" if left else "end",
                    "label": x + 5 if left else x - 5,
                }
            )
        return html_page.render(
            "inspect_histogram", charts=charts, limits=limits, low=plain(low), high=plain(high),
            width=WIDTH, height=HEIGHT, foot=FOOT,
        )  # fmt: skip


def legend(low: float, high: float) -> str:
    """The legend of a colour scale (low, high), from the first visible colour."""
    ratio = high / low
    colours = [
        "rgb({},{},{})".format(*shade(level, (0, 1), MAP)[0])
        for level in np.linspace(plots.CLEAR, 1, STOPS).tolist()
    ]
    edge, middle = low * ratio**plots.CLEAR, low * ratio ** ((1 + plots.CLEAR) / 2)
    ends = {"low": plain(edge), "middle": plain(middle), "high": plain(high)}
    return html_page.render("inspect_scale", colours=colours, **ends)


def card(inspection: Inspection, name: str, digits: int = DIGITS) -> html_page.Card:
    """The card of a photo, drawn under its map. digits: of its score."""
    note = f"score {plain(inspection.score, digits)}"
    if inspection.p_value is not None:
        note += f", p {inspection.p_value:.3g}"
    if inspection.boxes:
        note += f", {counted(len(inspection.boxes), 'place')}"
    if inspection.outside:
        note += f" · {UNLIKE}"
    mark: Literal["", "right", "wrong"] = ""
    if inspection.rejected:
        mark = "wrong"
    elif inspection.rejected is False and not inspection.outside:
        mark = "right"
    title = f"{name}: {in_words(inspection.rejected, inspection.outside)}"
    return html_page.Card(inspection.overlay(html_page.SIDE), title, note, verdict=mark)


def _chart(
    name: str, scores: Sequence[tuple[float, bool | None]], low: float, span: float
) -> dict[str, Any]:
    """A histogram, in which rejected photos are stacked on the others."""
    counts = np.zeros((2, BINS), int)  # not rejected, rejected
    for score, rejected in scores:
        place = min(int((score - low) / span * BINS), BINS - 1)
        counts[int(rejected is True), place] += 1
    most = int(counts.sum(axis=0).max(initial=1))
    bars, width = [], WIDTH / BINS
    for place in range(BINS):
        start = low + span * place / BINS
        words = f"{plain(start)} to {plain(start + span / BINS)}"
        bottom = 0.0
        for count, colour in zip(counts[:, place], ("bar", "wrong"), strict=True):
            height = count / most * (HEIGHT - 16)
            if height:
                bars.append(
                    {
                        "x": place * width + 0.5,
                        "y": HEIGHT - bottom - height,
                        "width": width - 1,
                        "height": height,
                        "colour": colour,
                        "words": f"{words}: {count}",
                    }
                )
            bottom += height
    return {"name": f"{name} (the highest bar: {most})", "bars": bars}
