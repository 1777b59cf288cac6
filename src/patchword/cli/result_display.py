"""Tables, pictures and pages of what classify, similarity, caption, ask and match return."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

TitledMatrix = tuple[str, "NDArray[Any]"]  # numbers (images, texts)
ITM = "probability of a match (ITM)"  # in the title of a matrix whose numbers go from 0 to 1

SHOWN_ANSWERS = 5  # of a ranking, in a table and a picture


def captions_table(results: Sequence[tuple[Source, Caption]]) -> Table:
    """A row per caption; the first one of each image has the image's name."""
    heading, names = heading_and_names([name for name, _ in results])
    out = table(heading, "caption", "log probability", right=("log probability",))
    for name, (_, best) in zip(names, results, strict=True):
        out.add_row(name, best.text, f"{best.log_probability:.2f}")
        for other in best.others:
            out.add_row("", other.text, f"{other.log_probability:.2f}")
    return out


def rejection(scores: list[Score], reject: float | None, model: str) -> str:
    """Why an image was rejected; empty for one that was not. model: its name.

    It is the probability of the best label and the limit; or that the image is unlike what the
    model knows, with the label that it would have had.
    """
    from patchword.tasks.classify import NONE

    first, *labels = scores
    if reject is None or first.label != NONE:
        return ""
    best = labels[0].probability if labels else 1 - first.probability
    below = f"best {share(best, reject)} < {100 * reject:g}%"
    if not first.outside:
        return f"{NONE} ({below})"
    unlike = f"unlike what {Path(model).name} knows"
    if not labels:
        return f"{NONE} ({unlike})"
    if best >= reject:
        return f"{NONE} ({unlike}; else {labels[0].label} {share(best, reject)})"
    return f"{NONE} ({unlike}; {below})"


def answers_table(questions: list[str], results: Sequence[tuple[Source, list[Answer]]]) -> Table:
    """A row per question, or per candidate answer, the best first. Where there are several images,
    their names are in a first column, once for each."""
    heading, names = heading_and_names([name for name, _ in results])
    columns = ["question", "answer", "probability"]
    if len(results) > 1:
        columns.insert(0, heading)
    out = table(*columns, right=("probability",))
    for name, (_, answers) in zip(names, results, strict=True):
        image = name
        for question, answer in zip(questions, answers, strict=True):
            asked = question
            for text, probability in _bars(answer) or [(answer.text, answer.probability)]:
                cells = [asked, text, "-" if answer.declined else share(probability)]
                if len(results) > 1:
                    cells.insert(0, image)
                out.add_row(*cells)
                image = asked = ""
    return out


def matches_table(results: Sequence[tuple[Source, Match]], texts: list[str]) -> Table:
    """A row per pair; the texts of each image in the order of their match."""
    from rich.text import Text

    heading, names = heading_and_names([name for name, _ in results])
    out = table(heading, "text", "match", "cosine", right=("match", "cosine"))
    for name, (_, match) in zip(names, results, strict=True):
        rows = sorted(rows_of(match, texts), key=lambda row: -row[1])
        for rank, (text, probability, cosine) in enumerate(rows):
            style = "bold" if rank == 0 and len(texts) > 1 else ""
            out.add_row(
                name if rank == 0 else "",
                Text(text, style=style),
                Text(share(probability), style=style),
                "-" if math.isnan(cosine) else f"{cosine:.3f}",
            )
    return out


def rows_of(match: Match, texts: list[str]) -> list[tuple[str, float, float]]:
    """Text, probability and cosine of each text of one image."""
    return list(zip(texts, match.probabilities.tolist(), match.cosines.tolist(), strict=True))


