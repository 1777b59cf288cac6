"""What classify, caption, ask and match show: tables, pictures and pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchword.atomic_write import write
from patchword.cli.output import heading_and_names, picture_title, print_saved
from patchword.scope import UNLIKE, current
from patchword.show.percent import share
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table

    from patchword.api import Model
    from patchword.cli.member_images import Source
    from patchword.images import Opener
    from patchword.tasks.ask import Answer
    from patchword.tasks.caption import Caption
    from patchword.tasks.classify import Score
    from patchword.tasks.match import Match

Titled = tuple[str, "NDArray[Any]"]  # a matrix of images and texts
ITM = "probability of a match (ITM)"  # what one of them holds

SHOWN_ANSWERS = 5  # of a ranking, in a table and a picture


def captions_table(results: list[tuple[Source, Caption]]) -> Table:
    """A row per caption, the image's name at its first."""
    heading, names = heading_and_names([name for name, _ in results])
    out = table(heading, "caption", "log probability", right=("log probability",))
    for name, (_, first) in zip(names, results, strict=True):
        written: list[Caption] = [first, *first.others]
        for one in written:
            out.add_row(name if one is first else "", one.text, f"{one.log_probability:.2f}")
    return out


def rejection(scores: list[Score], reject: float | None, model: str) -> str:
    """Of an image that is rejected why: the probability of its best label, and the limit, or that
    it is unlike what a model of that name knows, and what it would be else; of another empty."""
    from patchword.tasks.classify import NONE

    first, *labels = scores
    if reject is None or first.label != NONE:
        return ""
    best = labels[0].probability if labels else 1 - first.probability
    below = f"best {share(best)} < {100 * reject:g}%"
    if not first.outside:
        return f"{NONE} ({below})"
    unlike = f"unlike what {Path(model).name} knows"
    if labels and best >= reject:
        return f"{NONE} ({unlike}; else {labels[0].label} {share(best)})"
    return f"{NONE} ({unlike}; {below})" if labels else f"{NONE} ({unlike})"


def answers_table(questions: list[str], results: list[tuple[Source, list[Answer]]]) -> Table:
    """A row per question, or per candidate answer, the best first; with several images a column
    that names them."""
    heading, names = heading_and_names([name for name, _ in results])
    several = (heading,) * (len(results) > 1)
    out = table(*several, "question", "answer", "probability", right=("probability",))
    for name, (_, found) in zip(names, results, strict=True):
        for asked, (question, answer) in enumerate(zip(questions, found, strict=True)):
            rows = _bars(answer) or [(answer.text, answer.probability)]
            for number, (text, probability) in enumerate(rows):
                first = [name if not (asked or number) else ""] * len(several)
                sure = "–" if answer.declined else share(probability)
                out.add_row(*first, "" if number else question, text, sure)
    return out


def matches_table(results: list[tuple[Source, Match]], texts: list[str]) -> Table:
    """A row per pair, each image's texts in order of their match."""
    from rich.text import Text

    heading, names = heading_and_names([name for name, _ in results])
    out = table(heading, "text", "match", "cosine", right=("match", "cosine"))
    for name, (_, found) in zip(names, results, strict=True):
        rows = sorted(rows_of(found, texts), key=lambda row: -row[1])
        for number, (text, probability, cosine) in enumerate(rows):
            bold = "" if number or len(texts) == 1 else "bold"
            cells = Text(text, style=bold), Text(share(probability), style=bold)
            out.add_row("" if number else name, *cells, _number(cosine))
    return out


def rows_of(found: Match, texts: list[str]) -> list[tuple[str, float, float]]:
    """Text, probability and cosine of each text of one image."""
    return list(zip(texts, found.probabilities.tolist(), found.cosines.tolist(), strict=True))


