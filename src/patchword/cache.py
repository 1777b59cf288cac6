"""Where files are kept that can be made again: vectors of labels, indexes of folders, graphs, and
copies of models."""

from __future__ import annotations

import os
from pathlib import Path

from patchword.errors import PatchwordError


def folder() -> Path:
    """$PATCHWORD_CACHE, or `patchword` in the user's cache. Raises PatchwordError for a user
    without a home, as in some containers."""
    given = os.environ.get("PATCHWORD_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(given or Path(base) / "patchword").expanduser()
    except RuntimeError as error:
        raise PatchwordError(
            "this user has no home folder to keep files in that can be made again: let "
            "PATCHWORD_CACHE or HOME name a folder"
        ) from error


def of_models() -> Path:
    """Where copies of models are kept: $PATCHWORD_CACHE, or `models` in the folder."""
    return folder() if os.environ.get("PATCHWORD_CACHE") else folder() / "models"
