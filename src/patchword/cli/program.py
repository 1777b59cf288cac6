"""Command lines to paste, as they work in the current folder and shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def command(*arguments: str) -> str:
    """A line for the shell: patchword with these arguments."""
    return shlex.join([*_program(), *arguments])


def near(path: str | Path) -> str:
    """A path with its links resolved: relative where it lies below the current folder."""
    return _relative(Path(path).resolve(), Path.cwd().resolve())


def _program() -> list[str]:
    """How to start patchword: by its name where the shell finds it, else by its file."""
    script = Path(sys.argv[0])
    by_module = script.name != "patchword"  # python -m patchword
    if by_module:
        script = Path(sys.executable).with_name("patchword")
    on_path = shutil.which("patchword")
    if on_path and Path(on_path).absolute() == script.absolute():
        return ["patchword"]
    # Links are kept: a virtual environment's Python is a link.
    if by_module and not script.exists():
        return [_relative(Path(sys.executable).absolute(), Path.cwd()), "-m", "patchword"]
    return [_relative(script.absolute(), Path.cwd())]


def _relative(path: Path, folder: Path) -> str:
    """A path from a folder where it lies below that, else the absolute path."""
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
