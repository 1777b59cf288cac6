"""index, search: a store of image vectors on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.atomic_write import write
from patchword.cli.inputs import KEEP_ALL, load
from patchword.cli.options import (
    EMBEDDED,
    EMBEDDED_BLIP,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LongTextOption,
    MaxPixelsOption,
    ModelOption,
    SaveOption,
    StretchOption,
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
from patchword.errors import ImageError, PatchwordError
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.images import Opener
    from patchword.index import Hit
    from patchword.tasks.match import Reranked


def index(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATHS]...", help="Image files, and folders that are searched at any depth."
        ),
    ] = None,
    into: Annotated[
        Path, typer.Option(metavar="INDEX", help="The index, a folder; made if it is not there.")
    ] = Path("patchword.index"),
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove entries whose files are gone.")
    ] = False,
    stretch: StretchOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Embed images into an index; only new and changed files are opened.

    Interrupted, it continues where it stopped when it is run again.
    """
    if not paths and not prune:
        wrong("give files or folders to index, or --prune")
    from patchword.index import open_index

    store = open_index(into)
    added, unchanged, failed = 0, 0, []
    if paths:
        bundle = load(model, device, dtype, None, stretch, max_pixels)
        with progress("index") as advance:
            report = store.add(paths, bundle, progress=advance)
        added, unchanged, failed = report.added, report.unchanged, report.failed
    pruned = store.prune() if prune and (len(store) or not paths) else []
    if paths and not (added or unchanged or failed or pruned):
        raise PatchwordError(f"no images in {', '.join(map(str, paths))}")
    if as_json:
        counts = {"added": added, "unchanged": unchanged, "pruned": len(pruned)}
        emit({"index": str(into), **counts, "failed": len(failed), "images": len(store)})
    else:
        parts = [f"{added} added", f"{unchanged} unchanged"]
        parts += [f"{len(pruned)} pruned"] * prune
        parts += [f"{len(failed)} failed"] * bool(failed)
        screen().print(f"{into}: {len(store)} images ({', '.join(parts)})")
    finish(failed, added + unchanged + len(pruned))


def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="The index, a folder.")],
    query: Annotated[
        str | None, typer.Argument(metavar="[QUERY]", help="What to look for, in words.")
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
    if not query and not image:
        wrong("give words to look for, or --image")
    if reranker and not rerank:
        wrong("--reranker needs --rerank N, the number of hits to rerank")
    if rerank and not query:
        wrong("--rerank needs words to look for")
    check_save(save, pages=True)
    from patchword.index import open_index
    from patchword.tasks.match import Reranked, matcher

    store = open_index(index)
    if model:
        bundle = load(model, device, dtype or "float32")
    else:
        options = store.options | ({"dtype": dtype} if dtype else {})
        bundle = load(store.model_name, device, **{"dtype": "float32", **options})
    reranker = reranker or (EMBEDDED_BLIP if bundle.name == EMBEDDED else None)
    judge = load(reranker, device, dtype or "float32") if rerank and reranker else bundle
    if rerank:
        matcher(judge)
    with warnings_said(KEEP_ALL):
        hits = store.search(
            query, max(k, rerank), image=image, where=condition, model=bundle, long_text=long_text
        )
    answers = [Reranked(hit, None) for hit in hits]
    if rerank and query:
        with warnings_said():
            answers = judge.rerank(hits, query, rerank)
    failed = [each.error for each in answers if each.error]
    answers = answers[:k]
    if as_json:
        for rank, each in enumerate(answers, start=1):
            emit(_record(rank, each, rerank > 0))
    elif answers:
        screen().print(hits_table(answers, rerank > 0))
    if not answers:
        notes().print("nothing found")
    if answers and save:
        failed += _save_hits(answers, " + ".join(filter(None, [query, image])), save, bundle.opener)
    finish(list({error.image: error for error in failed}.values()), len(answers))


def _record(rank: int, each: Reranked[Hit], reranked: bool) -> dict[str, object]:
    match = {"match": each.probability} if reranked else {}
    found = {"rank": rank, "path": each.hit.path, "score": each.hit.score}
    return found | match | {"modified": each.hit.modified.isoformat()}


def hits_table(answers: list[Reranked[Hit]], reranked: bool) -> Table:
    """Rank, match where hits were reranked, score, path and date of each hit."""
    heading, names = shortened([each.hit.path for each in answers])
    match = ("match",) * reranked
    out = table("", *match, "score", heading, "modified", right=("", "match", "score"))
    for rank, (each, name) in enumerate(zip(answers, names, strict=True), start=1):
        hit = each.hit
        found = "–" if each.probability is None else f"{each.probability:.1%}"
        cells = [found] * reranked
        out.add_row(str(rank), *cells, f"{hit.score:.3f}", name, f"{hit.modified:%Y-%m-%d}")
    return out


def _save_hits(
    answers: list[Reranked[Hit]], title: str, path: Path, opener: Opener
) -> list[ImageError]:
    """The hits as a picture or a page; the errors of those whose file is gone since, which are left
    out."""
    from patchword.show import html_page, plots

    photos, captions, failed = [], [], []
    for rank, each in enumerate(answers, start=1):
        hit = each.hit
        match = "" if each.probability is None else f"{each.probability:.1%}  "
        try:
            photos.append(opener(hit.path, at_least=plots.TILE))
            captions.append(f"{rank}  {match}{hit.score:.3f}  {Path(hit.path).name}")
        except ImageError as error:
            failed.append(error)
    if path.suffix.lower() == ".html":
        items = [html_page.Card(p, c) for p, c in zip(photos, captions, strict=True)]
        write(path, html_page.page(title, "", [html_page.cards(items)]))
    else:
        plots.save(plots.search_panel(photos, captions, title), path)
    print_saved(path)
    return failed


COMMANDS = (index, search)
