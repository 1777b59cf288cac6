"""Checkpoints from elsewhere than the Hugging Face hub: ModelScope, through its own library and
cache, and buckets, through fsspec."""

from __future__ import annotations

import hashlib
import posixpath
import re
import shutil
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from patchword.cache import of_models
from patchword.checkpoints import layouts
from patchword.checkpoints.hub import Listed
from patchword.checkpoints.read import SUFFIXES, Files
from patchword.errors import CheckpointError
from patchword.optional import optional

MODELSCOPE = "modelscope:"
URL = re.compile(r"([a-z][a-z0-9+.-]*)://.+")
PAGES = {  # addresses of hubs, and what to give instead of them
    r"https?://(?:www\.)?(?:huggingface\.co|hf-mirror\.com)/([\w.-]+/[\w.-]+).*": r"\1",
    r"hf://(?:models/)?([\w.-]+/[\w.-]+).*": r"\1",
    r"https?://(?:www\.)?modelscope\.(?:cn|ai)/models/([\w.-]+/[\w.-]+).*": rf"{MODELSCOPE}\1",
}
LIBRARIES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}  # behind fsspec
DEPTH = 3  # folders that a model is looked for in
CHUNK = 16 << 20  # bytes
# Weights as libraries call them, the preferred first, then any.
USUAL = ("model*.safetensors", "open_clip_model*.safetensors", "*pytorch_model*.bin")


def is_url(source: str) -> bool:
    """Whether `source` is an address of another store."""
    return source.startswith(MODELSCOPE) or bool(URL.fullmatch(source))


def fetch(source: str, token: str | None = None, subfolder: str | None = None) -> Path:
    """A local copy of the folder, or of the file for a file's address, with the files that are
    needed.

    Raises CheckpointError for a store that cannot be reached, an address without a model, and web
    addresses: their content can change under the same name, so they are never fetched.
    """
    if source.startswith(MODELSCOPE):
        return _modelscope(source, token, subfolder)
    for page, instead in PAGES.items():
        if re.fullmatch(page, source):
            raise CheckpointError(f"{source} is a page; give {re.sub(page, instead, source)!r}")
    scheme = source.partition("://")[0]
    if scheme in ("http", "https"):
        raise CheckpointError(
            f"{source}: models are not loaded from web addresses; download it first "
            f"(curl -LO {source}) and give the path of the file"
        )
    if scheme in LIBRARIES:
        optional(LIBRARIES[scheme], "cloud", f"{scheme}://", CheckpointError)
    try:
        return _bucket(source, subfolder)
    except CheckpointError:
        raise
    except Exception as error:  # each store has errors of its own
        raise CheckpointError(f"{source} cannot be read ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _modelscope(source: str, token: str | None, subfolder: str | None) -> Path:
    """A repository of ModelScope; small files first, which determine the weights that are
    needed."""
    repository = source.removeprefix(MODELSCOPE)
    library = optional("modelscope", "modelscope", source, CheckpointError)
    more = {"token": token} if token else {}

    def download(*patterns: str) -> Path:
        try:
            return Path(library.snapshot_download(repository, allow_patterns=[*patterns], **more))
        except Exception as error:  # its own, and those of the network below it
            raise CheckpointError(
                f"{source} cannot be downloaded ({_reason(error)}); is it a repository of "
                "modelscope.cn, owner/name?"
            ) from error

    folder = download(*(f"*{pattern.lstrip('*')}" for pattern in layouts.BESIDE))
    inside = layouts.part(Files(folder), source, subfolder)
    start = f"{inside}/" if inside else ""
    adapter = (folder / inside / layouts.ADAPTER).is_file()
    for names in [layouts.ADAPTER_WEIGHTS] if adapter else []:
        download(*(start + name for name in names))
    for pattern in (*USUAL, *(f"*{suffix}" for suffix in SUFFIXES)):
        download(start + pattern)
        there = [p.name for p in (folder / inside).glob("*") if fnmatch(p.name, pattern)]
        if there or adapter:
            break
    return folder


def _bucket(url: str, subfolder: str | None) -> Path:
    """A copy in our cache of the files of a store's folder that are needed, or of one file:
    streamed, each file checked by its size, and moved into place all at once."""
    fsspec = optional("fsspec", "cloud", url, CheckpointError)
    store, root = fsspec.core.url_to_fs(url)
    lone = posixpath.basename(root) if store.isfile(root) else ""
    folder = posixpath.dirname(root) if lone else root
    found = store.find(folder, maxdepth=DEPTH, detail=True)
    sizes = {posixpath.relpath(path, folder): _size(about) for path, about in found.items()}
    cache = of_models()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".part-") as temporary:
        part = Path(temporary) / "model"

        def one(name: str) -> Path:
            return _copied(store, posixpath.join(folder, name), part / name, sizes[name])

        if lone:
            small = [
                n for n in sizes if any(fnmatch(n, p) for p in layouts.BESIDE) and "/" not in n
            ]
            wanted = [lone, *small]
        else:
            wanted = layouts.wanted(list(sizes), Listed(list(sizes), one), url, subfolder)
        stamps = [(name, store.ukey(posixpath.join(folder, name))) for name in wanted]
        place = cache / hashlib.sha256(repr((url, stamps)).encode()).hexdigest()[:16]
        if not place.is_dir():
            for name in wanted:
                one(name)
            try:
                part.rename(place)
            except OSError:  # another process was faster
                if not place.is_dir():
                    raise
    return place / lone


def _size(about: Mapping[str, Any]) -> int:
    return int(about["size"])


def _copied(store: Any, source: str, to: Path, size: int) -> Path:
    """Copies a file of a store to a local path, unless it is there already."""
    if to.is_file():
        return to
    to.parent.mkdir(parents=True, exist_ok=True)
    with store.open(source, "rb") as theirs, to.open("wb") as ours:
        shutil.copyfileobj(theirs, ours, CHUNK)
    if to.stat().st_size != size:
        raise CheckpointError(
            f"{source} has {size:,} bytes, and {to.stat().st_size:,} came: load it again"
        )
    return to
