"""How the hits of searches are printed and saved."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
    """What one query found. title: of its pictures; query: its words, where there are several."""

    title: str
    query: str
    answers: list[Reranked[Hit]]
    reranked: bool
    first: int = 1  # rank of the first answer


def print_hits(found: Sequence[QueryHits], failed: list[ImageError], as_json: bool) -> None:
    """A table for each query, or JSON Lines with those of `failed` that are not among the hits
    first."""
    from patchword.index.members import gone

    paths = {each.hit.path for one in found for each in one.answers}
    lost = {path for path in paths if gone(path)}
    for error in failed if as_json else ():
        if error.image not in paths:
            emit({"image": error.image, "error": error.reason})
    for one in found:
        if not as_json and len(found) > 1:
            screen().print(f"\n{one.query}" if one is not found[0] else one.query)
        if as_json:
            for rank, each in enumerate(one.answers, start=one.first):
                asked = {"query": one.query} if len(found) > 1 else {}
                emit(asked | _record(rank, each, one.reranked, lost))
        elif one.answers:
            screen().print(hits_table(one, lost))
        if not one.answers:
            notes().print(f"nothing found for {one.query!r}" if len(found) > 1 else "nothing found")


def _record(
    rank: int, each: Reranked[Hit], reranked: bool, lost: Collection[str]
) -> dict[str, object]:
    match = {"match": each.probability} if reranked else {}
    found = {"rank": rank, "image": each.hit.path, "cosine": each.hit.score}
    since = {"gone": True} if each.hit.path in lost else {}
    return found | match | {"modified": each.hit.modified.isoformat(), "id": each.hit.id} | since


def hits_table(found: QueryHits, lost: Collection[str]) -> Table:
    """Rank, match where hits were reranked, cosine and path of each hit; lost: those whose files
    are gone."""
    heading, names = heading_and_names(from_here([each.hit.path for each in found.answers]))
    match = ("match",) * found.reranked
    out = table("", *match, "cosine", heading, right=("", "match", "cosine"))
    for rank, (each, name) in enumerate(zip(found.answers, names, strict=True), start=found.first):
        hit = each.hit
        sure = "–" if each.probability is None else share(each.probability)
        cells = [sure] * found.reranked
        name += " (gone)" if hit.path in lost else ""
        out.add_row(str(rank), *cells, f"{hit.score:.3f}", name)
    return out


def from_here(paths: list[str]) -> list[str]:
    """Paths as one sees them from the current folder: below it, or below a link in it."""
    links: dict[str, str] = {}
    with suppress(OSError), os.scandir() as entries:  # one that is gone, or that may not be read
        links = {os.path.realpath(e.path): e.name for e in entries if e.is_symlink()}
    places = {**links, os.path.realpath("."): ""}
    out = []
    for path in paths:
        place = next((p for p in places if path.startswith(os.path.join(p, ""))), None)
        out.append(path if place is None else os.path.join(places[place], path[len(place) + 1 :]))
    return out


def save_hits(
    found: Sequence[QueryHits], path: Path, model: Model, texts: Sequence[str | None]
) -> list[ImageError]:
    """The hits of each query as a picture, or as a page with a part for each; the errors of those
    whose file is gone since or cannot be opened, in whose place an empty picture stands. texts: of
    which a heatmap is drawn over each hit, one for each query."""
    import numpy as np

    from patchword.show import html_page, plots

    failed: list[ImageError] = []
    page = path.suffix.lower() == ".html"
    # of one query at a time, so that no more photos are in memory
    each = (_cards(*both, model, page, failed) for both in zip(found, texts, strict=True))
    titles = [one.title for one in found]
    if page:
        several = len(found) > 1
        title = f"{len(found)} searches" if several else titles[0]
        sections = (
            html_page.cards(cards, name * several) for cards, name in zip(each, titles, strict=True)
        )
        write(path, html_page.pieces(title, picture_title(model), sections))
    else:
        pictures = [
            plots.search_panel(
                [np.asarray(card.picture) for card in cards],
                [card.title for card in cards],
                [card.note for card in cards],
                picture_title(model, name),
            )
            for cards, name in zip(each, titles, strict=True)
        ]
        plots.save(plots.stacked(pictures), path)
    print_saved(path)
    return failed


def _cards(
    one: QueryHits, text: str | None, model: Model, page: bool, failed: list[ImageError]
) -> list[Card]:
    """A card for each hit of a query, for a page or a picture; the errors of those that cannot be
    opened are added to `failed`. text: of which a heatmap is drawn over each."""
    from patchword.show.html_page import Card

    out = []
    for rank, each in enumerate(one.answers, start=one.first):
        match = "" if each.probability is None else f" · {matched(each.probability)}"
        photo, error = load_picture(each.hit.path, model, text)
        failed += [error] if error else []
        name = Path(each.hit.path).name + (" (cannot be opened)" if error else "")
        unlike = f" · {UNLIKE}" * (each.hit.outside and page)
        note = f"rank {rank} · cosine {each.hit.score:.3f}{match}{unlike}"
        out.append(Card(photo, name, note))
    return out


class Member(NamedTuple):
    """A photo of a group on a page. note: under its name; kept: marked as what is kept."""

    path: str
    note: str = ""
    kept: bool = False


PageGroup = tuple[str, Sequence[Member]]  # its heading, and what is in it


def check_page(path: Path | None) -> None:
    """Refuse, before any work is done, a name that is not of a page."""
    check_save(path, pages=True)
    if path is not None and path.suffix.lower() != ".html":
        refuse(f"--save {path}: the name must end in .html")


def save_groups(
    title: str, groups: Sequence[PageGroup], path: Path, model: Model
) -> list[ImageError]:
    """A page of groups of photos; the errors of those that cannot be opened, as of `save_hits`."""
    from patchword.show import html_page

    failed: list[ImageError] = []
    bodies = []
    for heading, members in groups:
        items = []
        for each in members:
            photo, error = load_picture(each.path, model)
            failed += [error] if error else []
            name = Path(each.path).name
            notes = [each.note, UNLIKE * current().outside(each.path)]
            note = " · ".join(filter(None, notes))
            items.append(html_page.Card(photo, name, note, verdict="right" if each.kept else ""))
        bodies.append(html_page.cards(items, heading))
    beware = [f"Beware: {each}." for each in current().remarks()]
    intro = " ".join([picture_title(model) + "." * bool(beware), *beware])
    write(path, html_page.page(title, intro, bodies))
    print_saved(path)
    return failed


def load_picture(path: str, model: Model, text: str | None = None) -> tuple[Any, ImageError | None]:
    """A photo of an index to draw, with the heatmap of a text over it where one is given; an empty
    one where it cannot be opened, and why."""
    from patchword.index.members import content_or_path
    from patchword.show import plots

    try:
        source = content_or_path(path)
        if text is None:
            return model.opener(source, at_least=plots.TILE), None
        found = model.heatmap(source, text)
        drawn = found.values[0] if found.found[0] else None
        return found.image if drawn is None else plots.overlay(found.image, drawn), None
    except ImageError as error:
        return plots.empty(), ImageError(path, error.reason)
