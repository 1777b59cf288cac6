"""Where an index is: a folder, or an address in object storage, s3://bucket/name.

In object storage are the tables alone. What only makes searches fast, the file of vectors that they
map, is in the cache of each machine. Credentials are those of the environment, as for every program
of AWS's: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_PROFILE, a role of the machine;
AWS_ENDPOINT_URL names another store with the same protocol.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Any

from patchword import cache
from patchword.errors import IndexStoreError
from patchword.index.lance import library

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)
_ADDRESS = re.compile(r"s3://([^/]+)/+(.*[^/])/*")
# So that a store that cannot be reached is an error after seconds rather than minutes.
_PATIENCE = {"client_max_retries": "4", "client_retry_timeout": "30", "connect_timeout": "10s"}
_CAUSES = {  # what LanceDB's messages hold, and what that means
    r"Failed to get AWS credentials": "there are no credentials: set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY",
    r"NoSuchBucket": "there is no such bucket; make it first",
    r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|status: 40[13]": "the store refuses "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what they are asked to do there",
    r"kind: (Connect|Timeout)|dns error": "the store cannot be reached: see to AWS_ENDPOINT_URL, "
    "AWS_REGION and the network",
}


@dataclass(frozen=True)
class Place:
    """address: the absolute path of a folder, or s3://bucket/name without a slash at its end."""

    address: str

    @property
    def remote(self) -> bool:
        """Whether it is in object storage."""
        return is_remote(self.address)

    def connect(self) -> Any:
        """LanceDB's connection. Raises what LanceDB raises."""
        if not self.remote:
            return library().connect(self.address)
        plain = endpoint().startswith("http://")
        options = {**_PATIENCE, **({"allow_http": "true"} if plain else {})}
        return library().connect(self.address, storage_options=options)

    def may_hold(self, table: str) -> bool:
        """False where there is certainly no such table; only opening it says so of a remote one."""
        return self.remote or os.path.isdir(os.path.join(self.address, f"{table}.lance"))

    def folder(self) -> str:
        """The folder of files that can be made again: its own, or one in this machine's cache,
        which need not be there."""
        if not self.remote:
            return self.address
        mark = hashlib.sha256(f"{endpoint()}\0{self.address}".encode()).hexdigest()[:12]
        return str(cache.folder() / "remote" / f"{self.address.rpartition('/')[2]}-{mark}")

    def cause(self, error: BaseException) -> str | None:
        """Why object storage cannot be used, where LanceDB's error says so."""
        if not self.remote:
            return None
        text = str(error)
        return next((said for pattern, said in _CAUSES.items() if re.search(pattern, text)), None)


def place_of(path: str | os.PathLike[str]) -> Place:
    """The place that a path or an address names. Raises IndexStoreError for an address of another
    kind of store, or without a bucket or a name."""
    name = os.fspath(path)
    scheme = _SCHEME.match(name)
    if scheme is None:
        return Place(os.path.abspath(name))
    if scheme[1] != "s3":
        raise IndexStoreError(f"{name}: an index is a folder, or an address s3://bucket/name")
    found = _ADDRESS.fullmatch(re.sub("^s3:/+", "s3://", name))  # a Path has one slash
    if found is None:
        raise IndexStoreError(f"{name}: name a bucket and an index in it: s3://bucket/photos.index")
    return Place(f"s3://{found[1]}/{found[2]}")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a name is an address rather than a path on this machine."""
    return bool(_SCHEME.match(os.fspath(path)))


def endpoint() -> str:
    """The address of the store; empty for AWS's own."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((value for name in names if (value := os.environ.get(name))), "")
