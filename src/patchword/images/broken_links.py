"""Symbolic links to files that do not exist."""

from __future__ import annotations

import os


def dangling(path: str | os.PathLike[str]) -> str:
    """A message about a link whose target is missing; empty for any other path."""
    if not os.path.islink(path):
        return ""
    try:
        os.stat(path)
    except FileNotFoundError:
        return f"a link to {os.fsdecode(os.readlink(path))}, which is missing"
    except OSError:  # a link to itself, or a target without permission
        pass
    return ""
