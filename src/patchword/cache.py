"""The folder for cached files, which can be created again: vectors of labels, indexes of folders,
graphs, and copies of models."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """$PATCHWORD_CACHE, or `patchword` in the user's cache. For a user without home, as in some
    containers, a path at which nothing can be written: then nothing is cached."""
    configured = os.environ.get("PATCHWORD_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(configured or Path(base) / "patchword").expanduser()
    except RuntimeError:
        return Path(os.devnull) / "patchword"


def of_models() -> Path:
    """The folder for copies of models: $PATCHWORD_CACHE, or `models` in `folder`."""
    return folder() if os.environ.get("PATCHWORD_CACHE") else folder() / "models"
