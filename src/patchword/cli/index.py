"""index: a store of image vectors on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchword.cli.inputs import files_and_folders, load
from patchword.cli.options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    SquashOption,
    StretchOption,
)
from patchword.cli.output import emit, finish, make_folder, progress, screen, wrong
from patchword.errors import PatchwordError


def index(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES]...",
            help="Image files, folders, glob patterns; @FILE: names, one a line.",
        ),
    ] = None,
    into: Annotated[
        Path, typer.Option(metavar="INDEX", help="The index, a folder; made if it is not there.")
    ] = Path("patchword.index"),
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove entries whose files are gone.")
    ] = False,
    reindex: Annotated[
        bool,
        typer.Option(
            "--reindex",
            help="Begin anew: delete what an index of another model or version holds, and embed "
            "all.",
        ),
    ] = False,
    thumbnails: Annotated[
        bool,
        typer.Option(" /--no-thumbnails", help="Store no small JPEG of each image, for pages."),
    ] = True,
    stretch: StretchOption = False,
    squash: SquashOption = False,
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
    if reindex and not paths:
        wrong("--reindex needs the files or folders to index")
    make_folder(into, itself=True)
    from patchword.index import open_index

    paths = files_and_folders(paths or [])
    store = open_index(into)
    added, unchanged, failed = 0, 0, []
    if paths:
        bundle = load(model, device, dtype, None, stretch, max_pixels, squash)
        with progress("index") as advance:
            report = store.add(
                paths, bundle, progress=advance, thumbnails=thumbnails, reindex=reindex
            )
        added, unchanged, failed = report.added, report.unchanged, report.failed
    pruned = store.prune() if prune and (len(store) or not paths) else []
    if paths and not (added or unchanged or failed or pruned):
        raise PatchwordError(f"no images in {', '.join(map(str, paths))}")
    lost = len(store.gone()) if len(store) else 0
    if as_json:
        for error in failed:
            emit({"image": error.image, "error": error.reason})
        counts = {"added": added, "unchanged": unchanged, "pruned": len(pruned), "gone": lost}
        emit({"index": str(into), **counts, "failed": len(failed), "images": len(store)})
    else:
        parts = [f"{added} added", f"{unchanged} unchanged"]
        parts += [f"{len(pruned)} pruned"] * prune
        parts += [f"{len(failed)} failed"] * bool(failed)
        parts += [f"{lost} gone: --prune"] * bool(lost)
        screen().print(f"{into}: {len(store)} images ({', '.join(parts)})")
    finish(failed, added + unchanged + len(pruned))


COMMANDS = (index,)
