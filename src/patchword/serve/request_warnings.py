"""What patchword warns of while a request is answered, for the answer to say.

Python shows warnings by one function for the whole process. Ours gives them to the request in whose
context they arise, and all others to the function that was there before. What a command tells once,
at its end, would never be told by a server: a request hears its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from patchword import scope, visible_area
from patchword.errors import (
    ImageWarning,
    LongTextWarning,
    MethodWarning,
    SameLabelsWarning,
    SameMapWarning,
    SampledWarning,
    ScopeWarning,
    UnseenWarning,
)
from patchword.text.long_text import REMEDY

KINDS = (
    LongTextWarning, ImageWarning, ScopeWarning, UnseenWarning, SameLabelsWarning, SameMapWarning,
    MethodWarning, SampledWarning,
)  # fmt: skip

# What a client can do, whose requests have no options for it.
CLOSER = "a part of it is seen closer"
REMEDIES = visible_area.Remedies("a square part of it is seen whole", CLOSER, inspected=CLOSER)

_said: ContextVar[list[str] | None] = ContextVar("said", default=None)


@contextmanager
def heard(into: list[str] | None = None) -> Iterator[list[str]]:
    """A list that receives the warnings of what is done inside, each once."""
    _listen()
    found: list[str] = [] if into is None else into
    token = _said.set(found)
    try:
        with scope.apart(), visible_area.apart(REMEDIES):
            yield found
    finally:
        _said.reset(token)


def said() -> list[str]:
    """The warnings of this request so far."""
    found = _said.get()
    return [] if found is None else found


def say(messages: list[str]) -> None:
    """Warnings that arose elsewhere, for this request."""
    found = said()
    found += [message for message in messages if message not in found]


def _listen() -> None:
    """Every time anew: tests and libraries put their own function there for a while."""
    for kind in KINDS:
        if ("always", None, kind, None, 0) not in warnings.filters:
            warnings.simplefilter("always", kind)
    before = warnings.showwarning
    if getattr(before, "hears", False):
        return

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        found = _said.get()
        if found is None or not issubclass(category, KINDS):
            before(message, category, *where, **more)
        elif (text := str(message).partition(REMEDY)[0]) not in found:
            found.append(text)

    show.hears = True  # type: ignore[attr-defined]
    warnings.showwarning = show
