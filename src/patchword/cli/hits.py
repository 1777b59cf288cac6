"""Tables, pictures and pages of the hits of searches, and pages of groups of photos."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from patchword.atomic_write import write
from patchword.cli.output import (
    check_save,
    emit,
    heading_and_names,
    notes,
    picture_title,
    print_saved,
    refuse,
    screen,
)
from patchword.errors import ImageError
from patchword.scope import UNLIKE, current
from patchword.show.percent import matched, share
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.api import Model
    from patchword.index import Hit
    from patchword.show.html_page import Card
    from patchword.tasks.match import Reranked


@dataclass(frozen=True)
class QueryHits:
    """The hits of one query. title: of its pictures. query: its words, shown where several queries
    are answered."""

    title: str
    query: str
    hits: list[Reranked[Hit]]
    reranked: bool
    first_rank: int = 1


def print_hits(results: Sequence[QueryHits], failed: list[ImageError], as_json: bool) -> None:
    """Print a table for each query, or JSON Lines. These begin with the errors of `failed` whose
    image is not among the hits."""
    from patchword.index.members import gone

    several = len(results) > 1
    paths = {ranked.hit.path for result in results for ranked in result.hits}
    deleted = {path for path in paths if gone(path)}
    if as_json:
        for error in failed:
            if error.image not in paths:
                emit({"image": error.image, "error": error.reason})
    for number, result in enumerate(results):
        if as_json:
            query = {"query": result.query} if several else {}
            for rank, ranked in enumerate(result.hits, start=result.first_rank):
                emit(query | _record(rank, ranked, result.reranked, deleted))
        else:
            if several:
                screen().print(f"\n{result.query}" if number else result.query)
            if result.hits:
                screen().print(hits_table(result, deleted))
        if not result.hits:
            notes().print(f"nothing found for {result.query!r}" if several else "nothing found")


def _record(
    rank: int, ranked: Reranked[Hit], reranked: bool, deleted: Collection[str]
) -> dict[str, object]:
    record: dict[str, object] = {"rank": rank, "image": ranked.hit.path, "cosine": ranked.hit.score}
    if reranked:
        record["match"] = ranked.probability
    record |= {"modified": ranked.hit.modified.isoformat(), "id": ranked.hit.id}
    if ranked.hit.path in deleted:
        record["gone"] = True
    return record


def hits_table(result: QueryHits, deleted: Collection[str]) -> Table:
    """A row for each hit: rank, match if hits were reranked, cosine and path. deleted: the paths
    whose files do not exist any more."""
    heading, names = heading_and_names(
        relative_to_current([ranked.hit.path for ranked in result.hits])
    )
    columns = ["", "match", "cosine", heading] if result.reranked else ["", "cosine", heading]
    out = table(*columns, right=("", "match", "cosine"))
    rows = zip(result.hits, names, strict=True)
    for rank, (ranked, name) in enumerate(rows, start=result.first_rank):
        cells = [str(rank)]
        if result.reranked:
            cells.append("-" if ranked.probability is None else share(ranked.probability))
        cells.append(f"{ranked.hit.score:.3f}")
        cells.append(f"{name} (gone)" if ranked.hit.path in deleted else name)
        out.add_row(*cells)
    return out


def relative_to_current(paths: list[str]) -> list[str]:
    """Paths as they are written in the current folder: relative to it, or through a link in it.
    Other paths stay absolute."""
    prefixes: dict[str, str] = {}  # what a resolved folder is called here
    with suppress(OSError), os.scandir() as entries:  # the folder may be deleted or unreadable
        prefixes = {os.path.realpath(e.path): e.name for e in entries if e.is_symlink()}
    prefixes[os.path.realpath(".")] = ""
    relative = []
    for path in paths:
        for folder, name in prefixes.items():
            if path.startswith(os.path.join(folder, "")):
                path = os.path.join(name, path[len(folder) + 1 :])
                break
        relative.append(path)
    return relative


def save_hits(
    results: Sequence[QueryHits], path: Path, model: Model, heatmap_texts: Sequence[str | None]
) -> list[ImageError]:
    """Save the hits of all queries as one picture, or as a page with a section for each query.

    heatmap_texts: one for each query, whose heatmap is drawn over its hits; None: none is drawn.
    Returns the errors of hits that cannot be opened; an empty picture takes their place.
    """
    import numpy as np

    from patchword.show import html_page, plots

    failed: list[ImageError] = []
    is_page = path.suffix.lower() == ".html"
    several = len(results) > 1
    # A generator, so that the photos of only one query at a time are in memory.
    cards_of_queries = (
        _cards(result, text, model, failed)
        for result, text in zip(results, heatmap_texts, strict=True)
    )
    titles = [result.title for result in results]
    if is_page:
        sections = (
            html_page.cards(cards, title if several else "")
            for cards, title in zip(cards_of_queries, titles, strict=True)
        )
        page_title = f"{len(results)} searches" if several else titles[0]
        write(path, html_page.pieces(page_title, picture_title(model), sections))
    else:
        pictures = [
            plots.search_panel(
                [np.asarray(card.picture) for card in cards],
                [card.title for card in cards],
                [card.note for card in cards],
                picture_title(model, title),
            )
            for cards, title in zip(cards_of_queries, titles, strict=True)
        ]
        plots.save(plots.stacked(pictures), path)
    print_saved(path)
    return failed


def _cards(
    result: QueryHits,
    heatmap_text: str | None,
    model: Model,
    failed: list[ImageError],
) -> list[Card]:
    """A card for each hit of a query, see `save_hits`. Errors are added to `failed`."""
    from patchword.show.html_page import Card

    cards = []
    for rank, ranked in enumerate(result.hits, start=result.first_rank):
        picture, error = load_picture(ranked.hit.path, model, heatmap_text)
        name = Path(ranked.hit.path).name
        if error:
            failed.append(error)
            name += " (cannot be opened)"
        note = f"rank {rank} · cosine {ranked.hit.score:.3f}"
        if ranked.probability is not None:
            note += f" · {matched(ranked.probability)}"
        if ranked.hit.outside:
            note += f" · {UNLIKE}"
        cards.append(Card(picture, name, note))
    return cards


class Member(NamedTuple):
    """A photo of a group on a page. note: a text below its name. kept: marked as one to keep."""

    path: str
    note: str = ""
    kept: bool = False


PageGroup = tuple[str, Sequence[Member]]  # a heading, and the photos below it


def check_page(path: Path | None) -> None:
    """Refuse, before any work is done, a file that is not a page or cannot be written."""
    check_save(path, pages=True)
    if path is not None and path.suffix.lower() != ".html":
        refuse(f"--save {path}: the name must end in .html")


def save_groups(
    title: str, groups: Sequence[PageGroup], path: Path, model: Model
) -> list[ImageError]:
    """Save a page with groups of photos. Returns the errors of those that cannot be opened; an
    empty picture takes their place."""
    from patchword.show import html_page

    failed: list[ImageError] = []
    sections = []
    for heading, members in groups:
        cards = []
        for member in members:
            picture, error = load_picture(member.path, model)
            if error:
                failed.append(error)
            unlike = UNLIKE if current().outside(member.path) else ""
            note = " · ".join(filter(None, [member.note, unlike]))
            verdict: Literal["", "right"] = "right" if member.kept else ""
            cards.append(html_page.Card(picture, Path(member.path).name, note, verdict=verdict))
        sections.append(html_page.cards(cards, heading))
    intro = picture_title(model)
    if remarks := current().remarks():
        intro = " ".join([f"{intro}.", *(f"Beware: {remark}." for remark in remarks)])
    write(path, html_page.page(title, intro, sections))
    print_saved(path)
    return failed


def load_picture(
    path: str, model: Model, heatmap_text: str | None = None
) -> tuple[Any, ImageError | None]:
    """A photo of an index, with the heatmap of a text drawn over it if one is given; or an empty
    picture and the error, where it cannot be opened."""
    from patchword.index.members import content_or_path
    from patchword.show import plots

    try:
        source = content_or_path(path)
        if heatmap_text is None:
            return model.opener(source, at_least=plots.TILE), None
        heatmap = model.heatmap(source, heatmap_text)
        if not heatmap.found[0]:
            return heatmap.image, None
        return plots.overlay(heatmap.image, heatmap.values[0]), None
    except ImageError as error:
        return plots.empty(), ImageError(path, error.reason)
