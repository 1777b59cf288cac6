"""The demo's findings, in a terminal and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from patchword import atomic_write, images
from patchword.cli.demo.findings import HITS, Answer, Description, Findings
from patchword.cli.embed_classify_similarity import scores_table
from patchword.cli.heatmap import unit
from patchword.cli.options import EMBEDDED, EMBEDDED_BLIP
from patchword.cli.program import command, near
from patchword.cli.result_display import caveat
from patchword.scope import current
from patchword.show import html_page, plots
from patchword.show.colours import shade
from patchword.show.percent import matched
from patchword.show.plots import Photo
from patchword.show.terminal_table import broken
from patchword.where.heatmap import first_tile

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.where.heatmap import Heatmap


def show(found: Findings, console: Console) -> None:
    """Print the findings."""
    for group, answers in found.answers.items():
        heading(console, f"Classify {group} by words{verdict(answers)}")
        console.print(classes_table(answers))
    heading(console, "Search by words")
    for sentence, hits in found.hits.items():
        names = ", ".join(f"{Path(hit.path).stem} {hit.score:.2f}" for hit in hits)
        console.print(Text(sentence, style="bold"))
        console.print(Padding(names, (0, 0, 0, 2)))
    heading(console, "Where: the best place for each text")
    for name, heat, _ in found.heatmaps:
        ((value, x, y),) = heat.peaks()
        height, width = heat.image.shape[:2]
        place = f"x {x} of {width}, y {y} of {height}"
        text = heat.texts[0]
        sure = "" if heat.found[0] else "not found; highest at "
        console.print(f"{Path(name).stem}, {text}: {sure}{place} ({unit(heat)} {value:.2g})")
    if found.descriptions:
        heading(console, "In words")
    for each in found.descriptions:
        console.print(Text(Path(each.name).stem, style="bold") + Text(f": {each.caption}", "none"))
        for question, answer in each.answers:
            console.print(Text(f"  {question} ") + Text(answer, style="green"))
    heading(console, "Similarity of texts and images (cosine)")
    legend = (f"{number} {text}" for number, text in enumerate(found.captions, start=1))
    console.print(", ".join(legend), style="dim")
    console.print(matrix_table(found, console.width))


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


def matrix_table(found: Findings, width: int) -> Table:
    """Cosines in colour: a row per image, a column per text, the best text of each image bold.
    width: of the terminal, in which names break after their parts."""
    matrix = found.matrix
    scale = float(matrix.min()), float(matrix.max())
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=True)
    table.add_column(overflow="fold", min_width=12)
    for number in range(1, len(found.captions) + 1):
        table.add_column(str(number), justify="center", no_wrap=True)
    for name, row in zip(found.compared, matrix, strict=True):
        cells = []
        for value in row.tolist():
            fill, ink = shade(value, scale)
            best = bool(value == row.max())
            style = Style(color=f"rgb{ink}", bgcolor=f"rgb{fill}", bold=best, underline=best)
            cells.append(Text(f"{value:5.2f}", style=style))
        table.add_row(broken(Text(Path(name).stem), max(width - 6 * len(row), 12)), *cells)
    return table


def write(found: Findings, model: Model, path: Path) -> None:
    """Write the findings as one page."""
    parameters = sum(p.numel() for p in model.own_network.parameters()) / 1e6
    intro = (
        f"{found.count} pictures, the model “{model.name}” ({parameters:.1f} million parameters, "
        f"{model.device}). Made by patchword demo; every number is the model's own."
    )
    intro = " ".join([intro, *(f"Beware: {said}." for said in current().remarks())])
    sections = [where_section(found), search_section(found, model)]
    if found.descriptions:
        sections.append(words_section(found))
    sections += [matrix_section(found, model, path.parent), classes_section(found, model)]
    sections.append(next_section(found, model))
    atomic_write.write(path, html_page.page("What patchword sees", intro, sections))


def section(
    found: Findings, title: str, words: str, bodies: Sequence[str], commands: Sequence[str] = ()
) -> str:
    """A part of the page, with what else is to be said of these pictures. commands: that give all
    of it in a terminal."""
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
        shown = line(*found.classify[group], model=model.name)
        bodies.append(html_page.cards(cards, f"{group}{verdict(answers)}", [shown]))
    words = "Each picture is compared with every label of its kind; the probabilities sum to one."
    if verdict(answers):
        words += " A wrong answer is marked ✗."
    return section(found, "Which words fit?", words, bodies)


def search_section(found: Findings, model: Model) -> str:
    bodies = []
    for sentence, hits in found.hits.items():
        cards = [
            html_page.Card(photo(Path(hit.path)), Path(hit.path).name, f"cosine {hit.score:.3f}")
            for hit in hits
        ]
        shown = line("search", str(found.index), sentence, "-k", str(HITS))
        bodies.append(html_page.cards(cards, f"“{sentence}”", [shown]))
    words = "All pictures are in one index; these are the nearest to each sentence, best first."
    shown = line("index", near(found.root), "--into", str(found.index), model=model.name)
    return section(found, "Find by words", words, bodies, [shown])


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
            commands=_describing(found, each),
        )
        for each in found.descriptions
    ]
    words = (
        "A caption, answers to questions, and how probable it is that each of these sentences "
        "belongs to the picture."
    )
    return section(found, "What is there?", words, [html_page.cards(cards)])


def _describing(found: Findings, each: Description) -> list[str]:
    """The commands that give a picture's caption, answers and matches."""
    file = near(found.root / each.name)
    jobs: list[tuple[str, ...]] = [("caption", file)] if each.caption else []
    if each.answers:
        jobs.append(("ask", file, *(question for question, _ in each.answers)))
    if each.matches:
        texts = (word for text, _ in each.matches for word in ("-t", text))
        jobs.append(("match", file, *texts))
    return [line(*job, model=found.describer, usual=EMBEDDED_BLIP) for job in jobs]


