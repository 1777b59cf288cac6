"""What a model lets people choose."""

from __future__ import annotations

from patchword.api import Model
from patchword.config import ResNetConfig
from patchword.where.dense import EDITS
from patchword.where.heatmap import GRADCAM, RELEVANCE, SURGERY
from patchword.where.photo_maps import HEAD


def heatmaps(model: Model) -> dict[str, int]:
    """By the methods of heatmaps that a model can, how many layers may be chosen: 0 to that less
    one; 0 where a method has no such choice."""
    config, attention = model.config, model.image_tower.attention_layers
    edits = [*EDITS, SURGERY] if attention else ["cosine"]
    if isinstance(config.image_tower, ResNetConfig):  # one layer attends, its pooling
        edits = [name for name, edit in EDITS.items() if edit.one_layer and not edit.normalised]
    elif attention:
        edits.remove("attnpool")
    methods = {"auto": 0} | dict.fromkeys(edits, 0)
    methods |= dict.fromkeys(RELEVANCE if attention else (), len(attention))
    if config.matching and config.text is not None:
        methods[GRADCAM] = config.text.depth - 1  # in the last only the first token counts
    return methods | ({HEAD: 0} if config.dense_head else {})
