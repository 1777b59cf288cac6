"""Imports libraries that only some jobs need, when such a job begins. Errors distinguish a library
that is not installed from one that is broken, because the remedies differ."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from patchword.errors import PatchwordError


def optional(name: str, extra: str, purpose: str, error: type[PatchwordError]) -> Any:
    """The module `name`.

    extra    the extra of patchword that installs its library: "train"
    purpose  the option that needs it, for the message: "lora", "monitor.tensorboard"

    Raises `error` if it cannot be imported. For a library that is not installed, the message has
    the command that installs it; for one that is broken, the first cause.
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
    """The message of an error, and that of its first cause, if it has one."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    if first is error:
        return _headline(error)
    return f"{_headline(error)}; the cause is {_headline(first)}"


def _headline(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
