"""Maps an adapter's module names to tensors of its base.

An adapter names modules as the class in which it was trained does. The base's file may have them
without that class's prefix, or under the names of transformers 4, where 5 has others in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from patchword.checkpoints.read import Stored
from patchword.errors import CheckpointError

# Modules of ViT, DeiT, Swin and MAE in transformers 5, and in every file of theirs.
IN_FILES = (
    (r"\battention\.q_proj\b", ("attention.attention.query", "attention.self.query")),
    (r"\battention\.k_proj\b", ("attention.attention.key", "attention.self.key")),
    (r"\battention\.v_proj\b", ("attention.attention.value", "attention.self.value")),
    (r"\battention\.o_proj\b", ("attention.output.dense",)),
    (r"\bmlp\.fc1\b", ("intermediate.dense",)),
    (r"\bmlp\.fc2\b", ("output.dense",)),
)
LEAVES = ("weight", "in_proj_weight")  # the latter of torch's MultiheadAttention
EXTRA = ("bias", "in_proj_bias")


class Names:
    """The base's names of the tensors that an adapter changes.

    modules: those with matrices. whole: tensors that replace the base's, or that it lacks, which
    must then be of the modules `saved`. Raises CheckpointError where the base has no such module.
    """

    def __init__(
        self,
        base: Mapping[str, Stored],
        modules: Sequence[str],
        whole: Sequence[str],
        where: str,
        saved: Sequence[str],
    ) -> None:
        self.base, self.where, self.saved = base, where, saved
        self.cut = self.put = ""  # prefix to remove from, and to add to, the adapter's names
        self.before = ""  # prefix to add to the base's names
        fitting = [change for change in self._changes(modules) if self._fits(modules, *change)]
        if not fitting:
            lost = [m for m in modules if self._find(m, "", "") is None]
            raise CheckpointError(
                f"{where}: the base has no {lost[0]}, nor has it under another prefix; is it the "
                "base that this adapter was trained on?"
            )
        if len(fitting) > 1:
            raise CheckpointError(
                f"{where}: its modules, {modules[0]} and so on, may be several of the base's; "
                "name them with their prefix"
            )
        self.cut, self.put = fitting[0]
        if self.cut and any(self._find_tensor(name) is None for name in whole):
            # A head was put beside a bare tower: the base's names become those of the whole.
            self.before, self.cut = self.cut, ""
            self.base = {self.before + name: tensor for name, tensor in base.items()}

    def renamed(self, name: str) -> str:
        """A name of the base in the result."""
        return self.before + name

    def weight(self, module: str) -> str:
        """The weight of a module."""
        found = self._find(module, self.cut, self.put)
        assert found is not None
        return found

    def tensor(self, name: str) -> str:
        """A tensor: the base's, or a new one of a module that was saved whole."""
        found = self._find_tensor(name)
        if found is not None:
            return found
        if not any(f".{module}." in f".{name}" for module in self.saved):
            raise CheckpointError(
                f"{self.where}: the base has no {name}, which the adapter replaces"
            )
        return name

    def _changes(self, modules: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Changes of prefix under which the first module may be one of the base's."""
        yield "", ""
        if not modules or self._find(modules[0], "", "") is not None:
            return
        parts = modules[0].split(".")
        for count in range(1, len(parts)):
            yield ".".join(parts[:count]) + ".", ""
        ends = tuple(f".{name}.{leaf}" for name in _older(modules[0]) for leaf in LEAVES)
        for name in self.base:
            for end in ends:
                if name.endswith(end):
                    yield "", name.removesuffix(end) + "."

    def _fits(self, modules: Sequence[str], cut: str, put: str) -> bool:
        return all(self._find(module, cut, put) is not None for module in modules)

    def _find(self, module: str, cut: str, put: str) -> str | None:
        if not module.startswith(cut):
            return None
        for name in _older(put + module.removeprefix(cut)):
            for leaf in LEAVES:
                if f"{name}.{leaf}" in self.base:
                    return f"{name}.{leaf}"
        return None

    def _find_tensor(self, name: str) -> str | None:
        if not name.startswith(self.cut):
            return None
        module, _, leaf = (self.put + name.removeprefix(self.cut)).rpartition(".")
        leaves = EXTRA if leaf == "bias" else (leaf,)
        tries = [f"{older}.{each}" for older in _older(module) for each in leaves]
        return next((each for each in tries if each in self.base), None)


def _older(module: str) -> Iterator[str]:
    """A module's name, and those that files may have for it."""
    names = [module, re.sub(r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2.", module)]
    yield from names
    for pattern, others in IN_FILES:
        if re.search(pattern, module):
            yield from (re.sub(pattern, other, name) for name in names for other in others)
