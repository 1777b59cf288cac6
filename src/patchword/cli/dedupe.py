"""dedupe: near-duplicates among the images of an index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchword.cli.hits import Member, PageGroup, check_page, relative_to_current, save_groups
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
    heading_and_names,
    notes,
    progress,
    screen,
)
from patchword.errors import ImageError, counted
from patchword.show.terminal_table import table

if TYPE_CHECKING:
    from patchword.index import Copy, Group, Index

MAX_GROUPS = 200  # in a page
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def dedupe(
    index: IndexArgument,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Group images whose vectors have this cosine or more, copies or not. By default "
            "the pixels are compared.",
        ),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            metavar="largest|oldest|first",
            help="Which image of a group to keep: the one with the most pixels, the oldest file, "
            "or the first by path.",
        ),
    ] = "largest",
    condition: WhereOption = None,
    delete: Annotated[
        bool,
        typer.Option(
            "--delete-files",
            help="Delete all files of each group except the one to keep, and their entries. "
            "Without it nothing is deleted.",
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
    store, bundle, unread = index_and_model(index, model, device, dtype, texts_alone=True)
    from patchword.index.duplicates import ids_of
    from patchword.index.searching import warn_of_rows

    store.check(bundle)
    images = len(store)
    failed: list[ImageError] = []  # of images in the index
    with progress("dedupe") as advance:
        groups = store.duplicates(threshold, keep=keep, where=condition, progress=advance)
    warn_of_rows(store, bundle, ids_of(groups))
    _print(groups, as_json)
    if save and groups:
        shown = [_page_group(number, group) for number, group in enumerate(groups[:MAX_GROUPS], 1)]
        failed += save_groups("Near-duplicates", shown, save, bundle)
    deleted: list[str] = []
    if delete:
        deleted, errors = _delete(store, groups)
        failed += errors
    copies = counted(sum(len(group.others) for group in groups), "image")
    result = f"{counted(len(deleted), 'file')} deleted" if deleted else "nothing is deleted"
    notes().print(f"{counted(len(groups), 'group')}, {copies} besides those to keep; {result}")
    finish([*unread, *failed], max(images - len(failed), 1))


def _print(groups: Sequence[Group], as_json: bool) -> None:
    """A row, or a JSON record, for each image, group by group; the one to keep is the first of its
    group."""
    members = [
        (number, copy, copy is group.keep)
        for number, group in enumerate(groups, 1)
        for copy in (group.keep, *group.others)
    ]
    if as_json:
        for number, copy, kept in members:
            gone = {"gone": True} if copy.gone else {}
            emit({
                "group": number, "keep": kept, "image": copy.path, "cosine": copy.score,
                "size": copy.size, "width": copy.width, "height": copy.height,
                "modified": copy.modified.isoformat(), "id": copy.id, **gone,
            })  # fmt: skip
    elif members:
        paths = relative_to_current([copy.path for _, copy, _ in members])
        heading, names = heading_and_names(paths)
        out = table("group", "", "cosine", "pixels", "bytes", heading, right=("cosine", "bytes"))
        for (number, copy, kept), name in zip(members, names, strict=True):
            pixels = f"{copy.width} x {copy.height}" if copy.width else "-"
            mark, cosine = ("keep", "") if kept else ("", f"{copy.score:.3f}")
            shown = f"{name} (gone)" if copy.gone else name
            out.add_row(str(number), mark, cosine, pixels, str(copy.size), shown)
        screen().print(out)


def _delete(store: Index, groups: Sequence[Group]) -> tuple[list[str], list[ImageError]]:
    """Delete all files of groups but those to keep, and their entries. Returns the paths of deleted
    files, and an error for each that is not deleted."""
    deleted, failed = [], []
    for group in groups:
        for copy in group.others:
            try:
                if reason := _why_not_deleted(store, group.keep, copy):
                    raise OSError(0, reason)
                os.unlink(copy.path)
                deleted.append(copy.path)
            except OSError as error:
                failed.append(ImageError(copy.path, f"not deleted: {error.strerror}"))
    if deleted:
        store.remove(deleted)
    return deleted, failed


def _why_not_deleted(store: Index, keep: Copy, other: Copy) -> str:
    """Why the file of `other` is not deleted; empty if it may be.

    It is gone, inside another file, or has changed since it was indexed; or the file to keep has
    changed, is gone, or is the same file under another name.
    """
    from patchword.index import members

    if members.gone(other.path):
        return "the file is gone; index again, with --prune"
    if not os.path.isfile(other.path):
        return "inside another file"
    if not _is_unchanged(store, other):
        return "changed since it was indexed; index again"
    if members.gone(keep.path):
        return f"{keep.path}, which is to be kept, is gone; index again, with --prune"
    if not os.path.isfile(keep.path):  # inside another file, or at an address
        return ""
    if not _is_unchanged(store, keep):
        return f"{keep.path}, which is to be kept, changed since it was indexed; index again"
    same_path = os.path.realpath(keep.path) == os.path.realpath(other.path)
    links = os.stat(keep.path).st_nlink  # of several hard links, the others stay
    if os.path.samefile(keep.path, other.path) and (same_path or links < 2):
        return f"it is the file to keep, {keep.path}, under another name"
    return ""


def _is_unchanged(store: Index, entry: Copy) -> bool:
    """Whether a file has the size of its entry, and the same time or content."""
    from patchword.images.files import File, hashed, modified

    status = os.stat(entry.path)
    if status.st_size != entry.size:
        return False
    if modified(status) // 1000 == (entry.modified - _EPOCH) // timedelta(microseconds=1):
        return True
    digest = hashed(File(entry.path, status.st_size, modified(status))).digest
    return bool(digest) and digest == store.row(entry.id, ["hash"])["hash"]


def _page_group(number: int, group: Group) -> PageGroup:
    members = []
    for copy in (group.keep, *group.others):
        kept = copy is group.keep
        mark = "keep" if kept else f"cosine {copy.score:.3f}"
        gone = " · the file is gone" if copy.gone else ""
        note = f"{mark} · {copy.width} x {copy.height}, {copy.size:,} bytes{gone}"
        members.append(Member(copy.path, note, kept))
    return f"Group {number}", members


COMMANDS = (dedupe,)
