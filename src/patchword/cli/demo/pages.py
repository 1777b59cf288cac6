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
from patchword.show.percent import share
from patchword.show.plots import Photo
from patchword.show.terminal_table import broken
from patchword.where.heatmap import first_tile

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.where.heatmap import Heatmap


def show(findings: Findings, console: Console) -> None:
    """Print the findings."""
    for group, answers in findings.answers.items():
        print_heading(console, f"Classify {group} by words{count_right(answers)}")
        console.print(classes_table(answers))
    print_heading(console, "Search by words")
    for query, hits in findings.hits.items():
        names = ", ".join(f"{Path(hit.path).stem} {hit.score:.2f}" for hit in hits)
        console.print(Text(query, style="bold"))
        console.print(Padding(names, (0, 0, 0, 2)))
    print_heading(console, "Where: the best place for each text")
    for name, heatmap, _ in findings.heatmaps:
        [(value, x, y)] = heatmap.peaks()
        height, width = heatmap.image.shape[:2]
        place = f"x {x} of {width}, y {y} of {height} ({unit(heatmap)} {value:.2g})"
        if not heatmap.found[0]:
            place = f"not found; highest at {place}"
        console.print(f"{Path(name).stem}, {heatmap.texts[0]}: {place}")
    if findings.descriptions:
        print_heading(console, "In words")
    for each in findings.descriptions:
        console.print(Text(Path(each.name).stem, style="bold") + Text(f": {each.caption}", "none"))
        for question, answer in each.answers:
            console.print(Text(f"  {question} ") + Text(answer, style="green"))
    print_heading(console, "Similarity of texts and images (cosine)")
    legend = (f"{number} {text}" for number, text in enumerate(findings.captions, start=1))
    console.print(", ".join(legend), style="dim")
    console.print(matrix_table(findings, console.width))


def count_right(answers: Sequence[Answer]) -> str:
    """How many answers are right; empty where that is unknown."""
    if any(answer.truth is None for answer in answers):
        return ""
    return f": {sum(answer.right for answer in answers)} of {len(answers)} right"


def print_heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold blue"))


def classes_table(answers: Sequence[Answer]) -> Table:
    """A row per class: how many answers are right, and the wrong ones. With one picture for each
    class only the wrong ones; where the truth is unknown, a row per picture."""
    if any(answer.truth is None for answer in answers):
        return scores_table([(str(answer.path), answer.scores[:3]) for answer in answers])
    if len({answer.truth for answer in answers}) == len(answers):
        answers = [answer for answer in answers if not answer.right]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for truth in dict.fromkeys(answer.truth for answer in answers):
        of_class = [answer for answer in answers if answer.truth == truth]
        right = sum(answer.right for answer in of_class)
        wrong = [f"{a.path.name}: {a.scores[0].label}" for a in of_class if not a.right]
        style = "green" if right == len(of_class) else "yellow"
        table.add_row(truth, Text(f"{right} of {len(of_class)}", style=style), ", ".join(wrong))
    return table


def matrix_table(findings: Findings, width: int) -> Table:
    """Cosines in colour: a row per image, whose best text is bold, and a column per text.
    width: columns of the terminal."""
    matrix = findings.matrix
    scale = float(matrix.min()), float(matrix.max())
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=True)
    table.add_column(overflow="fold", min_width=12)
    for number in range(1, len(findings.captions) + 1):
        table.add_column(str(number), justify="center", no_wrap=True)
    for name, row in zip(findings.compared, matrix, strict=True):
        cells = []
        for value in row.tolist():
            fill, ink = shade(value, scale)
            best = bool(value == row.max())
            style = Style(color=f"rgb{ink}", bgcolor=f"rgb{fill}", bold=best, underline=best)
            cells.append(Text(f"{value:5.2f}", style=style))
        table.add_row(broken(Text(Path(name).stem), max(width - 6 * len(row), 12)), *cells)
    return table


def write(findings: Findings, model: Model, path: Path) -> None:
    """Write the findings as one page."""
    parameters = sum(p.numel() for p in model.own_network.parameters()) / 1e6
    intro = (
        f"{findings.count} pictures, the model “{model.name}” ({parameters:.1f} million "
        f"parameters, {model.device}). Made by patchword demo; every number is the model's own."
    )
    intro = " ".join([intro, *(f"Beware: {remark}." for remark in current().remarks())])
    sections = [where_section(findings), search_section(findings, model)]
    if findings.descriptions:
        sections.append(descriptions_section(findings))
    sections += [matrix_section(findings, model, path.parent), classes_section(findings, model)]
    sections.append(next_steps_section(findings, model))
    atomic_write.write(path, html_page.page("What patchword sees", intro, sections))


def section(
    findings: Findings,
    title: str,
    text: str,
    bodies: Sequence[str],
    commands: Sequence[str] = (),
) -> str:
    """A section of the page, with the note that the findings have for it. commands: that give the
    same in a terminal."""
    return html_page.section(title, join(" ", text, findings.notes.get(title)), bodies, commands)


def join(separator: str, *texts: str | None) -> str:
    """The texts that are not empty, joined."""
    return separator.join(filter(None, texts))


def command_line(*arguments: str, model: str = EMBEDDED, default: str = EMBEDDED) -> str:
    """A line for the terminal; default: the model of the command without -m."""
    return command(*arguments) if model == default else command(*arguments, "-m", model)


