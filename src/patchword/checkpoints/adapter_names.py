"""Maps the module names of an adapter to tensors of its base.

An adapter names modules as the class does with which it was trained. The base's file may have them
without the prefix of that class, or under the names of transformers 4 (see memory_names.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from patchword.checkpoints import memory_names
from patchword.checkpoints.read import LazyTensor
from patchword.errors import CheckpointError

WEIGHTS = ("weight", "in_proj_weight")  # the latter of torch's MultiheadAttention
BIASES = ("bias", "in_proj_bias")


class Names:
    """The base's names of the tensors that an adapter changes.

    base: its tensors. modules: those of the adapter with matrices. replacements: tensors that
    replace the base's, or that it lacks; in the latter case they must be of the modules
    `saved_modules`. Raises CheckpointError if the base has no such module.
    """

    def __init__(
        self,
        base: Mapping[str, LazyTensor],
        modules: Sequence[str],
        replacements: Sequence[str],
        where: str,
        saved_modules: Sequence[str],
    ) -> None:
        self.base, self.where, self.saved_modules = base, where, saved_modules
        # A prefix to remove from the adapter's names, one to add to them, and one to add to the
        # base's.
        self.removed = self.added = self.base_prefix = ""
        changes = [
            change
            for change in self._prefix_changes(modules)
            if all(self._find_weight(module, *change) is not None for module in modules)
        ]
        if not changes:
            missing = [m for m in modules if self._find_weight(m, "", "") is None]
            raise CheckpointError(
                f"{where}: the base has no {missing[0]}, nor has it under another prefix; is it "
                "the base that this adapter was trained on?"
            )
        if len(changes) > 1:
            raise CheckpointError(
                f"{where}: its modules, {modules[0]} and so on, may be several of the base's; "
                "name them with their prefix"
            )
        self.removed, self.added = changes[0]
        if self.removed and any(self._find_tensor(name) is None for name in replacements):
            # The adapter adds a head to a tower without prefix: give the base's names the prefix.
            self.base_prefix, self.removed = self.removed, ""
            self.base = {self.base_prefix + name: tensor for name, tensor in base.items()}

    def renamed(self, name: str) -> str:
        """The name in the result of a tensor of the base."""
        return self.base_prefix + name

    def weight(self, module: str) -> str:
        """The weight of a module."""
        name = self._find_weight(module, self.removed, self.added)
        assert name is not None
        return name

    def tensor(self, name: str) -> str:
        """A tensor of the base, or a new one of a module that was saved whole."""
        base_name = self._find_tensor(name)
        if base_name is not None:
            return base_name
        if not any(f".{module}." in f".{name}" for module in self.saved_modules):
            raise CheckpointError(
                f"{self.where}: the base has no {name}, which the adapter replaces"
            )
        return name

    def _prefix_changes(self, modules: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Pairs of a prefix to remove and one to add, with which the first module may be one of
        the base's."""
        yield "", ""
        if not modules or self._find_weight(modules[0], "", "") is not None:
            return
        parts = modules[0].split(".")
        for count in range(1, len(parts)):
            yield ".".join(parts[:count]) + ".", ""
        for form in memory_names.forms(modules[0]):
            for leaf in WEIGHTS:
                end = f".{form}.{leaf}"
                for name in self.base:
                    if name.endswith(end):
                        yield "", name.removesuffix(end) + "."

    def _find_weight(self, module: str, removed: str, added: str) -> str | None:
        if not module.startswith(removed):
            return None
        for form in memory_names.forms(added + module.removeprefix(removed)):
            for leaf in WEIGHTS:
                if f"{form}.{leaf}" in self.base:
                    return f"{form}.{leaf}"
        return None

    def _find_tensor(self, name: str) -> str | None:
        if not name.startswith(self.removed):
            return None
        module, _, leaf = (self.added + name.removeprefix(self.removed)).rpartition(".")
        for form in memory_names.forms(module):
            for other in BIASES if leaf == "bias" else (leaf,):
                if f"{form}.{other}" in self.base:
                    return f"{form}.{other}"
        return None
