"""search: the images of an index, or of a folder, by words and images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.atomic_write import write
from patchword.cli.held import Source
from patchword.cli.inputs import KEEP_ALL, expand, load
from patchword.cli.options import (
    EMBEDDED,
    EMBEDDED_BLIP,
    DeviceOption,
    JsonOption,
    LongTextOption,
    SaveOption,
)
from patchword.cli.output import (
    check_save,
    emit,
    finish,
    notes,
    print_saved,
    progress,
    screen,
    shortened,
    warnings_said,
    wrong,
)
from patchword.cli.program import command
from patchword.errors import ImageError, PatchwordError
from patchword.show.percent import matched, share
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.api import Model
    from patchword.images import Opener
    from patchword.index import Hit, Index
    from patchword.tasks.match import Reranked


def search(
    index: Annotated[
        Path,
        typer.Argument(
            metavar="INDEX", help="The index, a folder; or a folder of images, indexed on the way."
        ),
    ],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[QUERY]", help="What to look for, in words.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", "-t", metavar="QUERY", help="The same as the argument QUERY."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", "-i", metavar="IMAGE", help="An image to look for, with or without words."
        ),
    ] = None,
    condition: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Only images that meet it: “path LIKE '%hat%' AND modified > date '2026-01-31'”.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, metavar="K", help="Number of images.")] = 10,
    rerank: Annotated[
        int, typer.Option(min=0, help="Rerank the N best with a model that matches; 0 is off.")
    ] = 0,
    reranker: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A BLIP with a matching head, for --rerank. By default the index's own model, or "
            "demo-blip where that is demo.",
        ),
    ] = None,
    long_text: LongTextOption = "truncate",
    save: SaveOption = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="By default the model of the index."),
    ] = None,
    device: DeviceOption = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="float32|bfloat16|float16",
            help="Number type of the weights; by default that of the index.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find images by words, by an image, or by both.

    The score is a cosine of vectors. With --rerank, a BLIP with a matching head reorders the best
    hits by the probability that image and query belong together.
    """
    if words and text:
        wrong("give the words to look for once")
    query = text or " ".join(words or ()) or None
    if not query and not image:
        wrong("give words to look for, or --image")
    if reranker and not rerank:
        wrong("--reranker needs --rerank N, the number of hits to rerank")
    if rerank and not query:
        wrong("--rerank needs words to look for")
    check_save(save, pages=True)
    picture = _only(image) if image else None
    from patchword.tasks.match import Reranked, matcher

    store, bundle, failed = _index_and_model(index, model, device, dtype)
    reranker = reranker or (EMBEDDED_BLIP if bundle.name == EMBEDDED else None)
    scorer = load(reranker, device, dtype or "float32") if rerank and reranker else bundle
    if rerank:
        matcher(scorer)
    with warnings_said(KEEP_ALL):
        hits = store.search(
            query, max(k, rerank), image=picture, where=condition, model=bundle, long_text=long_text
        )
    answers = [Reranked(hit, None) for hit in hits]
    if rerank and query:
        with warnings_said():
            answers = scorer.rerank(hits, query, rerank)
    failed += [each.error for each in answers if each.error]
    answers = answers[:k]
    _print_hits(answers, rerank > 0, failed, as_json)
    if answers and save:
        failed += _save_hits(answers, " + ".join(filter(None, [query, image])), save, bundle.opener)
    by_name = {error.image: error for error in failed}
    finish(list(by_name.values()), sum(each.hit.path not in by_name for each in answers))


def _only(name: str) -> Source:
    """The one image that --image names, in any of the ways of `expand`."""
    found = expand([name])
    if len(found) > 1:
        wrong(f"--image {name}: {len(found)} images; give one")
    return found[0]


def _index_and_model(
    index: Path, model: str | None, device: str, dtype: str | None
) -> tuple[Index, Model, list[ImageError]]:
    """The index to search and its model; of a folder, also the errors of images not indexed."""
    from patchword.index import open_index

    if index.is_dir() and not any(index.glob("*.lance")):
        bundle = load(model or EMBEDDED, device, dtype or "float32")
        store, failed = index_of(index, bundle)
        return store, bundle, failed
    store = open_index(index)
    if model:
        return store, load(model, device, dtype or "float32"), []
    options = store.options | ({"dtype": dtype} if dtype else {})
    return store, load(store.model_name, device, **{"dtype": "float32", **options}), []


