"""What is to be indexed: files, the images in folders and tars, the rows of tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from patchword.data.rows import listed, parsed_json, usual_columns
from patchword.data.tar_files import Member, Tar
from patchword.errors import ImageError, PatchwordError
from patchword.images import urls
from patchword.images.files import (
    UNPRINTABLE,
    File,
    Path,
    find,
    is_tar,
    left_out,
    picture_suffixes,
    shown,
)
from patchword.index import members, object_storage
from patchword.index.location import is_remote
from patchword.index.metadata import columns_of, read_table

OTHER_ADDRESS = (
    "only https://, http:// and s3:// addresses are read; copy it to a disk, give its path"
)
CAPTION = (".txt", ".caption")  # files of a tar beside an image of the same name


@dataclass
class Listing:
    """Files and images inside files, each once.

    files  sorted: first those on disk by path, then what is inside others, in its order
    read   how the bytes of those inside others are read, by path
    told   columns that tables and tars have for their images: {column: {path: value}}
    """

    files: list[File] = field(default_factory=list)
    read: dict[str, members.Read] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    def tell(self, path: str, values: Mapping[str, Any]) -> None:
        """Keep what is said of an image."""
        for name, value in values.items():
            if value is not None:
                self.told.setdefault(name, {})[path] = value


def listing(paths: Iterable[Path], failed: list[ImageError]) -> Listing:
    """All images that are named; what cannot be listed is added to `failed`."""
    plain: list[Path] = []
    opened: set[str] = set()
    out = Listing()
    for path in paths:
        name = os.fspath(path)
        try:
            if object_storage.is_object(name):
                for file, read in object_storage.found(name):
                    out.files.append(file)
                    out.read[file.path] = read
            elif is_tar(name):
                opened.add(os.path.realpath(name))
                _tar(os.path.realpath(name), out, failed)
            elif members.is_table(name):
                opened.add(os.path.realpath(name))
                plain += _table(os.path.realpath(name), out, failed)
            else:
                plain.append(path)
        except (PatchwordError, OSError) as error:
            said = str(error)
            for start in (name, os.path.realpath(name)):
                said = said.removeprefix(f"{start}: ").removeprefix(f"{start}, ")
            failed.append(ImageError(shown(name), said))
    held = {file.path: file for file in out.files}
    out.files = [*find(plain, failed, opened), *held.values()]
    return out


def _tar(path: str, out: Listing, failed: list[ImageError]) -> None:
    """The images in a tar by their suffix, the captions in files of text beside them, and the
    values in files of JSON beside them, as webdataset has them."""
    tar = Tar(FilePath(path))
    time = os.stat(path).st_mtime_ns
    suffixes = picture_suffixes()
    names: dict[str, list[str]] = {}  # the images by their names without suffix
    beside: list[Member] = []
    damage: PatchwordError | None = None
    try:
        for member in members.members(tar):
            stem, suffix = os.path.splitext(member.name)
            if left_out(member.name):
                continue
            if suffix.lower() in suffixes:
                name = f"{path}/{member.name}"
                if shown(name) != name:
                    failed.append(ImageError(shown(name), UNPRINTABLE))
                    continue
                names.setdefault(stem, []).append(name)
                out.files.append(File(name, member.size, time))
                out.read[name] = partial(_member, tar, member)
            elif suffix.lower() in (*CAPTION, ".json"):
                beside.append(member)
    except PatchwordError as error:
        damage = error
    for member in beside:
        stem, suffix = os.path.splitext(member.name)
        values = _said(tar.read(member), suffix.lower()) if stem in names else {}
        for name in names.get(stem, ()):
            out.tell(name, values)
    if damage:
        raise damage
    if not names:
        size = os.path.getsize(path)
        failed.append(ImageError(shown(path), "no images in it" if size else "empty: 0 bytes"))


def _member(tar: Tar, member: Member) -> bytes:
    if member.fault:
        raise ImageError(f"{tar.path}/{member.name}", member.fault)
    return tar.read(member)


def _said(content: bytes, suffix: str) -> Mapping[str, Any]:
    text = content.decode("utf-8", "replace").strip()
    if suffix != ".json":
        return {"caption": text or None}
    try:
        value = parsed_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _table(path: str, out: Listing, failed: list[ImageError]) -> list[str]:
    """The rows of a table: paths of files are returned, from the folder of the table; what is
    inside it, on the web or in object storage is added to `out`, as are all other columns."""
    table = read_table(path, but=members.PLACES)
    names = usual_columns(table.schema.names, members.PLACES)
    if not names:
        raise PatchwordError(
            f"no column of images; it has {listed(table.schema.names)}; call the one of images "
            "path, url or image"
        )
    status, folder = os.stat(path), os.path.dirname(path)
    paths: list[str] = []
    keys: list[str] = []
    far: list[str] = []
    images = None
    for row, cell in enumerate(table.column(names[0]).to_pylist()):
        key = cell
        if not isinstance(cell, str) or not cell:
            key = f"{path}#{row + 1}"
            images = images or members.TableImages(path)
            out.files.append(File(key, status.st_size, status.st_mtime_ns))
            out.read[key] = partial(images.read, row)
        elif urls.is_url(cell):
            out.files.append(File(cell, 0, 0))
        elif object_storage.is_object(cell):
            far.append(cell)
        elif is_remote(cell):
            failed.append(ImageError(shown(cell), OTHER_ADDRESS))
        else:
            paths.append(os.path.join(folder, cell.replace("\0", "\ufffd")))  # no path has that
            key = os.path.realpath(paths[-1])
        keys.append(key)
    for found in object_storage.photos(far):
        if isinstance(found, ImageError):
            failed.append(found)
        else:
            out.files.append(found)
            out.read[found.path] = partial(object_storage.read, found.path)
    _tell(table, names[0], keys, out)
    return paths


def _tell(table: Any, image: str, keys: Sequence[str], out: Listing) -> None:
    others = columns_of(table.drop_columns([image]))
    for name in others.schema.names:
        for key, value in zip(keys, others.column(name).to_pylist(), strict=True):
            if value is not None:
                out.told.setdefault(name, {})[key] = value