def classes_section(findings: Findings, model: Model) -> str:
    bodies = []
    for group, answers in findings.answers.items():
        cards = [answer_card(answer) for answer in answers]
        line = command_line(*findings.classify[group], model=model.name)
        bodies.append(html_page.cards(cards, f"{group}{count_right(answers)}", [line]))
    text = "Each picture is compared with every label of its kind; the probabilities sum to one."
    if count_right(answers):
        text += " A wrong answer is marked ✗."
    return section(findings, "Which words fit?", text, bodies)


def answer_card(answer: Answer) -> html_page.Card:
    """A picture with its best labels, and whether the first is right where that is known."""
    bars = [(score.label, score.probability) for score in answer.scores[:3]]
    title, picture, note = answer.scores[0].label, photo(answer.path), caveat(answer.path)
    if answer.truth is None:
        return html_page.Card(picture, title, note, bars)
    if answer.right:
        return html_page.Card(picture, title, note, bars, "right")
    return html_page.Card(picture, title, f"it is: {answer.truth}", bars, "wrong")


def search_section(findings: Findings, model: Model) -> str:
    bodies = []
    for query, hits in findings.hits.items():
        cards = [
            html_page.Card(photo(Path(hit.path)), Path(hit.path).name, f"cosine {hit.score:.3f}")
            for hit in hits
        ]
        line = command_line("search", str(findings.index), query, "-k", str(HITS))
        bodies.append(html_page.cards(cards, f"“{query}”", [line]))
    text = "All pictures are in one index; these are the nearest to each sentence, best first."
    root, index = near(findings.root), str(findings.index)
    line = command_line("index", root, "--into", index, model=model.name)
    return section(findings, "Find by words", text, bodies, [line])


def descriptions_section(findings: Findings) -> str:
    cards = []
    for each in findings.descriptions:
        path, file_name = findings.root / each.name, Path(each.name).name
        note = join(" · ", file_name if each.caption else "", caveat(path))
        commands = description_commands(findings, each)
        cards.append(
            html_page.Card(
                photo(path),
                each.caption or file_name,
                note,
                each.matches,
                answers=each.answers,
                commands=commands,
            )
        )
    text = (
        "A caption, answers to questions, and how probable it is that each of these sentences "
        "belongs to the picture."
    )
    return section(findings, "What is there?", text, [html_page.cards(cards)])


def description_commands(findings: Findings, each: Description) -> list[str]:
    """The commands that give a picture's caption, answers and matches."""
    file = near(findings.root / each.name)
    commands: list[list[str]] = []
    if each.caption:
        commands.append(["caption", file])
    if each.answers:
        commands.append(["ask", file, *(question for question, _ in each.answers)])
    if each.matches:
        match = ["match", file]
        for text, _ in each.matches:
            match += ["-t", text]
        commands.append(match)
    return [
        command_line(*arguments, model=findings.describer, default=EMBEDDED_BLIP)
        for arguments in commands
    ]


def where_section(findings: Findings) -> str:
    cards = [heatmap_card(findings, *each) for each in findings.heatmaps]
    text = (
        "How well each place fits the text, from dark to bright; a line runs around what was "
        "found, a ring marks the best place. A text that was not found has no map."
    )
    if any(heatmap.method != "head" for _, heatmap, _ in findings.heatmaps):
        text += " The map of a small model is a hint, not a measurement."
    return section(findings, "Where is it?", text, [html_page.cards(cards)])


def heatmap_card(findings: Findings, name: str, heatmap: Heatmap, model: str) -> html_page.Card:
    [(value, x, y)] = heatmap.peaks()
    highest = f"{unit(heatmap)} {value:.2g}"
    if heatmap.present:
        highest = f"probability {share(heatmap.present[0], heatmap.least)}"
    place = f"highest at x {x}, y {y}" if heatmap.found[0] else "not found"
    file, text = findings.root / name, heatmap.texts[0]
    return html_page.Card(
        heatmap.image,
        text,
        join(" · ", f"{Path(name).name}: {highest}, {place}", caveat(file)),
        beside=plots.picture(first_tile(heatmap), html_page.SIDE),
        commands=[command_line("heatmap", near(file), text, model=model)],
    )


def matrix_section(findings: Findings, model: Model, out: Path) -> str:
    photos = [photo(findings.root / name) for name in findings.compared]
    table = html_page.matrix(photos, findings.compared, findings.captions, findings.matrix)
    text = "The cosine of each picture with each sentence; the best one of a picture is framed."
    pictures, sentences = out / "pictures.txt", out / "sentences.txt"
    files = [near(findings.root / name) for name in findings.compared]
    atomic_write.write(pictures, "".join(f"{file}\n" for file in files))
    atomic_write.write(sentences, "".join(f"{caption}\n" for caption in findings.captions))
    line = command_line("similarity", f"@{pictures}", "-t", f"@{sentences}", model=model.name)
    return section(findings, "Pictures and sentences", text, [table], [line])


def next_steps_section(findings: Findings, model: Model) -> str:
    _, folder, _, labels, *_ = next(reversed(findings.classify.values()))
    text = (
        "The same page of your own photos: put their folder and your words in place of these. "
        "Then the models that there are, and all commands."
    )
    own_photos = ("demo", "--photos", folder, "--labels", labels, "--out", "my-page")
    commands = (
        command_line(*own_photos, model=model.name),
        command_line("models"),
        command_line("--help"),
    )
    return section(findings, "Next steps", text, [], commands)


def photo(path: Path) -> Photo:
    return images.open(path, at_least=html_page.SIDE)
