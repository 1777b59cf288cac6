"""The demo's findings, in a terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from patchword import atomic_write, images
from patchword.cli.demo.findings import Answer, Findings
from patchword.cli.embed_classify_similarity import scores_table
from patchword.cli.heatmap import measure
from patchword.cli.language_tables import caveat
from patchword.cli.options import EMBEDDED, EMBEDDED_BLIP
from patchword.cli.program import command, near
from patchword.scope import current
from patchword.show import html_page, plots
from patchword.show.colours import shade
from patchword.show.percent import matched
from patchword.show.plots import Photo, Tile

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.where.heatmap import Heatmap


NAMED = 5  # labels in a line for the terminal


def show(found: Findings, console: Console) -> None:
    """Print the findings."""
    for group, answers in found.answers.items():
        heading(console, f"Classify {group} by words{verdict(answers)}")
        console.print(classes_table(answers))
    heading(console, "Search by words")
    for sentence, hits in found.hits.items():
        names = ", ".join(f"{Path(hit.path).stem} {hit.score:.2f}" for hit in hits)
        console.print(Text(f"{sentence}\n", style="bold") + Text(f"  {names}", style="not bold"))
    heading(console, "Where: the best place for each text")
    for name, heat in found.heatmaps:
        ((value, x, y),) = heat.peaks()
        height, width = heat.image.shape[:2]
        place = f"x {x} of {width}, y {y} of {height}"
        text = heat.texts[0]
        console.print(f"{Path(name).stem}, {text}: {place} ({measure(heat)} {value:.2g})")
    if found.descriptions:
        heading(console, "In words")
    for each in found.descriptions:
        console.print(Text(Path(each.name).stem, style="bold") + Text(f": {each.caption}", "none"))
        for question, answer in each.answers:
            console.print(Text(f"  {question} ") + Text(answer, style="green"))
    heading(console, "Similarity of texts and images (cosine)")
    legend = (f"{number} {Path(name).stem}" for number, name in enumerate(found.compared, start=1))
    console.print(", ".join(legend), style="dim")
    console.print(matrix_table(found))


def verdict(answers: Sequence[Answer]) -> str:
    """How many are right; empty where that is unknown."""
    if any(answer.truth is None for answer in answers):
        return ""
    return f": {sum(answer.right for answer in answers)} of {len(answers)} right"


def heading(console: Console, words: str) -> None:
    console.print(Text(f"\n{words}", style="bold blue"))


def classes_table(answers: Sequence[Answer]) -> Table:
    """A row per class: how many are right, and what the others were classified as. With one picture
    for each class, only those that are wrong; where the truth is unknown, a row per picture."""
    if any(answer.truth is None for answer in answers):
        return scores_table([(str(answer.path), answer.scores[:3]) for answer in answers])
    if len({answer.truth for answer in answers}) == len(answers):
        answers = [answer for answer in answers if not answer.right]
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
    for number in range(1, len(found.compared) + 1):
        table.add_column(str(number), justify="center", no_wrap=True)
    for t, text in enumerate(found.captions):
        cells = []
        for row in matrix:
            fill, ink = shade(float(row[t]), scale)
            best = bool(row[t] == row.max())
            style = Style(color=f"rgb{ink}", bgcolor=f"rgb{fill}", bold=best, underline=best)
            cells.append(Text(f"{row[t]:5.2f}", style=style))
        table.add_row(text, *cells)
    return table


def write(found: Findings, model: Model, path: Path) -> None:
    """Write the findings as one page."""
    parameters = sum(p.numel() for p in model.network.parameters()) / 1e6
    intro = (
        f"{found.count} pictures, the model “{model.name}” ({parameters:.1f} million parameters, "
        f"{model.device}). Made by patchword demo; every number is the model's own."
    )
    intro = " ".join([intro, *(f"Beware: {said}." for said in current().sentences())])
    sections = [where_section(found), search_section(found, model)]
    if found.descriptions:
        sections.append(words_section(found))
    sections += [matrix_section(found, model), classes_section(found, model)]
    sections.append(next_section(found, model))
    atomic_write.write(path, html_page.page("What patchword sees", intro, sections))


def section(
    found: Findings, title: str, words: str, bodies: Sequence[str], commands: Sequence[str]
) -> str:
    """A part of the page, with what else is to be said of these pictures, and what gives the same
    in a terminal."""
    said = " ".join(filter(None, [words, found.notes.get(title)]))
    return html_page.section(title, said, bodies, commands)


def line(*words: str, model: str = EMBEDDED, usual: str = EMBEDDED) -> str:
    """A line for the terminal; usual: the model that a command has without -m."""
    named = ("-m", model) if model != usual else ()
    return command(*words, *named)


def classes_section(found: Findings, model: Model) -> str:
    bodies = []
    for group, answers in found.answers.items():
        cards = [
            html_page.Card(
                photo(answer.path),
                answer.scores[0].label,
                (
                    caveat(answer.path)
                    if answer.truth in (None, answer.scores[0].label)
                    else f"it is: {answer.truth}"
                ),
                [(score.label, score.probability) for score in answer.scores[:3]],
                "" if answer.truth is None else "right" if answer.right else "wrong",
            )
            for answer in answers
        ]
        bodies.append(html_page.cards(cards, f"{group}{verdict(answers)}"))
    labels = [score.label for score in answers[0].scores[:NAMED]]
    words = "Each picture is compared with every label of its kind; the probabilities sum to one."
    if verdict(answers):
        words += " A wrong answer is marked ✗."
    shown = line("classify", near(answers[0].path), "--labels", ",".join(labels), model=model.name)
    return section(found, "Which words fit?", words, bodies, [shown])


def search_section(found: Findings, model: Model) -> str:
    bodies = []
    for sentence, hits in found.hits.items():
        cards = [
            html_page.Card(photo(Path(hit.path)), Path(hit.path).name, f"cosine {hit.score:.3f}")
            for hit in hits
        ]
        bodies.append(html_page.cards(cards, f"“{sentence}”"))
    words = "All pictures are in one index; these are the nearest to each sentence, best first."
    lines = (
        line("index", near(found.root), "--into", str(found.index), model=model.name),
        line("search", str(found.index), next(iter(found.hits))),
    )
    return section(found, "Find by words", words, bodies, lines)


def words_section(found: Findings) -> str:
    cards = [
        html_page.Card(
            photo(found.root / each.name),
            each.caption or Path(each.name).name,
            " · ".join(
                filter(
                    None, [each.caption and Path(each.name).name, caveat(found.root / each.name)]
                )
            ),
            each.matches,
            answers=each.answers,
        )
        for each in found.descriptions
    ]
    first = found.descriptions[0]
    file = near(found.root / first.name)
    jobs: list[tuple[str, ...]] = [("caption", file)] if first.caption else []
    jobs += [("ask", file, question) for question, _ in first.answers[:1]]
    jobs += [("match", file, text) for text, _ in first.matches[:1]]
    lines = [line(*job, model=found.describer, usual=EMBEDDED_BLIP) for job in jobs]
    words = (
        "A caption, answers to questions, and how probable it is that each of these sentences "
        "belongs to the picture."
    )
    return section(found, "What is there?", words, [html_page.cards(cards)], lines)


def where_section(found: Findings) -> str:
    cards = [card for name, heat in found.heatmaps for card in _where_cards(name, heat)]
    words = (
        "How well each place fits the text, from dark to bright; a ring marks the best place. "
        "What is veiled lies outside the square that the model sees."
    )
    name, heat = found.heatmaps[0]
    if heat.method != "head":
        words += " The map of a small model is a hint, not a measurement."
    shown = line("heatmap", near(found.root / name), heat.texts[0], model=found.describer)
    return section(found, "Where is it?", words, [html_page.cards(cards, wide=True)], [shown])


def _where_cards(name: str, heat: Heatmap) -> Iterator[html_page.Card]:
    yield html_page.Card(heat.image, Path(name).name)
    ((value, x, y),) = heat.peaks()
    picture = plots.picture(Tile(heat.image, values=heat.values[0], ring=True))
    high = matched(heat.present[0]) if heat.present else f"{measure(heat)} {value:.2g}"
    yield html_page.Card(picture, heat.texts[0], f"{high}; highest at x {x}, y {y}")


def matrix_section(found: Findings, model: Model) -> str:
    photos = [photo(found.root / name) for name in found.compared]
    table = html_page.matrix(photos, found.compared, found.captions, found.matrix)
    words = "The cosine of each picture with each sentence; the best one of a picture is framed."
    files = [near(found.root / name) for name in found.compared[:2]]
    shown = line("similarity", *files, *found.captions[:2], model=model.name)
    return section(found, "Pictures and sentences", words, [table], [shown])


def next_section(found: Findings, model: Model) -> str:
    """What to do after this page."""
    answers = next(reversed(found.answers.values()))
    folder = near(answers[0].path.parent)
    labels = ",".join(score.label for score in answers[0].scores[:NAMED])
    words = (
        "The same page of your own photos: put their folder and your words in place of these. "
        "Then the models that there are, and all commands."
    )
    lines = (
        line("demo", "--photos", folder, "--labels", labels, "--out", "my-page", model=model.name),
        line("models"),
        line("--help"),
    )
    return section(found, "Next steps", words, [], lines)


def photo(path: Path) -> Photo:
    return images.open(path, at_least=html_page.SIDE)
