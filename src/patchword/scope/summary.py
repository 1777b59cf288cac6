"""What many tasks find, told once at the end instead of by each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Generic, Protocol, TypeVar


class Collector(Protocol):
    """What is found, as it comes."""

    def tell(self) -> None:
        """Warn of it."""


T = TypeVar("T", bound=Collector)


class Once(Generic[T]):
    """Who collects what one kind of tasks finds."""

    def __init__(self, name: str) -> None:
        self._collector: ContextVar[T | None] = ContextVar(name, default=None)

    @property
    def current(self) -> T | None:
        """Who collects now; None where each task tells by itself."""
        return self._collector.get()

    @contextmanager
    def together(self, collector: T) -> Iterator[T]:
        """What tasks find is told by this collector, at the end; within tasks that are told
        together, by theirs."""
        if outer := self.current:
            yield outer
            return
        try:
            with self.untold(collector):
                yield collector
        finally:
            collector.tell()

    def apart(self) -> AbstractContextManager[None]:
        """Each task tells by itself, whoever collects around it."""
        return self.untold(None)

    @contextmanager
    def untold(self, collector: T | None) -> Iterator[None]:
        """What tasks find is not told here: whoever made the collector may."""
        token = self._collector.set(collector)
        try:
            yield
        finally:
            self._collector.reset(token)
