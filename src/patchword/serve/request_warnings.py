"""The warnings that arise while a request is answered, for its answer to report.

Python shows warnings by one function for the whole process. `_listen` replaces it: a warning goes
to the request in whose context it arises, or to the function that was there before. Warnings that a
command reports once at its end would never be reported by a server, so each request collects its
own.
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

# Advice for clients, whose requests have no options that would help.
CLOSER = "a part of it is seen closer"
REMEDIES = visible_area.Remedies("a square part of it is seen whole", CLOSER, inspected=CLOSER)

_messages: ContextVar[list[str] | None] = ContextVar("messages", default=None)


@contextmanager
def collect_warnings(messages: list[str] | None = None) -> Iterator[list[str]]:
    """A list that receives each warning of the block once: `messages`, or a new list."""
    _listen()
    collected: list[str] = [] if messages is None else messages
    token = _messages.set(collected)
    try:
        with scope.apart(), visible_area.apart(REMEDIES):
            yield collected
    finally:
        _messages.reset(token)


def current_warnings() -> list[str]:
    """The warnings of this request so far."""
    messages = _messages.get()
    return [] if messages is None else messages


def add_warnings(messages: list[str]) -> None:
    """Add warnings that arose outside of this request's context."""
    collected = current_warnings()
    collected += [message for message in messages if message not in collected]


def _listen() -> None:
    """Install our function; done for each request, because tests and libraries replace it for a
    while."""
    for kind in KINDS:
        if ("always", None, kind, None, 0) not in warnings.filters:
            warnings.simplefilter("always", kind)
    previous = warnings.showwarning
    if getattr(previous, "collects", False):
        return

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        messages = _messages.get()
        if messages is None or not issubclass(category, KINDS):
            previous(message, category, *place, **options)
            return
        text = str(message).partition(REMEDY)[0]
        if text not in messages:
            messages.append(text)

    show.collects = True  # type: ignore[attr-defined]
    warnings.showwarning = show
