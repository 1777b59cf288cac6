"""index: a store of image vectors on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from patchword.cli.index_columns import add_captions, add_metadata, add_tags
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
from patchword.cli.output import (
    complain,
    emit,
    finish,
    make_folder,
    notes,
    progress,
    screen,
    stderr,
    warn,
    wrong,
)
from patchword.cli.search import explained
from patchword.cli.texts import read_list
from patchword.errors import ImageError, PatchwordError, counted

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.index import Index


class How(NamedTuple):
    """The options of `Index.add`."""

    thumbnails: bool
    retry: bool
    reindex: bool
    ray: str | None


class Done(NamedTuple):
    """What was done: counts by their names in JSON, and the errors of images that were tried."""

    counts: dict[str, int]
    failed: list[ImageError]


def index(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES]...",
            help="Image files, folders, glob patterns; .tar files (webdataset); tables (.csv, "
            ".tsv, .parquet) with a column of paths, addresses or images; folders of "
            "clip-retrieval's or autofaiss's vectors; @FILE: names, one a line.",
        ),
    ] = None,
    into: Annotated[
        str,
        typer.Option(
            metavar="INDEX",
            help="The index, a folder or s3://bucket/name; made if it is not there.",
        ),
    ] = "patchword.index",
    metadata: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="TABLE",
            help="A .csv, .tsv or .parquet, whose columns are stored for the images that its "
            "column of paths or file names names; repeat for more.",
        ),
    ] = None,
    caption: Annotated[
        bool, typer.Option("--caption", help="Store a caption of each image that has none.")
    ] = False,
    captioner: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A BLIP that captions, for --caption. By default the index's own model, or "
            "demo-blip where that is demo.",
        ),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option(
            "--tags",
            metavar="LABELS",
            help="Store for each image without tags those of these labels that it probably shows: "
            "“cat, dog”; @FILE: one a line.",
        ),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy",
            help="Vectors (N, D) that --model made elsewhere, for the images of --paths.",
        ),
    ] = None,
    paths_file: Annotated[
        Path | None,
        typer.Option("--paths", metavar="FILE", help="The N paths of --vectors, one a line."),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Go on until Ctrl-C: add what is new, remove what is deleted."
        ),
    ] = False,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Try files again that failed and have not changed since."),
    ] = False,
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
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Keep what is whole of a damaged index, and drop the rest."),
    ] = False,
    no_thumbnails: Annotated[
        bool,
        typer.Option("--no-thumbnails", help="Store no small JPEG of each image, for pages."),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|local|ADDRESS",
            help="Embed on a cluster of Ray: the one that this machine is part of, a new one of "
            "this machine alone, or the one at an address. All its machines must see the images, "
            "the index and the model.",
        ),
    ] = None,
    stretch: StretchOption = False,
    squash: SquashOption = False,
    max_pixels: MaxPixelsOption = None,
    model: ModelOption = EMBEDDED,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Embed images into an index; only new and changed files are opened.

    Interrupted, it continues where it stopped when it is run again. Files that could not be read
    are kept with the reason, and tried again when they change.
    """
    asked = bool(paths or prune or vectors or metadata or caption or tags)
    if not (asked or repair):
        wrong(
            "give files or folders to index, or --prune, --metadata, --caption, --tags, --vectors, "
            "--repair"
        )
    if (reindex or watch or retry) and not paths:
        wrong("--reindex, --watch and --retry need the files or folders to index")
    if (vectors is None) != (paths_file is None):
        wrong("--vectors and --paths belong together")
    if captioner and not caption:
        wrong("--captioner needs --caption")
    if ray and (watch or vectors or not paths):
        wrong(
            "--ray embeds the files or folders that are given; it goes without --watch, --vectors"
        )
    if ray and device != "auto":
        wrong("--device is for this machine; each worker of --ray takes the GPU that it is given")
    from patchword.api import open_index
    from patchword.index.location import is_remote

    if not is_remote(into):
        make_folder(Path(into), itself=True)
    store = open_index(into)
    if repair:
        _repair(store, into, as_json)
        if not asked:
            return
    names = files_and_folders(paths or [])
    labels = read_list(tags, split=True)
    bundle = None
    if names or vectors or (labels and model != EMBEDDED):
        bundle = load(model, device, dtype, stretch, max_pixels, squash)
    elif labels:  # the index's own model, as with --caption
        bundle = load(store.model_name, device, **{"dtype": dtype, **store.options})
    how = How(not no_thumbnails, retry, reindex, ray)
    done = _stored(store, names, vectors, paths_file, bundle, how)
    for table in metadata or ():
        add_metadata(store, table)
    failed = done.failed
    if caption:
        failed += add_captions(store, captioner, device, dtype)
    if labels and bundle:
        add_tags(store, labels, bundle)
    pruned = store.prune() if prune and (len(store) or not names) else []
    done.counts["pruned"] = len(pruned)
    if names and not (any(done.counts.values()) or failed):
        raise PatchwordError(f"no images in {', '.join(map(str, names))}")
    _print(store, into, done, prune, as_json)
    if len(store) and store.approximate_due():
        notes().print(
            f"{into}: makes searches of {counted(len(store), 'image')} approximate, and fast"
        )
        store.build_approximate(bundle)
        notes().print(explained(store.explain()))
    if watch and bundle:
        for error in failed:
            complain(str(error))
        _watch(store, into, names, bundle, not no_thumbnails)
    finish(failed, sum(done.counts.values()) - done.counts["not_retried"])
    if done.counts["not_retried"]:
        raise typer.Exit(1)


