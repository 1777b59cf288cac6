"""Links to what is not there."""

from __future__ import annotations

import os


def dangling(path: str | os.PathLike[str]) -> str:
    """Of a link that ends at nothing, what is said of it; empty for anything else."""
    if not os.path.islink(path):
        return ""
    try:
        os.stat(path)
    except FileNotFoundError:
        return f"a link to {os.fsdecode(os.readlink(path))}, which is missing"
    except OSError:  # a link to itself, or to what may not be looked at
        pass
    return ""
