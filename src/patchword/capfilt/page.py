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

BINS = 20  # of scores, from 0 to 1
SHOWN = 12  # examples of each kind
NAMED = 20  # broken images that the page names
SOURCES = {"web": "given", "synthetic": "sampled"}
NUMBERS = ("captions", "kept", "dropped", "share kept")
WIDTH, HEIGHT, FOOT = 460, 180, 22  # of a histogram and of what stands under it


@dataclass(frozen=True, order=True)
class Example:
    """A scored text, ordered by a hash: the first ones are a random sample, the same every time."""

    order: bytes
    image: str = field(compare=False)
    text: str = field(compare=False)
    score: float = field(compare=False)


@dataclass
class Tally:
    """Counts over a dataset; kinds are (source, whether it is kept)."""

    scored: int = 0  # images
    left_out: int = 0  # images without a text that is kept
    unscored: int = 0  # texts for which the filter gave no number
    broken: list[tuple[str, str]] = field(default_factory=list)  # image and reason
    texts: Counter[tuple[str, bool]] = field(default_factory=Counter)
    bins: Counter[tuple[str, bool, int]] = field(default_factory=Counter)  # the last: of `BINS`
    examples: dict[tuple[str, bool], list[Example]] = field(
        default_factory=lambda: defaultdict(list)
    )

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Tally:
        """Of images as they are stored."""
        out = cls()
        for row in rows:
            if "error" in row:
                out.broken.append((row["image"], row["error"]))
                continue
            out.scored += 1
            out.left_out += not any(each["kept"] for each in row["captions"])
            for each in row["captions"]:
                out._add(row["image"], each)
        return out

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
        """(source, texts, kept, dropped, share of the kept)."""
        counts = {
            name: (self.texts[source, True], self.texts[source, False])
            for source, name in SOURCES.items()
        }
        lost = sum(each[1] for each in counts.values())
        counts["all"] = (self.texts.total() - lost, lost)
        return [
            (name, kept + dropped, kept, dropped, f"{kept / max(kept + dropped, 1):.1%}")
            for name, (kept, dropped) in counts.items()
        ]

    def summary(self) -> str:
        """The counts of images, in a sentence."""
        words = f"{self.in_dataset} of {self.scored} images have a text that is kept"
        if self.broken:
            words += f"; {len(self.broken)} more could not be opened"
        if self.unscored:
            none = counted(self.unscored, "caption was", "captions were")
            words += f"; {none} dropped without a score: the filter's outputs are no numbers"
        return words


def tally_table(found: Tally) -> Table:
    """A row per source."""
    out = table("", *NUMBERS, right=NUMBERS)
    for name, *counts in found.rows():
        out.add_row(name, *map(str, counts))
    return out


def report(found: Tally, plan: Mapping[str, Any], folder: Path) -> str:
    """The HTML report on a run, with pictures from its folder."""
    writer, scorer, threshold = plan["captioner"], plan["filter"], plan["threshold"]
    who = f"{writer['name']} ({writer['fingerprint']})"
    same = writer["fingerprint"] == scorer["fingerprint"]
    by = "itself" if same else f"{scorer['name']} ({scorer['fingerprint']})"
    prompt = f", prompt “{plan['prompt']}”" if plan["prompt"] else ""
    intro = (
        f"{found.summary()}. Captions were sampled by {who} and scored by {by}: those with a match "
        f"probability of {threshold:g} or more are kept. Sampled "
        f"for each image: {plan['count']}, top p {plan['top_p']:g}, {plan['min_length']} to "
        f"{plan['max_length']} tokens{prompt}, seed {plan['seed']}."
    )
    sections = [_counts(found), _histograms(found, threshold)]
    there = {source for source, _ in found.texts}
    sections += [_examples(found, s, name, folder) for s, name in SOURCES.items() if s in there]
    sections += [_broken(found)] if found.broken else []
    return html_page.page("What CapFilt kept", intro, sections)


def _counts(found: Tally) -> str:
    body = html_page.render("capfilt_counts", names=NUMBERS, rows=found.rows())
    lost = counted(found.left_out, "image has", "images have")
    words = f"{lost} no text that is kept, and {'is' if found.left_out == 1 else 'are'} left out."
    return html_page.section("Captions", words, [body])


def _histograms(found: Tally, threshold: float) -> str:
    words = (
        "How many captions have which probability, of the filter's matching head, to belong to "
        "their image: dropped ones at the left of the line, kept ones at its right."
    )
    some = [each for each in SOURCES if found.texts[each, True] + found.texts[each, False]]
    if not some:
        return html_page.section("Scores", "There are no captions.", [])
    charts = [_histogram(found, source, SOURCES[source]) for source in some]
    sizes = {"width": WIDTH, "height": HEIGHT, "foot": FOOT}
    body = html_page.render("capfilt_histograms", charts=charts, threshold=threshold, **sizes)
    return html_page.section("Scores", words, [body])


def _histogram(found: Tally, source: str, name: str) -> dict[str, Any]:
    """Counts by score, dropped captions in one colour and kept ones in another."""
    counts = {
        kept: [found.bins[source, kept, bin_] for bin_ in range(BINS)] for kept in (False, True)
    }
    most = max(map(sum, zip(*counts.values(), strict=True)))
    step, bars = WIDTH / BINS, []
    for bin_ in range(BINS):
        foot = float(HEIGHT)
        for kept, colour in ((False, "wrong"), (True, "right")):
            if not (count := counts[kept][bin_]):
                continue
            high = max(count / most * (HEIGHT - 20), 1.5)
            foot -= high
            ends = f"from {bin_ / BINS:.2f} to {(bin_ + 1) / BINS:.2f}"
            words = f"{count} {'kept' if kept else 'dropped'}, {ends}"
            place = {"x": bin_ * step + 1, "y": foot, "width": step - 2, "height": high}
            bars.append({**place, "colour": colour, "words": words})
    return {"name": name, "bars": bars, "most": most}


def _examples(found: Tally, source: str, name: str, folder: Path) -> str:
    """A sample of a source's captions that are kept and of those that are dropped, the highest and
    the lowest scores first."""
    bodies = []
    for kept, words in ((True, "kept"), (False, "dropped")):
        some = sorted(found.examples[source, kept], key=lambda each: each.score, reverse=kept)
        cards = [card for each in some if (card := _card(each, kept, folder))]
        count = found.texts[source, kept]
        if cards:
            bodies.append(html_page.cards(cards, f"{words}: {len(cards)} of {count}"))
    remark = "Chosen at random; the surest first." if bodies else "There are none."
    return html_page.section(f"{name.capitalize()} captions", remark, bodies)


def _card(each: Example, kept: bool, folder: Path) -> html_page.Card | None:
    """An example; None where its picture no longer exists."""
    try:
        photo = images.open(resolved(each.image, folder), at_least=html_page.SIDE // 2)
    except ImageError:
        return None
    bars = [("together", each.score)]
    return html_page.Card(
        photo, each.text, Path(each.image).name, bars, "right" if kept else "wrong"
    )


def _broken(found: Tally) -> str:
    shown = found.broken[:NAMED]
    more = len(found.broken) - len(shown)
    body = html_page.render("capfilt_broken", broken=shown, more=more)
    return html_page.section(
        "Images that could not be opened", "They are not in the dataset.", [body]
    )
