"""dedupe: near-duplicates among the images of an index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.hits import Member, PageGroup, check_page, from_here, save_groups
from patchword.cli.indexes import (
    IndexArgument,
    OwnDtypeOption,
    OwnModelOption,
    WhereOption,
    index_and_model,
)
from patchword.cli.options import DeviceOption, JsonOption
from patchword.cli.output import (
    emit,
    finish,
    notes,
    progress,
    screen,
    shortened,
)
from patchword.errors import ImageError, counted
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from patchword.index import Copy, Group, Index

SHOWN = 200  # groups in a page
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def dedupe(
    index: IndexArgument,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Group what the model finds alike, copy or not, from this cosine on. By default "
            "the pictures themselves are compared.",
        ),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            metavar="largest|oldest|first",
            help="Which of a group to keep: that of the most pixels, the oldest file, or the first "
            "by path.",
        ),
    ] = "largest",
    condition: WhereOption = None,
    delete: Annotated[
        bool,
        typer.Option(
            "--delete-files",
            help="Delete the files of all but the one to keep, and their entries. Without it "
            "nothing is deleted.",
        ),
    ] = False,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save a page (.html) of the groups.")
    ] = None,
    model: OwnModelOption = None,
    device: DeviceOption = "auto",
    dtype: OwnDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find near-duplicates, in groups: one to keep, and copies of it.

    Copies are the same photo resized, compressed anew, or cropped by a few percent.
    """
    check_page(save)
    store, bundle, failed = index_and_model(index, model, device, dtype, texts_alone=True)
    from patchword.index.duplicates import ids_of
    from patchword.index.searching import warn_of_rows

    store.check(bundle)
    with progress("dedupe") as advance:
        found = store.duplicates(threshold, keep=keep, where=condition, progress=advance)
    warn_of_rows(store, bundle, ids_of(found))
    _print(found, as_json)
    others = [each for group in found for each in group.others]
    if save and found:
        shown = [_of_page(number, group) for number, group in enumerate(found[:SHOWN], 1)]
        failed += save_groups("Near-duplicates", shown, save, bundle)
    deleted: list[str] = []
    if delete:
        deleted, stayed = _delete(store, found)
        failed += stayed
    kind = f"{counted(len(deleted), 'file')} deleted" if deleted else "nothing is deleted"
    groups, spare = counted(len(found), "group"), counted(len(others), "image")
    notes().print(f"{groups}, {spare} besides those to keep; {kind}")
    finish(failed, len(store) or 1)


def _print(found: Sequence[Group], as_json: bool) -> None:
    """A row, or a JSON record, for each image, group by group, that to keep first."""
    members = [
        (number, each, each is group.keep)
        for number, group in enumerate(found, 1)
        for each in (group.keep, *group.others)
    ]
    if as_json:
        for number, each, kept in members:
            emit({
                "group": number, "keep": kept, "image": each.path, "cosine": each.score,
                "size": each.size, "width": each.width, "height": each.height,
                "modified": each.modified.isoformat(), "id": each.id,
            })  # fmt: skip
    elif members:
        heading, names = shortened(from_here([each.path for _, each, _ in members]))
        out = table("group", "", "cosine", "pixels", "bytes", heading, right=("cosine", "bytes"))
        for (number, each, kept), name in zip(members, names, strict=True):
            pixels = f"{each.width} x {each.height}" if each.width else "–"
            score = "" if kept else f"{each.score:.3f}"
            out.add_row(str(number), "keep" * kept, score, pixels, str(each.size), name)
        screen().print(out)


def _delete(store: Index, found: Sequence[Group]) -> tuple[list[str], list[ImageError]]:
    """Delete the files of groups but those to keep, and their entries. Returns their paths, and an
    error for each that stays, see `_stays`."""
    deleted, failed = [], []
    for group in found:
        for each in group.others:
            try:
                if why := _stays(store, group.keep, each):
                    raise OSError(0, why)
                os.unlink(each.path)
                deleted.append(each.path)
            except OSError as error:
                failed.append(ImageError(each.path, f"not deleted: {error.strerror}"))
    if deleted:
        store.remove(deleted)
    return deleted, failed


def _stays(store: Index, keep: Copy, other: Copy) -> str:
    """Why a file is not deleted: it is inside another file or has changed since it was indexed; or
    the one to keep has, is gone, or is the same file under another name. "" where it may be."""
    from patchword.index import members

    if not os.path.isfile(other.path):
        return "no such file, or inside another file"
    if not _same(store, other):
        return "changed since it was indexed; index again"
    if members.gone(keep.path):
        return f"{keep.path}, which is to be kept, is gone; index again, with --prune"
    if not os.path.isfile(keep.path):  # inside a file, or at an address
        return ""
    if not _same(store, keep):
        return f"{keep.path}, which is to be kept, changed since it was indexed; index again"
    one_place = os.path.realpath(keep.path) == os.path.realpath(other.path)
    links = os.stat(keep.path).st_nlink  # of several, the others stay
    if os.path.samefile(keep.path, other.path) and (one_place or links < 2):
        return f"it is the file to keep, {keep.path}, under another name"
    return ""


def _same(store: Index, entry: Copy) -> bool:
    """Whether a file is as it was indexed: its size and time, or its size and content."""
    from patchword.images.files import File, hashed

    status = os.stat(entry.path)
    time = (entry.modified - _EPOCH) // timedelta(microseconds=1)
    if status.st_size != entry.size or status.st_mtime_ns // 1000 == time:
        return status.st_size == entry.size
    now = hashed(File(entry.path, status.st_size, status.st_mtime_ns)).digest
    return bool(now) and now == store.row(entry.id, ["hash"])["hash"]


def _of_page(number: int, group: Group) -> PageGroup:
    members = []
    for each in (group.keep, *group.others):
        kept = each is group.keep
        note = f"{each.width} x {each.height}, {each.size:,} bytes"
        note = f"keep · {note}" if kept else f"cosine {each.score:.3f} · {note}"
        members.append(Member(each.path, note, kept))
    return f"Group {number}", members


COMMANDS = (dedupe,)
