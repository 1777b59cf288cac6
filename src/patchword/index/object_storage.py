"""Photos in object storage: s3://bucket/folder, s3://bucket/photo.jpg."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

from patchword.errors import ImageError, PatchwordError
from patchword.images.files import TABLES, TARS, File, left_out, picture_suffixes
from patchword.index.location import endpoint

SCHEME = "s3://"
_INSIDE = (*TARS, *TABLES)


def is_object(path: str) -> bool:
    """Whether a path is an address in object storage."""
    return path.startswith(SCHEME)


def found(address: str) -> Iterator[tuple[File, partial[bytes]]]:
    """The photo of that address, or those below it by their suffixes, sorted, each with how its
    bytes are read. Raises PatchwordError for what is not there or is no photo."""
    from pyarrow import fs  # type: ignore[import-untyped]

    name = address.removeprefix(SCHEME).rstrip("/")
    if name.lower().endswith(_INSIDE):
        raise PatchwordError("a tar or table in object storage: copy it to a disk first")
    try:
        [there] = _store(endpoint()).get_file_info([name])
        if there.type == fs.FileType.NotFound:
            raise PatchwordError("no such photo or folder there")
        below = [there]
        if there.type == fs.FileType.Directory:
            below = _store(endpoint()).get_file_info(fs.FileSelector(name, recursive=True))
    except OSError as error:
        raise PatchwordError(f"cannot be listed: {_said(error)}") from error
    suffixes = picture_suffixes()
    for each in sorted(below, key=lambda info: str(info.path)):
        hidden = left_out(each.path.removeprefix(name))
        if each is not there and (hidden or os.path.splitext(each.path)[1].lower() not in suffixes):
            continue
        if each.is_file:
            path = SCHEME + each.path
            yield File(path, each.size, each.mtime_ns), partial(read, path)


def photos(addresses: Sequence[str]) -> Iterator[File | ImageError]:
    """The photo at each address, asked for together, or why there is none."""
    names = [address.removeprefix(SCHEME) for address in addresses]
    try:
        there = _store(endpoint()).get_file_info(names) if names else []
    except OSError as error:
        yield from (ImageError(each, f"cannot be listed: {_said(error)}") for each in addresses)
        return
    for address, each in zip(addresses, there, strict=True):
        if each.is_file:
            yield File(address, each.size, each.mtime_ns)
        else:
            yield ImageError(address, "no such photo there")


def read(path: str) -> bytes:
    """The bytes of a photo. Raises ImageError where they cannot be had."""
    try:
        with _store(endpoint()).open_input_file(path.removeprefix(SCHEME)) as file:
            return bytes(file.readall())
    except OSError as error:
        raise ImageError(path, f"cannot be read: {_said(error)}") from error


@lru_cache(1)
def _store(address: str) -> Any:
    """pyarrow's way to the store, with the credentials of the environment."""
    from pyarrow import fs

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(endpoint_override=address or None, region=region)


def _said(error: OSError) -> str:
    return re.sub(r"\s+", " ", str(error))[:200]
