"""Checkpoint formats, one file each.

A format is a module with `TITLE`, `EXPECTS` and `NAMES` (for errors: tensors that it usually has),
`matches(keys, files)`, `config(tensors, files)` and `rules(config)`; it knows no network. Exactly
one may match a checkpoint.
"""

from __future__ import annotations

from types import ModuleType

from patchword.checkpoints import unknown_format
from patchword.checkpoints.formats import (
    chinese_clip,
    hf_blip,
    hf_chinese_clip,
    hf_clip,
    hf_dinov2,
    hf_mae,
    hf_siglip,
    hf_swin,
    hf_vit,
    lavis,
    mae,
    open_clip,
    open_clip_custom,
    openai,
    own,
    timm,
    timm_swin,
)
from patchword.checkpoints.read import Source
from patchword.checkpoints.timm_config import unnamed
from patchword.errors import CheckpointError

FORMATS: tuple[ModuleType, ...] = (
    own,
    chinese_clip,
    hf_blip,
    hf_chinese_clip,
    hf_clip,
    hf_dinov2,
    hf_mae,
    hf_siglip,
    hf_swin,
    hf_vit,
    lavis,
    mae,
    open_clip,
    open_clip_custom,
    openai,
    timm,
    timm_swin,
)


def recognise(opened: Source) -> ModuleType:
    """The one format that matches. Raises CheckpointError, with what was found, for none or
    several."""
    found = [form for form in FORMATS if form.matches(opened.tensors, opened.files)]
    if len(found) == 1:
        _refuse_unnamed(opened, found[0])
        return found[0]
    if found:
        raise CheckpointError(
            f"{opened.weights} is {' and '.join(form.TITLE for form in found)}; one must be left: "
            f"take the configuration that is not of these weights out of {opened.folder}"
        )
    raise CheckpointError(unknown_format.report(opened, FORMATS))


def _refuse_unnamed(opened: Source, form: ModuleType) -> None:
    """Raise CheckpointError for a checkpoint of timm's trainer without config.json: it names its
    architecture, and not its preprocessing; without a head it has the names of an MAE."""
    name = opened.entry.metadata.get("arch")
    if name is not None and "config.json" not in opened.files and form in (timm, timm_swin, mae):
        raise CheckpointError(
            f"{opened.weights} is a checkpoint of timm's trainer, a {name}, but {unnamed(name)}"
        )
