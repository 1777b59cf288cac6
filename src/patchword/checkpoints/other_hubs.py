"""Checkpoints from ModelScope, through its own library and cache, and from buckets, through
fsspec."""

from __future__ import annotations

import hashlib
import posixpath
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from patchword.cache import of_models
from patchword.checkpoints import layouts
from patchword.checkpoints.json_files import Files, RemoteFiles
from patchword.checkpoints.weight_files import SUFFIXES
from patchword.errors import CheckpointError
from patchword.optional import optional

MODELSCOPE = "modelscope:"
URL = re.compile(r"([a-z][a-z0-9+.-]*)://.+")
PAGES = {  # web pages of hubs, and the name to give instead
    r"https?://(?:www\.)?(?:huggingface\.co|hf-mirror\.com)/([\w.-]+/[\w.-]+).*": r"\1",
    r"hf://(?:models/)?([\w.-]+/[\w.-]+).*": r"\1",
    r"https?://(?:www\.)?modelscope\.(?:cn|ai)/models/([\w.-]+/[\w.-]+).*": rf"{MODELSCOPE}\1",
}
LIBRARIES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}  # that fsspec needs
MAX_DEPTH = 3  # of folders in a bucket
CHUNK = 16 << 20  # bytes
# Patterns of weights with usual names, the preferred first.
USUAL_PATTERNS = ("model*.safetensors", "open_clip_model*.safetensors", "*pytorch_model*.bin")


def is_url(source: str) -> bool:
    """Whether `source` is an address of another store."""
    return source.startswith(MODELSCOPE) or bool(URL.fullmatch(source))


def fetch(source: str, token: str | None = None, subfolder: str | None = None) -> Path:
    """A local copy of the folder with the files that are needed, or of a file if the address is a
    file's.

    Raises CheckpointError for a store that cannot be reached, an address without a model, and web
    addresses: their content can change under the same name, so they are never fetched.
    """
    if source.startswith(MODELSCOPE):
        return _modelscope(source, token, subfolder)
    for page, name in PAGES.items():
        if re.fullmatch(page, source):
            raise CheckpointError(f"{source} is a page; give {re.sub(page, name, source)!r}")
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
    """A local copy of a repository of ModelScope. Small files come first: they tell which weights
    are needed."""
    repository = source.removeprefix(MODELSCOPE)
    library = optional("modelscope", "modelscope", source, CheckpointError)
    options = {"token": token} if token else {}

    def download(*patterns: str) -> Path:
        try:
            path = library.snapshot_download(repository, allow_patterns=list(patterns), **options)
            return Path(path)
        except Exception as error:  # its own, and those of the network below it
            raise CheckpointError(
                f"{source} cannot be downloaded ({_reason(error)}); is it a repository of "
                "modelscope.cn, owner/name?"
            ) from error

    folder = download(*[f"*{pattern.lstrip('*')}" for pattern in layouts.CONFIG_PATTERNS])
    subfolder = layouts.model_folder(Files(folder), source, subfolder)
    prefix = f"{subfolder}/" if subfolder else ""
    has_adapter = (folder / subfolder / layouts.ADAPTER_CONFIG).is_file()
    if has_adapter:
        download(*[prefix + name for name in layouts.ADAPTER_WEIGHTS])
    for pattern in (*USUAL_PATTERNS, *[f"*{suffix}" for suffix in SUFFIXES]):
        download(prefix + pattern)
        if has_adapter or any((folder / subfolder).glob(pattern)):
            break
    return folder


def _bucket(url: str, subfolder: str | None) -> Path:
    """A copy in our cache of a folder of a store, with the files that are needed, or of one file.
    Each file is checked by its size, and all are moved into place at once."""
    fsspec = optional("fsspec", "cloud", url, CheckpointError)
    store, root = fsspec.core.url_to_fs(url)
    file = posixpath.basename(root) if store.isfile(root) else ""
    folder = posixpath.dirname(root) if file else root
    details = store.find(folder, maxdepth=MAX_DEPTH, detail=True)
    sizes = {posixpath.relpath(path, folder): int(info["size"]) for path, info in details.items()}
    cache = of_models()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".part-") as temporary:
        copies = Path(temporary) / "model"

        def download(name: str) -> Path:
            return _copy(store, posixpath.join(folder, name), copies / name, sizes[name])

        names = list(sizes)
        if file:
            beside = [name for name in names if "/" not in name]
            configs = [n for n in beside if layouts.matches(n, layouts.CONFIG_PATTERNS)]
            needed = [file, *configs]
        else:
            needed = layouts.needed_files(names, RemoteFiles(names, download), url, subfolder)
        versions = [(name, store.ukey(posixpath.join(folder, name))) for name in needed]
        place = cache / hashlib.sha256(repr((url, versions)).encode()).hexdigest()[:16]
        if not place.is_dir():
            for name in needed:
                download(name)
            try:
                copies.rename(place)
            except OSError:  # another process was faster
                if not place.is_dir():
                    raise
    return place / file


def _copy(store: Any, source: str, target: Path, size: int) -> Path:
    """Copy a file of a store to a local path, unless it is there already; that path."""
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with store.open(source, "rb") as remote_file, target.open("wb") as local_file:
        shutil.copyfileobj(remote_file, local_file, CHUNK)
    if target.stat().st_size != size:
        raise CheckpointError(
            f"{source} has {size:,} bytes, and {target.stat().st_size:,} came: load it again"
        )
    return target
