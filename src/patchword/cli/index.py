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
    emit,
    finish,
    notes,
    prepare_output,
    print_error,
    progress,
    refuse,
    screen,
    stderr,
    warn,
)
from patchword.cli.search import explanation_line
from patchword.cli.texts import read_list
from patchword.errors import ImageError, PatchwordError, counted

if TYPE_CHECKING:
    from patchword.api import Model
    from patchword.index import AddReport, Index


class AddOptions(NamedTuple):
    """Options of `Index.add`."""

    thumbnails: bool
    retry: bool
    reindex: bool
    ray: str | None


class Changes(NamedTuple):
    """What a command changed in an index. counts: by their names in JSON. failed: the errors of
    images that were tried."""

    counts: dict[str, int]
    failed: list[ImageError]


def index(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES]...",
            help="Image files, folders, glob patterns; .tar files (webdataset); tables (.csv, "
            ".tsv, .parquet) with a column of paths, addresses or images; folders with "
            "vectors of clip-retrieval or autofaiss; @FILE: a file with one name per line.",
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
            help="A .csv, .tsv or .parquet with a column of paths or file names; its other "
            "columns are stored with these images. Repeat for more.",
        ),
    ] = None,
    caption: Annotated[
        bool, typer.Option("--caption", help="Store a caption of each image that has none.")
    ] = False,
    captioner: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The BLIP that writes captions, for --caption. By default the model of the "
            "index, or demo-blip where that is demo.",
        ),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option(
            "--tags",
            metavar="LABELS",
            help="For each image without tags, store those of these labels that it probably "
            'shows: "cat, dog"; @FILE reads one label per line.',
        ),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy",
            help="Vectors (N, D) of the images of --paths, which --model computed elsewhere.",
        ),
    ] = None,
    paths_file: Annotated[
        Path | None,
        typer.Option(
            "--paths", metavar="FILE", help="A file with the N paths of --vectors, one per line."
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Keep running until Ctrl-C: add new files, and remove deleted ones."
        ),
    ] = False,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry", help="Try again files that failed before, even if they have not changed."
        ),
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove entries whose files are gone.")
    ] = False,
    reindex: Annotated[
        bool,
        typer.Option(
            "--reindex",
            help="Start again: delete the content of an index of another model or version, and "
            "embed all images.",
        ),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Keep the intact entries of a damaged index, and drop the others."
        ),
    ] = False,
    no_thumbnails: Annotated[
        bool,
        typer.Option(
            "--no-thumbnails", help="Do not store a small JPEG of each image, which pages show."
        ),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|local|ADDRESS",
            help="Embed on a Ray cluster: auto, the cluster that this machine is part of; local, "
            "a new one of this machine alone; or the one at an address. All its machines "
            "must be able to read the images, the index and the model.",
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
    has_work = bool(paths or prune or vectors or metadata or caption or tags)
    if not (has_work or repair):
        refuse(
            "give files or folders to index, or --prune, --metadata, --caption, --tags, --vectors, "
            "--repair"
        )
    if (reindex or watch or retry) and not paths:
        refuse("--reindex, --watch and --retry need the files or folders to index")
    if (vectors is None) != (paths_file is None):
        refuse("--vectors and --paths belong together")
    if captioner and not caption:
        refuse("--captioner needs --caption")
    if ray and (watch or vectors or not paths):
        refuse(
            "--ray embeds the files or folders that are given; it goes without --watch, --vectors"
        )
    if ray and device != "auto":
        refuse("--device is for this machine; each worker of --ray takes the GPU that it is given")
    from patchword.api import open_index
    from patchword.index.location import is_remote

    if not is_remote(into):
        prepare_output(Path(into), is_folder=True)
    store = open_index(into)
    if repair:
        _repair(store, into, as_json)
        if not has_work:
            return
    names = files_and_folders(paths or [])
    labels = read_list(tags, split=True)
    bundle = None
    if names or vectors or (labels and model != EMBEDDED):
        bundle = load(model, device, dtype, stretch, max_pixels, squash)
    elif labels:  # the index's own model, as with --caption
        bundle = load(store.model_name, device, **{"dtype": dtype, **store.options})
    add_options = AddOptions(not no_thumbnails, retry, reindex, ray)
    changes = _add(store, names, vectors, paths_file, bundle, add_options)
    for table in metadata or ():
        add_metadata(store, table)
    failed = changes.failed
    if caption:
        failed += add_captions(store, captioner, device, dtype)
    if labels and bundle:
        add_tags(store, labels, bundle)
    if prune and (len(store) or not names):
        changes.counts["pruned"] = len(store.prune())
    if names and not (any(changes.counts.values()) or failed):
        raise PatchwordError(f"no images in {', '.join(map(str, names))}")
    _print(store, into, changes, prune, as_json)
    if len(store) and store.approximate_due():
        notes().print(
            f"{into}: making searches of {counted(len(store), 'image')} approximate, and fast"
        )
        store.build_approximate(bundle)
        notes().print(explanation_line(store.explain()))
    if watch and bundle:
        for error in failed:
            print_error(str(error))
        _watch(store, into, names, bundle, not no_thumbnails)
    not_retried = changes.counts["not_retried"]
    finish(failed, sum(changes.counts.values()) - not_retried)
    if not_retried:
        raise typer.Exit(1)


def _repair(store: Index, into: str, as_json: bool) -> None:
    """Repair an index, and print how many of its images are kept."""
    kept, total = store.repair()
    if as_json:
        emit({"index": into, "kept": kept, "of": total})
    elif kept == total:
        screen().print(f"{into}: all {kept} images are whole")
    elif total is None:
        screen().print(
            f"{into}: the newest version cannot be read; {kept} images of the one before are "
            "whole and kept; index your files again for what changed since"
        )
    else:
        screen().print(
            f"{into}: {kept} of {total} images are whole and kept; index their files again for "
            "the others"
        )


def _add(
    store: Index,
    names: list[str],
    vectors: Path | None,
    paths_file: Path | None,
    bundle: Model | None,
    options: AddOptions,
) -> Changes:
    """Add images, vectors of other programs that are among the names, and --vectors. Without a
    model nothing is added."""
    from patchword.index.imports import vector_files

    counts = dict.fromkeys(("added", "unchanged", "moved", "pruned", "put", "not_retried"), 0)
    if bundle is None:
        return Changes(counts, [])
    vector_folders = [name for name in names if vector_files(name)]
    images = [name for name in names if name not in vector_folders]
    failed: list[ImageError] = []
    if images:
        try:
            with progress("index") as advance:
                report = store.add(images, bundle, advance, **options._asdict())
        except KeyboardInterrupt:
            warn(f"interrupted; images in {store.path}: {len(store)}; run it again to go on")
            raise
        for name in ("added", "unchanged", "moved", "not_retried"):
            counts[name] = getattr(report, name)
        failed = _tried(report)
    for number, folder in enumerate(vector_folders):
        reindex = options.reindex and not images and number == 0  # once, before anything is added
        counts["put"] += store.take_over(folder, bundle, reindex=reindex)
    if vectors and paths_file:
        counts["put"] += _put(store, vectors, paths_file, bundle)
    return Changes(counts, failed)


def _tried(report: AddReport) -> list[ImageError]:
    """The errors of images that were tried; those of earlier runs come last in a report."""
    return report.failed[: len(report.failed) - report.not_retried]


def _put(store: Index, vectors: Path, paths_file: Path, bundle: Model) -> int:
    """Store vectors that were made elsewhere. Returns how many there are."""
    from patchword.index.imports import open_array
    from patchword.text.lines import list_lines

    rows = open_array(vectors)
    names = list_lines(paths_file)
    existing = store.put(names, rows, bundle)
    if existing < len(names):
        warn(f"{len(names) - existing} of {len(names)} paths name no file on this machine")
    return len(names)


def _print(store: Index, into: str, changes: Changes, prune: bool, as_json: bool) -> None:
    """Print what was changed. prune: the number of pruned entries is shown even if it is 0."""
    counts, failed = changes
    gone = len(store.gone()) if len(store) else 0
    not_retried = counts["not_retried"]
    if as_json:
        for error in failed:
            emit({"image": error.image, "error": error.reason})
        totals = {"gone": gone, "failed": len(failed), "images": len(store)}
        emit({"index": into, **counts, **totals})
    else:
        parts = [f"{counts['added']} added", f"{counts['unchanged']} unchanged"]
        parts += [f"{counts[name]} {name}" for name in ("moved", "put") if counts[name]]
        if counts["pruned"] or prune:
            parts.append(f"{counts['pruned']} pruned")
        if failed:
            parts.append(f"{len(failed)} failed")
        if not_retried:
            parts.append(f"{not_retried} failed before")
        if gone:
            parts.append(f"{gone} gone: --prune")
        screen().print(f"{into}: {counted(len(store), 'image')} ({', '.join(parts)})")
    if not_retried:
        files = counted(not_retried, "file")
        stderr().print(f"{files} that failed before, unchanged, not tried again: --retry")


def _watch(store: Index, into: str, names: list[str], bundle: Model, thumbnails: bool) -> None:
    """Keep the index up to date until Ctrl-C."""
    from patchword.index.watching import changes

    notes().print("watching; Ctrl-C stops")
    try:
        for change in changes(store, names, bundle, thumbnails):
            report = change.report
            counts = {"added": report.added, "moved": report.moved, "removed": len(change.removed)}
            parts = [f"{count} {name}" for name, count in counts.items() if count]
            if parts:
                screen().print(f"{into}: {counted(len(store), 'image')} ({', '.join(parts)})")
            for error in _tried(report):
                print_error(str(error))
            for folder in change.missing:
                warn(
                    f"nothing in {folder} can be found; its entries are kept: --prune removes them"
                )
    except KeyboardInterrupt:
        notes().print(f"{into}: {counted(len(store), 'image')}; ended")
        raise typer.Exit(0) from None


COMMANDS = (index,)
