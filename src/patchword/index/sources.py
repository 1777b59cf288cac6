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
    modified,
    picture_suffixes,
    shown,
)
from patchword.index import members, object_storage
from patchword.index.location import is_remote
from patchword.index.metadata import read_table, to_index_columns

OTHER_ADDRESS = (
    "only https://, http:// and s3:// addresses are read; copy it to a disk, give its path"
)
CAPTION = (".txt", ".caption")  # files of a tar beside an image of the same name


@dataclass
class Listing:
    """Files and images inside files, each once.

    files    first those on disk, sorted by path, then the images inside other files, in their order
    readers  functions that read the bytes of images inside other files, by path
    columns  what tables and tars say of their images: {column: {path: value}}
    """

    files: list[File] = field(default_factory=list)
    readers: dict[str, members.Read] = field(default_factory=dict)
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_values(self, path: str, values: Mapping[str, Any]) -> None:
        """Set the columns of one image, {column: value}; None is no value."""
        for name, value in values.items():
            if value is not None:
                self.columns.setdefault(name, {})[path] = value


def listing(paths: Iterable[Path], failed: list[ImageError]) -> Listing:
    """All images that are named; what cannot be listed is added to `failed`."""
    plain: list[Path] = []
    containers: set[str] = set()  # tars and tables
    result = Listing()
    for path in paths:
        name = os.fspath(path)
        try:
            if object_storage.is_object(name):
                for file, read in object_storage.list_photos(name):
                    result.files.append(file)
                    result.readers[file.path] = read
            elif is_tar(name):
                containers.add(os.path.realpath(name))
                _list_tar(os.path.realpath(name), result, failed)
            elif members.is_table(name):
                containers.add(os.path.realpath(name))
                plain += _list_table(os.path.realpath(name), result, failed)
            else:
                plain.append(path)
        except (PatchwordError, OSError) as error:
            reason = str(error)
            for start in (name, os.path.realpath(name)):
                reason = reason.removeprefix(f"{start}: ").removeprefix(f"{start}, ")
            failed.append(ImageError(shown(name), reason))
    inside = {file.path: file for file in result.files}
    result.files = [*find(plain, failed, containers), *inside.values()]
    return result


def _list_tar(path: str, result: Listing, failed: list[ImageError]) -> None:
    """The images in a tar, known by their suffix. As in webdataset, a text file of the same name
    has the caption of an image, and a JSON file of the same name its columns."""
    tar = Tar(FilePath(path))
    time = modified(os.stat(path))
    suffixes = picture_suffixes()
    images_by_stem: dict[str, list[str]] = {}  # by their names without suffix
    descriptions: list[Member] = []
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
                images_by_stem.setdefault(stem, []).append(name)
                result.files.append(File(name, member.size, time))
                result.readers[name] = partial(_read_member, tar, member)
            elif suffix.lower() in (*CAPTION, ".json"):
                descriptions.append(member)
    except PatchwordError as error:
        damage = error
    for member in descriptions:
        stem, suffix = os.path.splitext(member.name)
        if stem in images_by_stem:
            values = _parse_description(tar.read(member), suffix.lower())
            for name in images_by_stem[stem]:
                result.add_values(name, values)
    if damage:
        raise damage
    if not images_by_stem:
        size = os.path.getsize(path)
        failed.append(ImageError(shown(path), "no images in it" if size else "empty: 0 bytes"))


def _read_member(tar: Tar, member: Member) -> bytes:
    if member.fault:
        raise ImageError(f"{tar.path}/{member.name}", member.fault)
    return tar.read(member)


def _parse_description(content: bytes, suffix: str) -> Mapping[str, Any]:
    """The columns that a file beside an image gives it: a caption, or the object of a JSON file."""
    text = content.decode("utf-8", "replace").strip()
    if suffix != ".json":
        return {"caption": text or None}
    try:
        value = parsed_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _list_table(path: str, result: Listing, failed: list[ImageError]) -> list[str]:
    """The images that the rows of a table name or hold. Paths of files are returned, relative ones
    from the folder of the table; images inside the table, on the web or in object storage are added
    to `result`, as are all other columns."""
    table = read_table(path, image_columns=members.PLACES)
    names = usual_columns(table.schema.names, members.PLACES)
    if not names:
        raise PatchwordError(
            f"no column of images; it has {listed(table.schema.names)}; call the one of images "
            "path, url or image"
        )
    status, folder = os.stat(path), os.path.dirname(path)
    paths: list[str] = []
    keys: list[str] = []  # the path that the index has for the image of each row
    objects: list[str] = []
    images = None
    for row, cell in enumerate(table.column(names[0]).to_pylist()):
        key = cell
        if not isinstance(cell, str) or not cell:
            key = f"{path}#{row + 1}"
            images = images or members.TableImages(path)
            result.files.append(File(key, status.st_size, modified(status)))
            result.readers[key] = partial(images.read, row)
        elif urls.is_url(cell):
            result.files.append(File(cell, 0, 0))
        elif object_storage.is_object(cell):
            objects.append(cell)
        elif is_remote(cell):
            failed.append(ImageError(shown(cell), OTHER_ADDRESS))
        else:
            paths.append(os.path.join(folder, cell.replace("\0", "\ufffd")))  # no path has that
            key = os.path.realpath(paths[-1])
        keys.append(key)
    for photo in object_storage.check_photos(objects):
        if isinstance(photo, ImageError):
            failed.append(photo)
        else:
            result.files.append(photo)
            result.readers[photo.path] = partial(object_storage.read, photo.path)
    _add_columns(table.drop_columns([names[0]]), keys, result)
    return paths


def _add_columns(table: Any, keys: Sequence[str], result: Listing) -> None:
    """Add the columns of a table, whose rows belong to the images `keys`."""
    columns = to_index_columns(table)
    for name in columns.schema.names:
        for key, value in zip(keys, columns.column(name).to_pylist(), strict=True):
            result.add_values(key, {name: value})
