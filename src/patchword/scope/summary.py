"""Collect what many tasks find, and tell it once at the end instead of after each task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Generic, Protocol, TypeVar


class Collector(Protocol):
    """Collects findings of one kind."""

    def tell(self) -> None:
        """Warn of everything that was found."""


T = TypeVar("T", bound=Collector)


class CurrentCollector(Generic[T]):
    """The collector that tasks add their findings to, in this thread or asynchronous task."""

    def __init__(self, name: str) -> None:
        self._collector: ContextVar[T | None] = ContextVar(name, default=None)

    @property
    def current(self) -> T | None:
        """The collector; None if each task tells its own findings."""
        return self._collector.get()

    @contextmanager
    def together(self, collector: T) -> Iterator[T]:
        """Tasks add to this collector, and it tells at the end. Inside another `together` they add
        to the outer one."""
        if outer := self.current:
            yield outer
            return
        try:
            with self.untold(collector):
                yield collector
        finally:
            collector.tell()

    def apart(self) -> AbstractContextManager[None]:
        """Each task tells its own findings, also inside `together`."""
        return self.untold(None)

    @contextmanager
    def untold(self, collector: T | None) -> Iterator[None]:
        """Tasks add to this collector, which does not tell by itself."""
        token = self._collector.set(collector)
        try:
            yield
        finally:
            self._collector.reset(token)
