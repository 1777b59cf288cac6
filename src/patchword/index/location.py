"""Where an index is: a folder, or an address in object storage, s3://bucket/name.

Object storage has only the tables. The file of vectors that makes searches fast is in the cache of
each machine. Credentials come from the environment, as for every AWS program: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_PROFILE, or a role of the machine. AWS_ENDPOINT_URL names
another store with the same protocol.
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
# A store that cannot be reached is an error after seconds rather than minutes.
_TIMEOUTS = {"client_max_retries": "4", "client_retry_timeout": "30", "connect_timeout": "10s"}
_EXPLANATIONS = {  # by a pattern in LanceDB's messages
    r"Failed to get AWS credentials": "there are no credentials: set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY",
    r"NoSuchBucket": "there is no such bucket; make it first",
    r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|status: 40[13]": "the store refuses "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what they are asked to do there",
    r"kind: (Connect|Timeout)|dns error": "the store cannot be reached: see to AWS_ENDPOINT_URL, "
    "AWS_REGION and the network",
}


@dataclass(frozen=True)
class Location:
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
        options = dict(_TIMEOUTS)
        if endpoint().startswith("http://"):
            options["allow_http"] = "true"
        return library().connect(self.address, storage_options=options)

    def may_have_table(self, table: str) -> bool:
        """False where there is certainly no such table. True for every remote one: only opening it
        tells."""
        return self.remote or os.path.isdir(os.path.join(self.address, f"{table}.lance"))

    def folder(self) -> str:
        """The folder for files that can be made again: the index's own folder, or one in this
        machine's cache, which need not exist."""
        if not self.remote:
            return self.address
        mark = hashlib.sha256(f"{endpoint()}\0{self.address}".encode()).hexdigest()[:12]
        return str(cache.folder() / "remote" / f"{self.address.rpartition('/')[2]}-{mark}")

    def explain(self, error: BaseException) -> str | None:
        """Why object storage cannot be used, if LanceDB's error says so; None for a folder."""
        if self.remote:
            for pattern, explanation in _EXPLANATIONS.items():
                if re.search(pattern, str(error)):
                    return explanation
        return None


def location_of(path: str | os.PathLike[str]) -> Location:
    """The location that a path or an address names. Raises IndexStoreError for an address of
    another kind of store, or without a bucket or a name."""
    name = os.fspath(path)
    scheme = _SCHEME.match(name)
    if scheme is None:
        return Location(os.path.abspath(name))
    if scheme[1] != "s3":
        raise IndexStoreError(f"{name}: an index is a folder, or an address s3://bucket/name")
    match = _ADDRESS.fullmatch(re.sub("^s3:/+", "s3://", name))  # a Path has one slash
    if match is None:
        raise IndexStoreError(f"{name}: name a bucket and an index in it: s3://bucket/photos.index")
    return Location(f"s3://{match[1]}/{match[2]}")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a name is an address rather than a path on this machine."""
    return bool(_SCHEME.match(os.fspath(path)))


def endpoint() -> str:
    """The address of the store; "" for AWS's own."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if os.environ.get(name):
            return os.environ[name]
    return ""
