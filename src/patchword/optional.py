"""Libraries that only some jobs need: imported when such a job begins. The error distinguishes a
library that is not installed from one that is broken: they need different remedies."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from patchword.errors import PatchwordError


def optional(name: str, extra: str, purpose: str, error: type[PatchwordError]) -> Any:
    """The module `name`.

    extra    the optional dependencies of patchword that its library is among: "train"
    purpose  the option that needs it, which begins the message: "lora", "monitor.tensorboard"

    Raises `error` when it cannot be imported. One that is not installed is answered with the
    command that installs it; one that is installed and fails, with the first cause of that.
    """
    library = name.partition(".")[0]
    if library == "peft":
        _hide_broken_torchvision()
    try:
        return importlib.import_module(name)
    except Exception as reason:  # a broken installation fails with errors of any kind
        absent = isinstance(reason, ModuleNotFoundError) and reason.name == library
        install = f'pip install "patchword[{extra}]"'
        if absent:
            raise error(f"{purpose} needs {library}, which is not installed: {install}") from reason
        raise error(
            f"{purpose} needs {library}, which is installed but cannot be imported "
            f"({_first(reason)}): repair that, or install it anew: {install}"
        ) from reason


def _hide_broken_torchvision() -> None:
    """Let transformers, which peft imports, take a torchvision that does not fit the installed
    torch for one that is not installed; nothing here uses it. So the index's build is beside a
    torch for the CPU, which `make test` installs for the reference libraries."""
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception:  # a build for another torch fails with errors of any kind
        sys.modules["torchvision"] = None  # type: ignore[assignment]


def _first(error: BaseException) -> str:
    """What an error says, and the one that began it where that is another."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    messages = [f"{type(each).__name__}: {str(each).strip()}" for each in (error, first)]
    lines = [words.splitlines()[0] for words in messages]
    return lines[0] if first is error else f"{lines[0]}; the cause is {lines[1]}"
