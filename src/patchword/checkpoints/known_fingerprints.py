"""Fingerprints of large checkpoints, computed once: hashing ViT-B/32 takes a third of a second, an
eighth of the time to a first answer.

They are kept by what is known of the files without reading them, so that a file that is written
again, moved or exchanged is hashed again. A cache is a convenience: where it cannot be read or
written, the fingerprint is computed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from patchword import cache
from patchword.atomic_write import write
from patchword.checkpoints.layouts import ADAPTER
from patchword.checkpoints.read import Source, may_be_weights
from patchword.config import ModelConfig
from patchword.fingerprint import described, fingerprint
from patchword.text.tokenizer import Tokenizer

LEAST = 64 << 20  # bytes of weights; fewer are hashed sooner than a file is looked up


def identity(opened: Source) -> str:
    """What is known of a checkpoint's files of weights without reading them; empty for a small one.
    Taken before they are read, so that one that changes meanwhile is not known by it."""
    folder = opened.weights.parent
    paths = {opened.weights, *(path for path in folder.iterdir() if may_be_weights(path.name))}
    if opened.adapter is not None:
        paths |= {opened.adapter, opened.adapter.with_name(ADAPTER)}  # which states its scale
    states = {path: path.stat() for path in sorted(paths) if path.exists()}  # no dangling links
    if sum(state.st_size for state in states.values()) < LEAST:
        return ""
    return repr(
        [
            (os.path.realpath(path), s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
            for path, s in states.items()
        ]
    )


class Known:
    """What is known of one checkpoint. files: its `identity`; options: those of `load` that change
    weights."""

    def __init__(
        self,
        files: str,
        config: ModelConfig,
        tokenizer: Tokenizer | None,
        options: Mapping[str, Any],
    ) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._path: Path | None = None
        if files:
            key = described(config, tokenizer)
            key.update(repr((version("patchword"), files, sorted(options.items()))).encode())
            self._path = cache.folder() / "fingerprints" / key.hexdigest()[:32]

    def found(self) -> str:
        """Its fingerprint, which needs no weights; empty where it was not computed before."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = self._path.read_text(encoding="ascii") if self._path else ""
            return text if re.fullmatch(r"\d+-[0-9a-f]{16}", text) else ""
        return ""

    def of(self, network: nn.Module) -> str:
        """Its fingerprint, of the loaded network where it has to be computed."""
        if found := self.found():
            return found
        digest = fingerprint(network, self._config, self._tokenizer)
        with contextlib.suppress(OSError):
            if self._path:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write(self._path, digest)
        return digest
