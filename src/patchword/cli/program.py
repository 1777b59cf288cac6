"""Commands to paste, as they work where the program was started."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def command(*words: str) -> str:
    """A line for the shell: patchword with these words."""
    return shlex.join([*_program(), *words])


def near(path: str | Path) -> str:
    """A path as short as it can be said here: from the current folder where it lies below it."""
    whole, here = Path(path).resolve(), Path.cwd().resolve()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)


def _program() -> list[str]:
    """What starts patchword here: its name where the shell finds it, else its file."""
    started = Path(sys.argv[0])
    if started.name != "patchword":
        found = shutil.which("patchword")
        own = Path(sys.executable).with_name("patchword")
        if found and Path(found) == own:
            return ["patchword"]
        return (
            [_script(own)] if own.exists() else [_script(Path(sys.executable)), "-m", "patchword"]
        )
    found = shutil.which("patchword")
    if found and Path(found).absolute() == started.absolute():
        return ["patchword"]
    return [_script(started)]


def _script(file: Path) -> str:
    """A program's path from the current folder. It may be a link, which is kept."""
    whole, here = file.absolute(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
