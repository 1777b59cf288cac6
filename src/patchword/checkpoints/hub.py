"""Checkpoints on the Hugging Face hub, through its own client and cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from patchword.checkpoints.read import SUFFIXES, WEIGHTS, Files, preferred, shard_names
from patchword.errors import CheckpointError

ID = re.compile(r"[\w.-]+/[\w.-]+")
# Beside the weights: configurations and tokenizers.
BESIDE = ("*.json", "merges.txt", "vocab.txt", "bpe_simple_vocab_16e6.txt.gz")

TIMEOUT = 10  # seconds until the hub counts as out of reach


def is_id(source: str) -> bool:
    """Whether `source` reads like "organisation/name", not like a path."""
    return (
        bool(ID.fullmatch(source)) and not source.startswith(".") and not source.endswith(SUFFIXES)
    )


def fetch(repository: str, token: str | None = None) -> Path:
    """The folder in the hub's cache with the files needed, downloaded if they are not there.

    HF_HUB_OFFLINE, HF_HOME and HF_ENDPOINT are honoured. Raises CheckpointError when the
    repository is not cached and cannot be reached, does not exist, or is closed to `token`.
    """
    import huggingface_hub as hub  # slow to import, and local checkpoints do without
    from huggingface_hub import errors

    try:
        # Unlike list_repo_files, this fails at once where there is no network.
        info = hub.model_info(repository, token=token, timeout=TIMEOUT)
        weights = preferred([file.rfilename for file in info.siblings or ()])
        if weights is None:
            raise CheckpointError(f"{repository} on the hub has no weights that patchword reads")
        wanted = [weights, *BESIDE]
        if weights.endswith(".index.json"):
            index = hub.hf_hub_download(repository, weights, token=token)
            wanted += shard_names(_index(index), f"{repository}/{weights}")
        return Path(hub.snapshot_download(repository, allow_patterns=wanted, token=token))
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
        cached = _cached(repository)
        if cached is not None:
            return cached
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{repository} is not in the hub's cache and cannot be downloaded ({reason}). "
            f"Connect and try again, or run `hf download {repository}` where there is a network "
            "and point HF_HOME at its cache, or give the path of a local checkpoint. "
            'patchword.load("demo") needs no network'
        ) from error


def _cached(repository: str) -> Path | None:
    """The folder of an earlier download, if its weights are in it."""
    import huggingface_hub as hub

    for name in WEIGHTS:
        path = hub.try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return Path(path).parent
    return None


def _index(path: str | Path) -> Any:
    """A downloaded index.json, parsed."""
    return Files(Path(path).parent)[Path(path).name]
