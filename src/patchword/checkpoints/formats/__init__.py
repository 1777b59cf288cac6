"""Checkpoint formats, one file each.

A format is a module with `TITLE` and `EXPECTS` (for errors), `matches(keys, files)`,
`config(tensors, files)` and `rules(config)`; it knows no network. Exactly one may match a
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from patchword.checkpoints.formats import (
    chinese_clip,
    hf_blip,
    hf_chinese_clip,
    hf_clip,
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
from patchword.errors import CheckpointError

FORMATS: tuple[ModuleType, ...] = (
    own,
    chinese_clip,
    hf_blip,
    hf_chinese_clip,
    hf_clip,
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
    """The one format that matches. Raises CheckpointError, naming what was found, otherwise."""
    found = [form for form in FORMATS if form.matches(opened.tensors, opened.files)]
    if len(found) == 1:
        return found[0]
    names = sorted(opened.tensors)
    said = [f"tensors {', '.join(names[:3])} ... ({len(names)} in all)", *_types(opened)]
    verdict = " and ".join(form.TITLE for form in found) or "no format that patchword reads"
    known = "\n".join(f"  {form.TITLE}: {form.EXPECTS}" for form in FORMATS)
    raise CheckpointError(
        f"{opened.weights} is {verdict}. Found {'; '.join(said)}. Exactly one must match:\n{known}"
    )


def _types(opened: Source) -> Iterator[str]:
    """What the usual configuration files say that the model is."""
    for name in ("config.json", "open_clip_config.json"):
        stated = opened.files.get(name)
        if isinstance(stated, dict):
            kinds = [f"{k} {stated[k]!r}" for k in ("model_type", "architecture") if k in stated]
            yield f"{name} with {' and '.join(kinds) or 'keys ' + ', '.join(list(stated)[:5])}"
