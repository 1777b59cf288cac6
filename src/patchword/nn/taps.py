"""Taps: intermediate tensors of a network, requested by name, without hooks or copies of its
code."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from patchword.errors import UnsupportedError


class Taps:
    """The intermediate tensors that a caller requested, filled while the network runs.

    A module calls `keep("attn", tensor)`, which stores the tensor if it was requested. To a
    submodule it passes `inside("blocks.3")`, whose names start with "blocks.3.".

    stop_early: the caller reads nothing but the taps, so that blocks after the last tap need not
    run.
    """

    def __init__(self, names: Iterable[str] = (), stop_early: bool = False) -> None:
        self.names, self.stop_early = frozenset(names), stop_early
        self.tensors: dict[str, Tensor] = {}
        self.available: set[str] = set()
        self.prefix = ""

    def inside(self, part: str) -> Taps:
        """The same taps for a submodule, under its name."""
        if not self.names:
            return self
        view = object.__new__(Taps)
        view.names, view.stop_early = self.names, self.stop_early
        view.tensors, view.available = self.tensors, self.available  # shared with this one
        view.prefix = f"{self.prefix}{part}."
        return view

    def wants(self, name: str) -> bool:
        """True if the caller requested `name` of this module."""
        if not self.names:
            return False
        self.available.add(self.prefix + name)
        return self.prefix + name in self.names

    def wants_inside(self, part: str) -> bool:
        """True if the caller requested the output of the named submodule, or anything inside it."""
        path = self.prefix + part
        return any(name == path or name.startswith(f"{path}.") for name in self.names)

    @property
    def done(self) -> bool:
        """True if the rest of the network need not run."""
        return self.stop_early and len(self.tensors) == len(self.names)

    def keep(self, name: str, value: Tensor) -> None:
        """Keep `value` for the caller, if it was requested."""
        if self.wants(name):
            self.tensors[self.prefix + name] = value

    def result(self) -> dict[str, Tensor]:
        """Everything that was requested. Raises UnsupportedError naming what the network does not
        have."""
        missing = sorted(self.names - set(self.tensors))
        if missing:
            raise UnsupportedError(
                f"this network has no tap {', '.join(missing)}; "
                f"it has {', '.join(sorted(self.available))}"
            )
        return {name: self.tensors[name] for name in sorted(self.names)}


NO_TAPS = Taps()
