"""Taps: intermediate tensors of a network by name, on request, without hooks or copies of its
code."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from patchword.errors import UnsupportedError


class Taps:
    """The intermediate tensors that a caller requested, filled while the network runs.

    A module calls `keep("attn", tensor)`; `inside("blocks.3")` is the view that it passes to a
    submodule, whose names then start with "blocks.3.". What nobody requested is not kept.

    alone: nothing else is read of the network, whose last blocks need not run.
    """

    def __init__(self, names: Iterable[str] = (), alone: bool = False) -> None:
        self.names, self.alone = frozenset(names), alone
        self.kept: dict[str, Tensor] = {}
        self.offered: set[str] = set()
        self.prefix = ""

    def inside(self, part: str) -> Taps:
        """The same taps as seen by the named part of the network."""
        if not self.names:
            return self
        view = object.__new__(Taps)
        view.names, view.kept, view.offered = self.names, self.kept, self.offered
        view.alone = self.alone
        view.prefix = f"{self.prefix}{part}."
        return view

    def wants(self, name: str) -> bool:
        """True if the caller requested `name` of this module."""
        if not self.names:
            return False
        self.offered.add(self.prefix + name)
        return self.prefix + name in self.names

    def wants_inside(self, part: str) -> bool:
        """True if the caller requested the output of the named submodule, or anything inside it."""
        whole = self.prefix + part
        return any(name == whole or name.startswith(f"{whole}.") for name in self.names)

    @property
    def done(self) -> bool:
        """True where nothing more of the network has to run."""
        return self.alone and len(self.kept) == len(self.names)

    def keep(self, name: str, value: Tensor) -> None:
        """Keep `value` for the caller, if it was requested."""
        if self.wants(name):
            self.kept[self.prefix + name] = value

    def result(self) -> dict[str, Tensor]:
        """Everything that was requested. Raises UnsupportedError naming what the network does not
        have."""
        missing = sorted(self.names - set(self.kept))
        if missing:
            raise UnsupportedError(
                f"this network has no tap {', '.join(missing)}; "
                f"it has {', '.join(sorted(self.offered))}"
            )
        return {name: self.kept[name] for name in sorted(self.names)}


NO_TAPS = Taps()
