"""The demo's findings, in a terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from patchword import images
from patchword.cli.demo.jobs import (
    CAPTIONS,
    COMPARED,
    DEFECTS,
    POINTED,
    Answer,
    Findings,
    samples,
)
from patchword.cli.heatmap_attention import measure, peak
from patchword.show import html_page, plots
from patchword.show.plots import Photo, Tile

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.where.heatmap import Heatmap


def show(found: Findings, console: Console) -> None:
    """Print the findings."""
    for group, answers in found.answers.items():
        right = sum(answer.right for answer in answers)
        heading(console, f"Classify {group} by words: {right} of {len(answers)} right")
        console.print(classes_table(answers))
    heading(console, "Search by words")
    for sentence, hits in found.hits.items():
        names = ", ".join(f"{Path(hit.path).stem} {hit.score:.2f}" for hit in hits)
        console.print(Text(f"{sentence}\n", style="bold") + Text(f"  {names}", style="not bold"))
    heading(console, "Where: the best place for each text")
    for (name, text), heat in zip((*POINTED, *DEFECTS), found.heatmaps, strict=True):
        value, x, y = peak(heat.values[0])
        height, width = heat.values[0].shape
        place = f"x {x} of {width}, y {y} of {height}"
        console.print(f"{Path(name).stem}, {text}: {place} ({measure(heat)} {value:.2g})")
    heading(console, "In words")
    for told in found.told:
        console.print(Text(Path(told.name).stem, style="bold") + Text(f": {told.caption}", "none"))
        for question, answer in told.answers:
            console.print(Text(f"  {question} ") + Text(answer, style="green"))
    heading(console, "Similarity of texts and images (cosine)")
    legend = (f"{number} {Path(name).stem}" for number, name in enumerate(COMPARED, start=1))
    console.print(", ".join(legend), style="dim")
    console.print(matrix_table(found))


def heading(console: Console, words: str) -> None:
    console.print(Text(f"\n{words}", style="bold blue"))


def classes_table(answers: list[Answer]) -> Table:
    """A row per class: how many are right, and what the others were taken for."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for truth in dict.fromkeys(answer.truth for answer in answers):
        own = [answer for answer in answers if answer.truth == truth]
        right = sum(answer.right for answer in own)
        wrong = [f"{a.path.name}: {a.scores[0].label}" for a in own if not a.right]
        count = Text(f"{right} of {len(own)}", style="green" if right == len(own) else "yellow")
        table.add_row(truth, count, ", ".join(wrong))
    return table


def matrix_table(found: Findings) -> Table:
    """Cosines in colour: a row per text, a column per image, the best text of each image bold."""
    matrix = found.matrix
    scale = float(matrix.min()), float(matrix.max())
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=True)
    table.add_column(overflow="fold", min_width=12)
    for number in range(1, len(COMPARED) + 1):
        table.add_column(str(number), justify="center", no_wrap=True)
    for t, text in enumerate(CAPTIONS):
        cells = []
        for row in matrix:
            fill, ink = plots.shade(float(row[t]), scale)
            best = bool(row[t] == row.max())
            style = Style(color=f"rgb{ink}", bgcolor=f"rgb{fill}", bold=best, underline=best)
            cells.append(Text(f"{row[t]:5.2f}", style=style))
        table.add_row(text, *cells)
    return table


def write(found: Findings, model: Model, path: Path) -> None:
    """Write the findings as one page."""
    count = sum(len(answers) for answers in found.answers.values())
    parameters = sum(p.numel() for p in model.network.parameters()) / 1e6
    intro = (
        f"{count} pictures, the model “{model.name}” ({parameters:.1f} million parameters, "
        f"{model.device}). Made by patchword demo; every number is the model's own."
    )
    sections = [where_section(found), search_section(found), words_section(found)]
    sections += [matrix_section(found), classes_section(found)]
    html_page.write(path, html_page.page("What patchword sees", intro, sections))


def classes_section(found: Findings) -> str:
    bodies = []
    for group, answers in found.answers.items():
        right = sum(answer.right for answer in answers)
        cards = [
            html_page.Card(
                photo(answer.path),
                answer.scores[0].label,
                "" if answer.right else f"it is: {answer.truth}",
                [(score.label, score.probability) for score in answer.scores[:3]],
                "right" if answer.right else "wrong",
            )
            for answer in answers
        ]
        bodies.append(html_page.cards(cards, f"{group}: {right} of {len(answers)} right"))
    return html_page.section(
        "Which words fit?",
        "Each picture is compared with one sentence per class. A wrong answer is marked ✗.",
        bodies,
        'patchword classify PHOTO --labels "hat, dress, pair of shoes"',
    )


def search_section(found: Findings) -> str:
    bodies = []
    for sentence, hits in found.hits.items():
        cards = [
            html_page.Card(photo(Path(hit.path)), Path(hit.path).name, f"cosine {hit.score:.3f}")
            for hit in hits
        ]
        bodies.append(html_page.cards(cards, f"“{sentence}”"))
    words = "All pictures are in one index; these are the nearest to each sentence, best first."
    command = 'patchword index PHOTOS --into my.index && patchword search my.index "a hat"'
    return html_page.section("Find by words", words, bodies, command)


def words_section(found: Findings) -> str:
    cards = [
        html_page.Card(
            photo(samples() / told.name),
            told.caption,
            " ".join(f"{question} {answer.capitalize()}." for question, answer in told.answers),
            told.matches,
        )
        for told in found.told
    ]
    return html_page.section(
        "What is there?",
        "A caption, answers to questions, and how probable it is that each of three sentences "
        "belongs to the picture. The embedded BLIP knows wafers, coloured shapes and ten kinds of "
        "clothing.",
        [html_page.cards(cards)],
        'patchword ask PHOTO "what defect does the wafer have?"',
    )


def where_section(found: Findings) -> str:
    shown = zip((*POINTED, *DEFECTS), found.heatmaps, strict=True)
    cards = [card for (name, _), heat in shown for card in _where_cards(name, heat)]
    return html_page.section(
        "Where is it?",
        "How well each place fits the text, from dark to bright; a ring marks the best place. "
        "What is veiled lies outside the square that the model sees. Of wafers it is a BLIP's: "
        "what its judgement of the sentence hangs on. The map of a small model is a hint, "
        "not a measurement.",
        [html_page.cards(cards, wide=True)],
        'patchword heatmap WAFER "a wafer with a scratch" --model demo-blip',
    )


def _where_cards(name: str, heat: Heatmap) -> Iterator[html_page.Card]:
    yield html_page.Card(heat.image, Path(name).name)
    value, x, y = peak(heat.values[0])
    picture = plots.picture(Tile(heat.image, values=heat.values[0], ring=True))
    yield html_page.Card(picture, heat.texts[0], f"{measure(heat)} {value:.2g} at x {x}, y {y}")


def matrix_section(found: Findings) -> str:
    photos = [photo(samples() / name) for name in COMPARED]
    table = html_page.matrix(photos, COMPARED, CAPTIONS, found.matrix)
    return html_page.section(
        "Pictures and sentences",
        "The cosine of each picture with each sentence; the best sentence of a picture is framed.",
        [table],
        'patchword similarity PHOTOS --text "a photo of a hat" --text "a perfect wafer"',
    )


def photo(path: Path) -> Photo:
    return images.open(path, at_least=html_page.SIDE // 2)