def save_matrices(
    names: list[Source], texts: list[str], matrices: list[Titled], path: Path, opener: Opener
) -> None:
    """Save matrices of images and texts side by side."""
    from patchword.show import plots
    from patchword.show.matrix_picture import side_by_side, similarity_matrix

    thumbs = [opener(name, at_least=plots.TILE // 2) for name in names]
    stems = [Path(str(name)).stem for name in names]
    pictures = [
        similarity_matrix(
            thumbs, texts, each, names=stems, scale=(0.0, 1.0) if ITM in title else None
        )
        for title, each in matrices
    ]
    plots.save(side_by_side(pictures, [title for title, _ in matrices]), path)
    print_saved(path)


def match_matrices(cosines: NDArray[Any], probabilities: NDArray[Any], model: str) -> list[Titled]:
    """Cosines and match probabilities of images and texts, with titles."""
    name = Path(model).name
    return [(f"{name}: cosine of the vectors (ITC)", cosines), (f"{name}: {ITM}", probabilities)]


def save_answers(
    questions: list[str], results: list[tuple[Source, list[Answer]]], path: Path, bundle: Model
) -> None:
    """The images with their questions and answers, side by side, as a picture."""
    from patchword.show import plots
    from patchword.show.answers_picture import SIDE, answers_picture
    from patchword.show.matrix_picture import side_by_side

    pictures = []
    for name, found in results:
        rows = [(a.text, None if a.declined else a.probability, _bars(a)) for a in found]
        title = title_with_caveat(bundle, name)
        photo = bundle.opener(name, at_least=SIDE)
        pictures.append(answers_picture(photo, questions, rows, title))
    plots.save(side_by_side(pictures), path)
    print_saved(path)


def save_scores(
    results: list[tuple[Source, list[Score]]], path: Path, bundle: Model, reject: float | None
) -> None:
    """The images with their labels as a picture or a page."""
    from patchword.show import html_page, plots

    photos = [bundle.opener(name, at_least=plots.TILE) for name, _ in results]
    names = [Path(str(name)).name for name, _ in results]
    said = [rejection(scores, reject, bundle.name) for _, scores in results]
    notes = [
        " · ".join(filter(None, [words, "" if words and scores[0].outside else caveat(name)]))
        for words, (name, scores) in zip(said, results, strict=True)
    ]
    bars = [
        [(score.label, score.probability) for score in scores[bool(words) :]]
        for words, (_, scores) in zip(said, results, strict=True)
    ]
    if path.suffix.lower() == ".html":
        items = [html_page.Card(*each) for each in zip(photos, names, notes, bars, strict=True)]
        write(
            path, html_page.page("Which words fit", picture_title(bundle), [html_page.cards(items)])
        )
    else:
        plots.save(plots.classify_panel(photos, bars, names, picture_title(bundle), notes), path)
    print_saved(path)


def save_captions(results: list[tuple[Source, Caption]], path: Path, bundle: Model) -> None:
    """The images with their captions, as a picture or a page."""
    from patchword.show import html_page, plots

    photos = [bundle.opener(name, at_least=plots.TILE) for name, _ in results]
    if path.suffix.lower() == ".html":
        cards = [
            html_page.Card(photo, found.text, name_with_caveat(name))
            for photo, (name, found) in zip(photos, results, strict=True)
        ]
        write(path, html_page.page("Captions", picture_title(bundle), [html_page.cards(cards)]))
    else:
        tiles = [
            plots.Tile(photo, f"{Path(str(name)).name}: {found.text}", caveat(name))
            for photo, (name, found) in zip(photos, results, strict=True)
        ]
        plots.save(plots.panel(tiles, picture_title(bundle)), path)
    print_saved(path)


def _bars(answer: Answer) -> list[tuple[str, float]]:
    """The best candidate answers with their probabilities."""
    return [(choice.text, choice.probability) for choice in answer.ranking[:SHOWN_ANSWERS]]


def caveat(name: Source | Path) -> str:
    """What a picture of an image says where it is unlike what the model was trained on."""
    return UNLIKE if current().outside(str(name)) else ""


def title_with_caveat(bundle: Model, name: Source) -> str:
    """The title of a picture of one image, with its caveat as a remark."""
    return "\n".join(filter(None, [picture_title(bundle, Path(str(name)).name), caveat(name)]))


def name_with_caveat(name: Source) -> str:
    """An image's name, with its caveat."""
    return " · ".join(filter(None, [Path(str(name)).name, caveat(name)]))


def _number(cosine: float) -> str:
    return f"{cosine:.3f}" if cosine == cosine else "–"
