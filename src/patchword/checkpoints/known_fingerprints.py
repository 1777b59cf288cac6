"""A cache of the fingerprints of large checkpoints: hashing ViT-B/32 takes a third of a second, an
eighth of the time to a first answer.

Its keys are the paths, sizes and times of the files: a file that was written again, moved or
exchanged is hashed again. If the cache cannot be read or written, the fingerprint is computed.
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
from patchword.checkpoints.layouts import ADAPTER_CONFIG
from patchword.checkpoints.read import Checkpoint
from patchword.checkpoints.weight_files import may_be_weights
from patchword.config import ModelConfig
from patchword.fingerprint import described, fingerprint
from patchword.text.tokenizer import Tokenizer

MIN_BYTES = 64 << 20  # of weights; hashing fewer is as fast as reading the cache


def identity(opened: Checkpoint) -> str:
    """Paths, sizes and times of the files of weights; "" for a small checkpoint.

    To be called before the weights are read: a file that changes while it is read gets another
    identity.
    """
    folder = opened.weights.parent
    paths = {path for path in folder.iterdir() if may_be_weights(path.name)} | {opened.weights}
    if opened.adapter is not None:
        paths |= {
            opened.adapter,
            opened.adapter.with_name(ADAPTER_CONFIG),
        }  # which states its scale
    states = {path: path.stat() for path in sorted(paths) if path.exists()}  # no dangling links
    if sum(state.st_size for state in states.values()) < MIN_BYTES:
        return ""
    return repr(
        [
            (os.path.realpath(path), s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
            for path, s in states.items()
        ]
    )


class CachedFingerprint:
    """The fingerprint of one checkpoint.

    files: its `identity`. options: those of `load` that change weights.
    """

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

    def read(self) -> str:
        """The fingerprint in the cache; "" if it is not there."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = self._path.read_text(encoding="ascii") if self._path else ""
            return text if re.fullmatch(r"\d+-[0-9a-f]{16}", text) else ""
        return ""

    def of(self, network: nn.Module) -> str:
        """The fingerprint in the cache, else that of the loaded network, which is then stored."""
        if cached := self.read():
            return cached
        digest = fingerprint(network, self._config, self._tokenizer)
        with contextlib.suppress(OSError):
            if self._path:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write(self._path, digest)
        return digest
