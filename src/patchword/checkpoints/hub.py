"""Checkpoints on the Hugging Face hub, through its own client and cache."""

from __future__ import annotations

import re
from pathlib import Path

from patchword.checkpoints import layouts
from patchword.checkpoints.json_files import RemoteFiles
from patchword.checkpoints.weight_files import SUFFIXES, USUAL_NAMES
from patchword.errors import CheckpointError

ID = re.compile(r"[\w.-]+/[\w.-]+")
# A repository that was downloaded earlier has at least one of these files.
DOWNLOADED = (*USUAL_NAMES, layouts.MODULES, layouts.PIPELINE, layouts.ADAPTER_CONFIG)

TIMEOUT = 10  # seconds until the hub counts as unreachable


def is_id(source: str) -> bool:
    """Whether `source` looks like "organisation/name", not like a path."""
    if source.startswith(".") or source.endswith(SUFFIXES):
        return False
    return ID.fullmatch(source) is not None


def snapshot(path: Path) -> Path:
    """For a repository's folder in the hub's cache, models--organisation--name, the folder of a
    revision: that of its branch main, or the only one. Any other path is returned as it is. Raises
    CheckpointError if there is no such revision."""
    if not path.resolve().name.startswith("models--") or not (path / "snapshots").is_dir():
        return path
    revisions = sorted(child for child in (path / "snapshots").iterdir() if child.is_dir())
    candidates = revisions
    main = path / "refs" / "main"
    if main.is_file():
        commit = main.read_text(encoding="utf-8").strip()
        candidates = [revision for revision in revisions if revision.name == commit]
    if len(candidates) != 1:
        paths = ", ".join(map(str, revisions)) or "none is there"
        raise CheckpointError(
            f"{path} is a folder of the hub's cache: give one of its revisions: {paths}"
        )
    return candidates[0]


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

        def download(name: str) -> str:
            return hub.hf_hub_download(repository, name, token=token, revision=revision)

        configs = RemoteFiles(names, download)
        needed = layouts.needed_files(names, configs, f"{repository} on the hub", subfolder)
        return Path(
            hub.snapshot_download(repository, allow_patterns=needed, token=token, revision=revision)
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
    """The folder of an earlier download; None if there is none."""
    import huggingface_hub as hub

    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    for file in DOWNLOADED:
        name = prefix + file
        path = hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(path, str):
            return Path(path).parents[name.count("/")]
    return None
