"""Checkpoints on the Hugging Face hub, through its own client and cache."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from patchword.checkpoints import layouts
from patchword.checkpoints.read import SUFFIXES, WEIGHTS
from patchword.errors import CheckpointError

ID = re.compile(r"[\w.-]+/[\w.-]+")
MARKS = (*WEIGHTS, layouts.MODULES, layouts.PIPELINE, layouts.ADAPTER)  # of an earlier download

TIMEOUT = 10  # seconds until the hub counts as out of reach


def is_id(source: str) -> bool:
    """Whether `source` looks like "organisation/name", not like a path."""
    return (
        bool(ID.fullmatch(source)) and not source.startswith(".") and not source.endswith(SUFFIXES)
    )


def snapshot(path: Path) -> Path:
    """Of a repository's folder in the hub's cache, models--organisation--name, the revision that
    its branch main was at, or the only one there; any other path itself. Raises CheckpointError
    where there is no such revision."""
    if not path.resolve().name.startswith("models--") or not (path / "snapshots").is_dir():
        return path
    there = sorted(each for each in (path / "snapshots").iterdir() if each.is_dir())
    main = path / "refs" / "main"
    wanted = main.read_text(encoding="utf-8").strip() if main.is_file() else None
    found = there if wanted is None else [each for each in there if each.name == wanted]
    if len(found) != 1:
        paths = ", ".join(map(str, there)) or "none is there"
        raise CheckpointError(
            f"{path} is a folder of the hub's cache: give one of its revisions: {paths}"
        )
    return found[0]


class Listed(Mapping[str, Any]):
    """The JSON files of a remote repository, each fetched when it is read.

    names: of all its files. fetch: downloads one and returns its path.
    """

    def __init__(self, names: Sequence[str], fetch: Callable[[str], str | Path]) -> None:
        self.names, self.fetch = names, fetch

    def __getitem__(self, name: str) -> Any:
        if name not in self.names or not name.endswith(".json"):
            raise KeyError(name)
        path = Path(self.fetch(name))
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is not readable JSON: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.names if name.endswith(".json"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def fetch(
    repository: str,
    token: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
) -> Path:
    """The folder in the hub's cache with the files needed, downloaded if they are not there.

    HF_HUB_OFFLINE, HF_HOME and HF_ENDPOINT are honoured. Raises CheckpointError when the
    repository is not cached and cannot be reached, does not exist, or is closed to `token`.
    """
    import huggingface_hub as hub  # slow to import, and local checkpoints do without
    from huggingface_hub import errors

    try:
        # Unlike list_repo_files, this fails at once where there is no network.
        info = hub.model_info(repository, token=token, timeout=TIMEOUT, revision=revision)
        names = [file.rfilename for file in info.siblings or ()]

        def one(name: str) -> str:
            return hub.hf_hub_download(repository, name, token=token, revision=revision)

        wanted = layouts.wanted(names, Listed(names, one), f"{repository} on the hub", subfolder)
        return Path(
            hub.snapshot_download(repository, allow_patterns=wanted, token=token, revision=revision)
        )
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repository} asks for its licence to be accepted: do so at "
            f"https://huggingface.co/{repository}, then `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repository} is neither a path here nor a repository on the hub"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # what "no network" raises differs between the client's versions
        cached = _cached(repository, subfolder, revision)
        if cached is not None:
            return cached
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{repository} is not in the hub's cache and cannot be downloaded ({reason}). "
            f"Connect and try again, or set HF_ENDPOINT to a mirror of the hub that you reach, "
            f"or run `hf download {repository}` where there is a network "
            "and point HF_HOME at its cache, or give the path of a local checkpoint. "
            'patchword.load("demo") needs no network'
        ) from error


def _cached(repository: str, subfolder: str | None, revision: str | None) -> Path | None:
    """The folder of an earlier download, if its weights are in it."""
    import huggingface_hub as hub

    start = f"{subfolder.strip('/')}/" if subfolder else ""
    for name in (start + mark for mark in MARKS):
        path = hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(path, str):
            return Path(path).parents[name.count("/")]
    return None