def where_section(found: Findings) -> str:
    cards = [_where_card(found, *each) for each in found.heatmaps]
    words = (
        "How well each place fits the text, from dark to bright; a line runs around what was "
        "found, a ring marks the best place. A text that was not found has no map."
    )
    if any(heat.method != "head" for _, heat, _ in found.heatmaps):
        words += " The map of a small model is a hint, not a measurement."
    return section(found, "Where is it?", words, [html_page.cards(cards)])


def _where_card(found: Findings, name: str, heat: Heatmap, model: str) -> html_page.Card:
    ((value, x, y),) = heat.peaks()
    high = matched(heat.present[0]) if heat.present else f"{unit(heat)} {value:.2g}"
    place = f"highest at x {x}, y {y}" if heat.found[0] else "not found"
    file = found.root / name
    note = " · ".join(filter(None, [f"{Path(name).name}: {high}, {place}", caveat(file)]))
    return html_page.Card(
        heat.image,
        heat.texts[0],
        note,
        beside=plots.picture(first_tile(heat), html_page.SIDE),
        commands=[line("heatmap", near(file), heat.texts[0], model=model)],
    )


def matrix_section(found: Findings, model: Model, out: Path) -> str:
    photos = [photo(found.root / name) for name in found.compared]
    table = html_page.matrix(photos, found.compared, found.captions, found.matrix)
    words = "The cosine of each picture with each sentence; the best one of a picture is framed."
    files = [near(found.root / name) for name in found.compared]
    atomic_write.write(out / "pictures.txt", "".join(f"{file}\n" for file in files))
    atomic_write.write(out / "sentences.txt", "".join(f"{text}\n" for text in found.captions))
    pictures, sentences = f"@{out / 'pictures.txt'}", f"@{out / 'sentences.txt'}"
    shown = line("similarity", pictures, "-t", sentences, model=model.name)
    return section(found, "Pictures and sentences", words, [table], [shown])


def next_section(found: Findings, model: Model) -> str:
    """What to do after this page."""
    _, folder, _, labels, *_ = next(reversed(found.classify.values()))
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
