"""The methods, by name."""

from __future__ import annotations

from patchword.inspect.memory import Memory
from patchword.inspect.mutual import Mutual
from patchword.inspect.protocol import Method
from patchword.inspect.reference import Reference
from patchword.inspect.subspace import Subspace
from patchword.inspect.winclip import WinCLIP

METHODS: dict[str, type[Method]] = {
    kind.name: kind for kind in (Memory, Subspace, WinCLIP, Mutual, Reference)
}
