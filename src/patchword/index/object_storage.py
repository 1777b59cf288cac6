"""Photos in object storage: s3://bucket/folder, s3://bucket/photo.jpg."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

from patchword.errors import ImageError, PatchwordError
from patchword.images.files import TABLES, TARS, File, left_out, picture_suffixes
from patchword.index.lance import short_message
from patchword.index.location import endpoint

SCHEME = "s3://"


def is_object(path: str) -> bool:
    """Whether a path is an address in object storage."""
    return path.startswith(SCHEME)


def list_photos(address: str) -> Iterator[tuple[File, partial[bytes]]]:
    """The photo at an address, or the photos in a folder and its subfolders, known by their
    suffixes and sorted; each with a function that reads its bytes. Raises PatchwordError where
    nothing is there, and for a tar or a table."""
    from pyarrow import fs  # type: ignore[import-untyped]

    name = address.removeprefix(SCHEME).rstrip("/")
    if name.lower().endswith((*TARS, *TABLES)):
        raise PatchwordError("a tar or table in object storage: copy it to a disk first")
    try:
        [root] = _store(endpoint()).get_file_info([name])
        if root.type == fs.FileType.NotFound:
            raise PatchwordError("no such photo or folder there")
        infos = [root]
        if root.type == fs.FileType.Directory:
            infos = _store(endpoint()).get_file_info(fs.FileSelector(name, recursive=True))
    except OSError as error:
        raise PatchwordError(f"cannot be listed: {short_message(error)}") from error
    suffixes = picture_suffixes()
    for info in sorted(infos, key=lambda info: str(info.path)):
        hidden = left_out(info.path.removeprefix(name))
        if info is not root and (hidden or os.path.splitext(info.path)[1].lower() not in suffixes):
            continue
        if info.is_file:
            path = SCHEME + info.path
            yield File(path, info.size, info.mtime_ns), partial(read, path)


def check_photos(addresses: Sequence[str]) -> Iterator[File | ImageError]:
    """The photo at each address, or an error where there is none. One request for all."""
    keys = [address.removeprefix(SCHEME) for address in addresses]
    try:
        infos = _store(endpoint()).get_file_info(keys) if keys else []
    except OSError as error:
        for address in addresses:
            yield ImageError(address, f"cannot be listed: {short_message(error)}")
        return
    for address, info in zip(addresses, infos, strict=True):
        if info.is_file:
            yield File(address, info.size, info.mtime_ns)
        else:
            yield ImageError(address, "no such photo there")


def read(path: str) -> bytes:
    """The bytes of a photo. Raises ImageError where they cannot be read."""
    try:
        with _store(endpoint()).open_input_file(path.removeprefix(SCHEME)) as file:
            return bytes(file.readall())
    except OSError as error:
        raise ImageError(path, f"cannot be read: {short_message(error)}") from error


@lru_cache(1)
def _store(endpoint_address: str) -> Any:
    """pyarrow's file system of the store, with the credentials of the environment."""
    from pyarrow import fs

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(endpoint_override=endpoint_address or None, region=region)
