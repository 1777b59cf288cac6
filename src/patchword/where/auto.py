"""The default heatmap method of a model, and the reason for it."""

from __future__ import annotations

from collections.abc import Collection

from patchword.bundle import Bundle
from patchword.config import ModelConfig, ViTConfig

LARGE = 336  # pixels: from there on `RISKY` methods were reported to collapse in a ViT-L/14
RISKY = ("sclip", "clearclip", "surgery")


def usual(model: Bundle, like: bool = False) -> tuple[str, str]:
    """A method and the reason for it. like: for comparing patches with each other, not with texts.
    Raises UnsupportedError for a model without an image tower."""
    tower = model.image_tower
    config, vision = model.config, model.config.image_tower
    if not tower.attention_layers:
        return "cosine", "a Swin attends inside windows; its patch tokens are taken unchanged"
    if config.dense_head and not like:
        return "head", "trained with masks for this"
    if config.matching and not like:
        return "gradcam", "what the head that matches images and texts attends to"
    if tower.pool_layer in tower.attention_layers:  # a ResNet attends nowhere else
        return "maskclip", "its pooling's values, place by place (MaskCLIP)"
    if tower.pool_layer:
        return "cosine", "each patch through the attention pooling as its only key; not measured"
    if isinstance(vision, ViTConfig) and vision.stem_stages:
        return "surgery", "measured on the embedded model: 71% of coloured shapes, naclip 46%"
    if config.blip and config.embed_dim:
        return "clearclip", "queries with queries, as ClearCLIP's code has a BLIP; not measured"
    if like or not config.embed_dim:
        return "cosine", "patches of the last layer; not measured"
    return "naclip", "the best published one of a single pass without other models; not measured"


def usual_of(model: Bundle, able: Collection[str]) -> str:
    """The default method if it is one of `able`, else the default for comparing patches."""
    method, _ = usual(model)
    return method if method in able else usual(model, like=True)[0]


def warning(config: ModelConfig, window: int | None = None) -> str:
    """What is known to go wrong with `RISKY` methods in this tower; "" if nothing is. window: the
    side of the windows that photos are cut into."""
    vision = config.image_tower
    if (
        isinstance(vision, ViTConfig)
        and vision.depth == 24
        and vision.patch_size == 14
        and (window or min(config.preprocess.size)) >= LARGE
    ):
        return (
            f"{', '.join(RISKY)} were reported to collapse in a ViT-L/14 at 336 px "
            "(VOC20 mIoU 50 instead of 80); look at windows of 224, or at naclip and scclip"
        )
    return ""
