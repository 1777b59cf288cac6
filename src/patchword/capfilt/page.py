"""The report on a run: counts of captions, in a terminal and as a page."""

from __future__ import annotations

import hashlib
import math
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchword import images
from patchword.data.table import resolved
from patchword.errors import ImageError, counted
from patchword.show import html_page
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from rich.table import Table

BINS = 20  # bins of scores from 0 to 1
SHOWN = 12  # examples of each kind on the page
LISTED = 20  # broken images on the page
SOURCES = {"web": "given", "synthetic": "sampled"}  # and their names in the report
NUMBERS = ("captions", "kept", "dropped", "share kept")
WIDTH, HEIGHT, FOOT = 460, 180, 22  # pixels, of a histogram and of the labels under it


@dataclass(frozen=True, order=True)
class Example:
    """A scored text, ordered by a hash: the first ones are a random sample that is always the
    same."""

    order: bytes
    image: str = field(compare=False)
    text: str = field(compare=False)
    score: float = field(compare=False)


@dataclass
class Tally:
    """Counts over a dataset. A kind of text is (source, whether it is kept)."""

    scored: int = 0  # images
    left_out: int = 0  # images without a text that is kept
    unscored: int = 0  # texts whose score is NaN
    broken: list[tuple[str, str]] = field(default_factory=list)  # image and reason
    texts: Counter[tuple[str, bool]] = field(default_factory=Counter)
    bins: Counter[tuple[str, bool, int]] = field(default_factory=Counter)  # by kind and bin
    examples: dict[tuple[str, bool], list[Example]] = field(
        default_factory=lambda: defaultdict(list)
    )

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Tally:
        """The counts of images as `Store.images` gives them."""
        tally = cls()
        for row in rows:
            if "error" in row:
                tally.broken.append((row["image"], row["error"]))
                continue
            tally.scored += 1
            if not any(caption["kept"] for caption in row["captions"]):
                tally.left_out += 1
            for caption in row["captions"]:
                tally._add(row["image"], caption)
        return tally

    def _add(self, image: str, caption: Mapping[str, Any]) -> None:
        kind = caption["source"], caption["kept"]
        self.texts[kind] += 1
        score = caption["score"]
        if score is None or math.isnan(score):
            self.unscored += 1
            return
        self.bins[(*kind, min(int(score * BINS), BINS - 1))] += 1
        order = hashlib.blake2b(f"{image} {caption['text']}".encode(), digest_size=8).digest()
        insort(self.examples[kind], Example(order, image, caption["text"], score))
        del self.examples[kind][SHOWN:]

    @property
    def in_dataset(self) -> int:
        """Images with a text that is kept."""
        return self.scored - self.left_out

    def rows(self) -> list[tuple[str, int, int, int, str]]:
        """Rows of (source, number of texts, kept, dropped, share that is kept: a dash of none)."""
        counts = {
            name: (self.texts[source, True], self.texts[source, False])
            for source, name in SOURCES.items()
        }
        all_dropped = sum(dropped for _, dropped in counts.values())
        counts["all"] = (self.texts.total() - all_dropped, all_dropped)
        return [
            (name, total, kept, dropped, f"{kept / total:.1%}" if total else "-")
            for name, (kept, dropped) in counts.items()
            for total in [kept + dropped]
        ]

    def summary(self) -> str:
        """The counts of images, in a sentence."""
        text = f"{self.in_dataset} of {self.scored} images have a text that is kept"
        if self.broken:
            text += f"; {len(self.broken)} more could not be opened"
        if self.unscored:
            captions = counted(self.unscored, "caption was", "captions were")
            text += f"; {captions} dropped without a score: the filter's outputs are no numbers"
        return text


def tally_table(tally: Tally) -> Table:
    """The counts as a table in a terminal, a row for each source."""
    out = table("", *NUMBERS, right=NUMBERS)
    for name, *counts in tally.rows():
        out.add_row(name, *map(str, counts))
    return out


