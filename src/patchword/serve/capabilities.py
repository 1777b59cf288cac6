"""The heatmap methods of a model."""

from __future__ import annotations

from patchword.api import Model
from patchword.config import ResNetConfig
from patchword.where.dense import EDITS
from patchword.where.heatmap import GRADCAM, RELEVANCE, SURGERY
from patchword.where.photo_maps import HEAD


def heatmaps(model: Model) -> dict[str, int]:
    """The heatmap methods of a model, each with the number of layers that can be chosen; 0 where a
    method has no such choice."""
    config, attention = model.config, model.image_tower.attention_layers
    if isinstance(config.image_tower, ResNetConfig):  # only its pooling attends
        edits = [name for name, edit in EDITS.items() if edit.one_layer and not edit.normalised]
    elif attention:
        edits = [name for name in (*EDITS, SURGERY) if name != "attnpool"]
    else:
        edits = ["cosine"]
    methods = dict.fromkeys(["auto", *edits], 0)
    if attention:
        methods |= dict.fromkeys(RELEVANCE, len(attention))
    if config.matching and config.text is not None:
        methods[GRADCAM] = config.text.depth - 1  # in the last only the first token counts
    if config.dense_head:
        methods[HEAD] = 0
    return methods
