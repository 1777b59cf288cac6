"""Where files are kept that can be made again: vectors of labels, indexes of folders, graphs, and
copies of models."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """$PATCHWORD_CACHE, or `patchword` in the user's cache; for a user without a home, as in some
    containers, a place where nothing can be written, without which all goes on."""
    given = os.environ.get("PATCHWORD_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(given or Path(base) / "patchword").expanduser()
    except RuntimeError:
        return Path(os.devnull) / "patchword"


def of_models() -> Path:
    """Where copies of models are kept: $PATCHWORD_CACHE, or `models` in the folder."""
    return folder() if os.environ.get("PATCHWORD_CACHE") else folder() / "models"