def index_of(folder: Path, model: Model) -> tuple[Index, list[ImageError]]:
    """The index of a folder of images, brought up to date, and the errors of images that are not
    in it. It is kept in the user's cache, one for each folder and model."""
    from patchword.index import open_index
    from patchword.index.schema import FORMAT
    from patchword.tasks import label_cache

    real = os.path.realpath(folder)
    mark = hashlib.sha256(f"{real}\0{model.fingerprint}\0{FORMAT}".encode(errors="surrogateescape"))
    place = label_cache.folder().parent / "indexes" / f"{Path(real).name}-{mark.hexdigest()[:12]}"
    if not place.exists():
        own = command("index", str(folder), "--into", "photos.index")
        notes().print(f"makes an index in {place} ($PATCHWORD_CACHE); in a place of yours: {own}")
    store = open_index(place)
    with progress("index") as advance:
        report = store.add(folder, model, progress=advance)
    if not len(store) and not report.failed:
        raise PatchwordError(f"{folder}: neither an index nor a folder with images in it")
    pruned = len(store.prune()) if len(store) else 0
    if report.added or pruned:
        counts = f"{report.added} added, {report.unchanged} unchanged, {pruned} pruned"
        notes().print(f"{folder} is indexed in {place}: {len(store)} images ({counts})")
    if not len(store):
        finish(report.failed, 0)
    return store, report.failed


def _print_hits(
    answers: list[Reranked[Hit]], reranked: bool, failed: list[ImageError], as_json: bool
) -> None:
    """A table, or JSON Lines with those of `failed` that are not among the hits first."""
    from patchword.index.inside import gone

    lost = {each.hit.path for each in answers if gone(each.hit.path)}
    if as_json:
        shown = {each.hit.path for each in answers}
        for error in failed:
            if error.image not in shown:
                emit({"image": error.image, "error": error.reason})
        for rank, each in enumerate(answers, start=1):
            emit(_record(rank, each, reranked, lost))
    elif answers:
        screen().print(hits_table(answers, reranked, lost))
    if not answers:
        notes().print("nothing found")


def _record(
    rank: int, each: Reranked[Hit], reranked: bool, lost: Collection[str]
) -> dict[str, object]:
    match = {"match": each.probability} if reranked else {}
    found = {"rank": rank, "image": each.hit.path, "cosine": each.hit.score}
    since = {"gone": True} if each.hit.path in lost else {}
    return found | match | {"modified": each.hit.modified.isoformat()} | since


def hits_table(answers: list[Reranked[Hit]], reranked: bool, lost: Collection[str]) -> Table:
    """Rank, match where hits were reranked, cosine and path of each hit; lost: those whose files
    are gone."""
    heading, names = shortened(_from_here([each.hit.path for each in answers]))
    match = ("match",) * reranked
    out = table("", *match, "cosine", heading, right=("", "match", "cosine"))
    for rank, (each, name) in enumerate(zip(answers, names, strict=True), start=1):
        hit = each.hit
        found = "–" if each.probability is None else share(each.probability)
        cells = [found] * reranked
        name += " (gone)" if hit.path in lost else ""
        out.add_row(str(rank), *cells, f"{hit.score:.3f}", name)
    return out


def _from_here(paths: list[str]) -> list[str]:
    """Paths as one sees them from the current folder: below it, or below a link in it."""
    with os.scandir() as entries:
        links = {os.path.realpath(e.path): e.name for e in entries if e.is_symlink()}
    places = {**links, os.path.realpath("."): ""}
    out = []
    for path in paths:
        place = next((p for p in places if path.startswith(os.path.join(p, ""))), None)
        out.append(path if place is None else os.path.join(places[place], path[len(place) + 1 :]))
    return out


def _save_hits(
    answers: list[Reranked[Hit]], title: str, path: Path, opener: Opener
) -> list[ImageError]:
    """The hits as a picture or a page; the errors of those whose file is gone since or cannot be
    opened, in whose place an empty picture stands."""
    from patchword.show import html_page, plots

    photos, names, ranks, failed = [], [], [], []
    for rank, each in enumerate(answers, start=1):
        hit = each.hit
        name = Path(hit.path).name
        match = "" if each.probability is None else f" · {matched(each.probability)}"
        try:
            photos.append(opener(hit.path, at_least=plots.TILE))
        except ImageError as error:
            photos.append(plots.empty())
            name += " (cannot be opened)"
            failed.append(error)
        names.append(name)
        ranks.append(f"rank {rank} · cosine {hit.score:.3f}{match}")
    if path.suffix.lower() == ".html":
        items = [html_page.Card(p, n, r) for p, n, r in zip(photos, names, ranks, strict=True)]
        write(path, html_page.page(title, "", [html_page.cards(items)]))
    else:
        plots.save(plots.search_panel(photos, names, ranks, title), path)
    print_saved(path)
    return failed


COMMANDS = (search,)
