"""Where files are kept that can be made again: vectors of labels, indexes of folders."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """$PATCHWORD_CACHE, or `patchword` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PATCHWORD_CACHE") or Path(base) / "patchword")
