"""index, search: a store of image vectors on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.common import (
    EMBEDDED,
    KEEP_ALL,
    DeviceOption,
    JsonOption,
    LongTextOption,
    ModelOption,
    SaveOption,
    check_save,
    emit,
    finish,
    load,
    notes,
    progress,
    said_saved,
    screen,
    shortened,
    table,
    warnings_said,
    wrong,
)
from patchword.errors import ImageError

if TYPE_CHECKING:
    from rich.table import Table

    from patchword.index import Hit


def index(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATHS]", help="Image files and folders of them, at any depth."),
    ] = None,
    into: Annotated[Path, typer.Option(help="The index, a folder; made if need be.")] = Path(
        "patchword.index"
    ),
    prune: Annotated[
        bool, typer.Option("--prune", help="Drop the entries of files that are gone.")
    ] = False,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
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
        bundle = load(model, device)
        with progress("index") as advance:
            report = store.add(paths, bundle, progress=advance)
        added, unchanged, failed = report.added, report.unchanged, report.failed
    pruned = store.prune() if prune else []
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
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", "-i", help="An image to look for, with or without words."),
    ] = None,
    condition: Annotated[
        str | None,
        typer.Option(
            "--where",
            help="On path and modified: “path LIKE '%hat%' AND modified > date '2026-01-31'”.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many images.")] = 10,
    long_text: LongTextOption = "truncate",
    save: SaveOption = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="By default the model of the index.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find images by words, by an image, or by both."""
    if not query and not image:
        wrong("give words to look for, or --image")
    check_save(save, pages=True)
    from patchword.index import open_index

    store = open_index(index)
    bundle = load(model or store.model_name, device)
    with warnings_said(KEEP_ALL):
        hits = store.search(
            query, k, image=image, where=condition, model=bundle, long_text=long_text
        )
    for rank, hit in enumerate(hits, start=1):
        if as_json:
            modified = hit.modified.isoformat()
            emit({"rank": rank, "path": hit.path, "score": hit.score, "modified": modified})
    if hits and not as_json:
        screen().print(hits_table(hits))
    if not hits:
        notes().print("nothing found")
    if hits and save:
        _save_hits(hits, " + ".join(filter(None, [query, image])), save)


def hits_table(hits: list[Hit]) -> Table:
    """Rank, score, path and date of each hit."""
    heading, names = shortened([hit.path for hit in hits])
    out = table("", "score", heading, "modified", right=("", "score"))
    for rank, (hit, name) in enumerate(zip(hits, names, strict=True), start=1):
        out.add_row(str(rank), f"{hit.score:.3f}", name, f"{hit.modified:%Y-%m-%d}")
    return out


def _save_hits(hits: list[Hit], title: str, path: Path) -> None:
    """The hits as a picture or a page; one whose file is gone since is left out and named."""
    from patchword import images, plots, report

    photos, captions, failed = [], [], []
    for rank, hit in enumerate(hits, start=1):
        try:
            photos.append(images.open(hit.path, at_least=plots.TILE))
            captions.append(f"{rank}  {hit.score:.3f}  {Path(hit.path).name}")
        except ImageError as error:
            failed.append(error)
    if path.suffix.lower() == ".html":
        items = [report.Card(p, c) for p, c in zip(photos, captions, strict=True)]
        report.write(path, report.page(title, "", [report.cards(items)]))
    else:
        plots.search_panel(photos, captions, title).save(path)
    said_saved(path)
    finish(failed, len(photos))


COMMANDS = (index, search)