def save_matrices(
    names: Sequence[Source],
    texts: list[str],
    matrices: list[TitledMatrix],
    path: Path,
    opener: Opener,
) -> None:
    """Save one or more matrices of the same images and texts, side by side."""
    from patchword.show import plots
    from patchword.show.matrix_picture import side_by_side, similarity_matrix

    thumbs = [opener(name, at_least=plots.TILE // 2) for name in names]
    stems = [Path(str(name)).stem for name in names]
    if len(matrices) == 1:
        [(title, values)] = matrices
        picture = similarity_matrix(thumbs, texts, values, names=stems, title=title)
    else:
        parts = []
        for title, values in matrices:
            scale = (0.0, 1.0) if ITM in title else None
            parts.append(similarity_matrix(thumbs, texts, values, names=stems, scale=scale))
        picture = side_by_side(parts, [title for title, _ in matrices])
    plots.save(picture, path)
    print_saved(path)


def match_matrices(
    cosines: NDArray[Any], probabilities: NDArray[Any], model: str
) -> list[TitledMatrix]:
    """Cosines and match probabilities of images and texts, with titles."""
    name = Path(model).name
    return [(f"{name}: cosine of the vectors (ITC)", cosines), (f"{name}: {ITM}", probabilities)]


def save_answers(
    questions: list[str], results: list[tuple[Source, list[Answer]]], path: Path, bundle: Model
) -> None:
    """Save the images with their questions and answers, side by side, as a picture."""
    from patchword.show import plots
    from patchword.show.answers_picture import SIDE, answers_picture
    from patchword.show.matrix_picture import side_by_side

    pictures = []
    for name, answers in results:
        rows = [(a.text, None if a.declined else a.probability, _bars(a)) for a in answers]
        photo = bundle.opener(name, at_least=SIDE)
        title = title_with_caveat(bundle, name)
        pictures.append(answers_picture(photo, questions, rows, title))
    plots.save(side_by_side(pictures), path)
    print_saved(path)


def save_scores(
    results: list[tuple[Source, list[Score]]], path: Path, bundle: Model, reject: float | None
) -> None:
    """Save the images with their labels as a picture or a page."""
    from patchword.show import html_page, plots

    photos = [bundle.opener(name, at_least=plots.TILE) for name, _ in results]
    names = [Path(str(name)).name for name, _ in results]
    notes, bars = [], []
    for name, scores in results:
        reason = rejection(scores, reject, bundle.name)
        # A rejection of an image that is unlike the model's training says so already.
        remark = "" if reason and scores[0].outside else caveat(name)
        notes.append(_join_notes(reason, remark))
        labels = scores[1:] if reason else scores
        bars.append([(score.label, score.probability) for score in labels])
    if path.suffix.lower() == ".html":
        cards = [
            html_page.Card(photo, name, note, each, limit=reject)
            for photo, name, note, each in zip(photos, names, notes, bars, strict=True)
        ]
        page = html_page.page("Which words fit", picture_title(bundle), [html_page.cards(cards)])
        write(path, page)
    else:
        title = picture_title(bundle)
        plots.save(plots.classify_panel(photos, bars, names, title, notes, reject), path)
    print_saved(path)


def save_captions(results: list[tuple[Source, Caption]], path: Path, bundle: Model) -> None:
    """Save the images with their captions as a picture or a page."""
    from patchword.show import html_page, plots

    photos = [bundle.opener(name, at_least=plots.TILE) for name, _ in results]
    if path.suffix.lower() == ".html":
        cards = [
            html_page.Card(photo, caption.text, _join_notes(Path(str(name)).name, caveat(name)))
            for photo, (name, caption) in zip(photos, results, strict=True)
        ]
        write(path, html_page.page("Captions", picture_title(bundle), [html_page.cards(cards)]))
    else:
        tiles = [
            plots.Tile(photo, f"{Path(str(name)).name}: {caption.text}", caveat(name))
            for photo, (name, caption) in zip(photos, results, strict=True)
        ]
        plots.save(plots.panel(tiles, picture_title(bundle)), path)
    print_saved(path)


def _bars(answer: Answer) -> list[tuple[str, float]]:
    """The best candidate answers with their probabilities; none for a generated answer."""
    return [(choice.text, choice.probability) for choice in answer.ranking[:SHOWN_ANSWERS]]


def caveat(name: Source | Path) -> str:
    """A remark about an image that is unlike what the model was trained on; empty for others."""
    return UNLIKE if current().outside(str(name)) else ""


def title_with_caveat(bundle: Model, name: Source) -> str:
    """The title of a picture of one image, with its caveat on a second line."""
    title, remark = picture_title(bundle, Path(str(name)).name), caveat(name)
    return f"{title}\n{remark}" if remark else title


def _join_notes(*notes: str) -> str:
    """The notes that are not empty, on one line."""
    return " · ".join(filter(None, notes))
