"""open_clip's CustomTextCLIP, such as SigLIP: its CLIP with a text tower called `text.*`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from patchword.checkpoints.formats import open_clip
from patchword.checkpoints.read import LazyTensor
from patchword.checkpoints.rules import Rule
from patchword.config import ModelConfig

TITLE = "an open_clip model with a text tower of its own"
EXPECTS = "open_clip_config.json, tensors visual.* and text.*"
NAMES = ("visual.", "text.")

TEXT = "text."


def matches(keys: Collection[str], files: Mapping[str, Any]) -> bool:
    """open_clip's configuration, and a text tower with a prefix."""
    return open_clip.CONFIG_FILE in files and any(key.startswith(TEXT) for key in keys)


def config(tensors: Mapping[str, LazyTensor], files: Mapping[str, Any]) -> ModelConfig:
    """open_clip_config.json, checked against the tensors."""
    return open_clip.config(tensors, files, TEXT)


def rules(config: ModelConfig) -> Iterator[Rule]:
    """open_clip's CustomTextCLIP -> patchword."""
    return open_clip.rules(config, TEXT)
