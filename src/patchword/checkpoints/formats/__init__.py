"""Checkpoint formats, one file each.

A format is a module with

    matches(keys, files)    whether a checkpoint is of this format, by its tensor names (keys) and
                            its JSON files; exactly one format may match
    config(tensors, files)  the `ModelConfig`, from the JSON files and the shapes of the tensors
    rules(config)           how each tensor of our network is made; see rules.py
    TITLE, EXPECTS, NAMES   for errors: what it is, what it has, and tensors that it usually has

To add one, write such a file, and name it in `FORMATS`, in the list of formats of pyproject.toml,
and in tests/test_formats.py with a checkpoint that its own library writes. hf_dinov2.py is a short
example.
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
from patchword.checkpoints.read import Checkpoint
from patchword.checkpoints.timm_config import without_config
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


def recognise(opened: Checkpoint) -> ModuleType:
    """The one format that matches. Raises CheckpointError for none or several."""
    matching = [form for form in FORMATS if form.matches(opened.tensors, opened.files)]
    if len(matching) == 1:
        _refuse_timm_without_config(opened, matching[0])
        return matching[0]
    if matching:
        titles = " and ".join(form.TITLE for form in matching)
        raise CheckpointError(
            f"{opened.weights} is {titles}; one must be left: take the configuration that is not "
            f"of these weights out of {opened.folder}"
        )
    raise CheckpointError(unknown_format.report(opened, FORMATS))


def _refuse_timm_without_config(opened: Checkpoint, form: ModuleType) -> None:
    """Raise CheckpointError for a checkpoint of timm's trainer without config.json. It names its
    architecture, but not its preprocessing. Without a head it has the names of an MAE."""
    name = opened.entry.metadata.get("arch")
    if name is not None and "config.json" not in opened.files and form in (timm, timm_swin, mae):
        advice = without_config(name)
        raise CheckpointError(
            f"{opened.weights} is a checkpoint of timm's trainer, a {name}, but {advice}"
        )