def report(tally: Tally, plan: Mapping[str, Any], folder: Path) -> str:
    """The HTML report on a run, with pictures from its folder."""
    writer, scorer, threshold = plan["captioner"], plan["filter"], plan["threshold"]
    captioner = f"{writer['name']} ({writer['fingerprint']})"
    same = writer["fingerprint"] == scorer["fingerprint"]
    filter_ = "itself" if same else f"{scorer['name']} ({scorer['fingerprint']})"
    prompt = f", prompt “{plan['prompt']}”" if plan["prompt"] else ""
    intro = (
        f"{tally.summary()}. Captions were sampled by {captioner} and scored by {filter_}: those "
        f"with a match probability of {threshold:g} or more are kept. Sampled for each image: "
        f"{plan['count']}, top p {plan['top_p']:g}, {plan['min_length']} to "
        f"{plan['max_length']} tokens{prompt}, seed {plan['seed']}."
    )
    sections = [_counts(tally), _histograms(tally, threshold)]
    sources = {source for source, _ in tally.texts}
    for source, name in SOURCES.items():
        if source in sources:
            sections.append(_examples(tally, source, name, folder))
    if tally.broken:
        sections.append(_broken(tally))
    return html_page.page("What CapFilt kept", intro, sections)


def _counts(tally: Tally) -> str:
    body = html_page.render("capfilt_counts", names=NUMBERS, rows=tally.rows())
    images_have = counted(tally.left_out, "image has", "images have")
    verb = "is" if tally.left_out == 1 else "are"
    intro = f"{images_have} no text that is kept, and {verb} left out."
    return html_page.section("Captions", intro, [body])


def _histograms(tally: Tally, threshold: float) -> str:
    intro = (
        "How many captions have which probability, of the filter's matching head, to belong to "
        "their image: dropped ones at the left of the line, kept ones at its right."
    )
    sources = [name for name in SOURCES if tally.texts[name, True] + tally.texts[name, False]]
    if not sources:
        return html_page.section("Scores", "There are no captions.", [])
    charts = [_histogram(tally, source, SOURCES[source]) for source in sources]
    sizes = {"width": WIDTH, "height": HEIGHT, "foot": FOOT}
    body = html_page.render("capfilt_histograms", charts=charts, threshold=threshold, **sizes)
    return html_page.section("Scores", intro, [body])


def _histogram(tally: Tally, source: str, name: str) -> dict[str, Any]:
    """A histogram of scores, with dropped captions in one colour and kept ones in another."""
    bins = tally.bins
    most = max(bins[source, False, bin_] + bins[source, True, bin_] for bin_ in range(BINS))
    step, bars = WIDTH / BINS, []
    for bin_ in range(BINS):
        bottom = float(HEIGHT)
        for kept, colour in ((False, "wrong"), (True, "right")):
            count = bins[source, kept, bin_]
            if not count:
                continue
            height = max(count / most * (HEIGHT - 20), 1.5)
            bottom -= height
            scores = f"from {bin_ / BINS:.2f} to {(bin_ + 1) / BINS:.2f}"
            words = f"{count} {'kept' if kept else 'dropped'}, {scores}"
            box = {"x": bin_ * step + 1, "y": bottom, "width": step - 2, "height": height}
            bars.append({**box, "colour": colour, "words": words})
    return {"name": name, "bars": bars, "most": most}


def _examples(tally: Tally, source: str, name: str, folder: Path) -> str:
    """Random captions of a source: of the kept ones those with the highest scores first, of the
    dropped ones those with the lowest."""
    bodies = []
    for kept, title in ((True, "kept"), (False, "dropped")):
        examples = sorted(tally.examples[source, kept], key=lambda each: each.score, reverse=kept)
        cards = []
        for example in examples:
            card = _card(example, kept, folder)
            if card:
                cards.append(card)
        if cards:
            count = tally.texts[source, kept]
            bodies.append(html_page.cards(cards, f"{title}: {len(cards)} of {count}"))
    remark = "Chosen at random; the surest first." if bodies else "There are none."
    return html_page.section(f"{name.capitalize()} captions", remark, bodies)


def _card(example: Example, kept: bool, folder: Path) -> html_page.Card | None:
    """An example with its picture; None if the picture no longer exists."""
    try:
        photo = images.open(resolved(example.image, folder), at_least=html_page.SIDE // 2)
    except ImageError:
        return None
    bars = [("together", example.score)]
    name = Path(example.image).name
    return html_page.Card(photo, example.text, name, bars, "right" if kept else "wrong")


def _broken(tally: Tally) -> str:
    shown = tally.broken[:LISTED]
    more = len(tally.broken) - len(shown)
    body = html_page.render("capfilt_broken", broken=shown, more=more)
    return html_page.section(
        "Images that could not be opened", "They are not in the dataset.", [body]
    )