def _repair(store: Index, into: str, as_json: bool) -> None:
    found = store.repair()
    if as_json:
        emit({"index": str(into), "kept": found.kept, "of": found.of})
    elif found.kept == found.of:
        screen().print(f"{into}: all {found.kept} images are whole")
    elif found.of is None:
        screen().print(
            f"{into}: the newest version cannot be read; {found.kept} images of the one before are "
            "whole and kept; index your files again for what changed since"
        )
    else:
        screen().print(
            f"{into}: {found.kept} of {found.of} images are whole and kept; index their files "
            "again for the others"
        )


def _stored(
    store: Index,
    names: list[str],
    vectors: Path | None,
    paths_file: Path | None,
    bundle: Model | None,
    how: How,
) -> Done:
    """Add what is named, and put vectors that were made elsewhere."""
    from patchword.index.imports import vector_files

    counts = dict.fromkeys(("added", "unchanged", "moved", "pruned", "put", "not_retried"), 0)
    if bundle is None:
        return Done(counts, [])
    folders = [name for name in names if vector_files(name)]
    images = [name for name in names if name not in folders]
    failed: list[ImageError] = []
    if images:
        try:
            with progress("index") as advance:
                report = store.add(images, bundle, advance, **how._asdict())
        except KeyboardInterrupt:
            warn(f"interrupted; images in {store.path}: {len(store)}; run it again to go on")
            raise
        counts |= {name: getattr(report, name) for name in ("added", "unchanged", "moved")}
        counts["not_retried"] = report.not_retried
        failed = report.failed[: len(report.failed) - report.not_retried]
    for number, folder in enumerate(folders):
        anew = how.reindex and not images and not number
        counts["put"] += store.take_over(folder, bundle, reindex=anew)
    if vectors and paths_file:
        counts["put"] += _put(store, vectors, paths_file, bundle)
    return Done(counts, failed)


def _put(store: Index, vectors: Path, paths_file: Path, bundle: Model) -> int:
    from patchword.index.imports import open_array
    from patchword.text.lines import list_lines

    rows = open_array(vectors)
    names = list_lines(paths_file)
    there = store.put(names, rows, bundle)
    if there < len(names):
        warn(f"{len(names) - there} of {len(names)} paths name no file that is here")
    return len(names)


def _print(store: Index, into: str, done: Done, prune: bool, as_json: bool) -> None:
    counts, failed = done
    lost = len(store.gone()) if len(store) else 0
    left = counts["not_retried"]
    if as_json:
        for error in failed:
            emit({"image": error.image, "error": error.reason})
        rest = {"gone": lost, "failed": len(failed), "images": len(store)}
        emit({"index": str(into), **counts, **rest})
    else:
        always = {"added", "unchanged", *(["pruned"] * prune)}
        shown = {name: counts[name] for name in ("added", "unchanged", "moved", "put", "pruned")}
        parts = [f"{count} {name}" for name, count in shown.items() if count or name in always]
        parts += [f"{len(failed)} failed"] * bool(failed)
        parts += [f"{left} failed before"] * bool(left)
        parts += [f"{lost} gone: --prune"] * bool(lost)
        screen().print(f"{into}: {counted(len(store), 'image')} ({', '.join(parts)})")
    if left:
        stderr().print(
            f"{counted(left, 'file')} that failed before, unchanged, not tried again: --retry"
        )


def _watch(store: Index, into: str, names: list[str], bundle: Model, thumbnails: bool) -> None:
    """Keep the index up to date until Ctrl-C."""
    from patchword.index.watching import changes

    notes().print("watching; Ctrl-C ends")
    try:
        for change in changes(store, names, bundle, thumbnails):
            report = change.report
            counts = {"added": report.added, "moved": report.moved, "removed": len(change.removed)}
            said = [f"{count} {name}" for name, count in counts.items() if count]
            if said:
                screen().print(f"{into}: {counted(len(store), 'image')} ({', '.join(said)})")
            new = report.failed[: len(report.failed) - report.not_retried]
            for error in new:
                complain(str(error))
            for folder in change.missing:
                warn(f"nothing of {folder} is there; its entries stay: --prune removes them")
    except KeyboardInterrupt:
        notes().print(f"{into}: {counted(len(store), 'image')}; ended")
        raise typer.Exit(0) from None


COMMANDS = (index,)
