"""Where files are kept that can be made again: vectors of labels, indexes of folders, graphs, and
copies of models."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """$PATCHWORD_CACHE, or `patchword` in the user's cache."""
    given = os.environ.get("PATCHWORD_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given or Path(base) / "patchword").expanduser()


def of_models() -> Path:
    """Where copies of models are kept: $PATCHWORD_CACHE, or `models` in the folder."""
    return folder() if os.environ.get("PATCHWORD_CACHE") else folder() / "models"
