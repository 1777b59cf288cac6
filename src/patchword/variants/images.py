"""Variants of image models: ViT, DeiT, Swin and MAE."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from patchword.config import MaskedConfig, ModelConfig, PreprocessConfig, SwinConfig, ViTConfig
from patchword.variants.base import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MLP_WIDTHS,
    VIT_SIZES,
    Variant,
)

CROP = 0.9  # of the side of the resized image, as for timm's ViTs


def vit(size: str, patch: int, pixels: int = 224) -> ModelConfig:
    """A ViT that classifies ImageNet's thousand classes; size: one of VIT_SIZES."""
    width, depth, heads = VIT_SIZES[size]
    return ModelConfig(
        vision=ViTConfig(
            image_size=(pixels, pixels),
            patch_size=patch,
            width=width,
            depth=depth,
            heads=heads,
            mlp_width=MLP_WIDTHS.get(size, 4 * width),
        ),
        preprocess=PreprocessConfig(
            size=(pixels, pixels),
            resize_to=int(pixels / CROP),
            crop_rounding="round",
            mean=HALF,
            std=HALF,
        ),
        classes=1000,
    )


def deit(size: str, distilled: bool = False) -> ModelConfig:
    """A DeiT; size: one of VIT_SIZES; distilled: with the distillation token and its head."""
    plain = vit(size, 16)
    assert isinstance(plain.vision, ViTConfig)
    pool: Literal["cls", "distilled"] = "distilled" if distilled else "cls"
    return replace(
        plain,
        vision=replace(plain.vision, pool=pool),
        preprocess=replace(plain.preprocess, resize_to=256, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    )


def deit3(size: str, patch: int) -> ModelConfig:
    """A DeiT-III: with layer scale, without a position for the class token, not cropped."""
    plain = vit(size, patch)
    assert isinstance(plain.vision, ViTConfig)
    return replace(
        plain,
        vision=replace(plain.vision, layer_scale=True, positions="patches"),
        preprocess=replace(plain.preprocess, resize_to=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    )


def swin(width: int, stages: tuple[int, ...], heads: int, window: int, pixels: int) -> ModelConfig:
    """A Swin that classifies ImageNet's thousand classes, with its authors' preprocessing.

    heads: of the first stage. window: its side in patches.
    """
    vision = SwinConfig(
        image_size=(pixels, pixels),
        patch_size=4,
        width=width,
        heads=heads,
        mlp_width=4 * width,
        stages=stages,
        window=window,
    )
    resize: Literal["squash", "shortest"] = "squash" if pixels > 224 else "shortest"
    return ModelConfig(
        vision=vision,
        preprocess=PreprocessConfig(
            size=(pixels, pixels),
            resize=resize,
            resize_to=int(pixels / 0.875) if resize == "shortest" else pixels,
            crop_rounding="round",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        classes=1000,
    )


def mae(size: str, patch: int, pixels: int = 224) -> ModelConfig:
    """A masked autoencoder; size: one of VIT_SIZES. Its targets are normalised, as in the paper's
    best models (He et al. 2022, table 1d)."""
    vision = vit(size, patch, pixels).vision
    assert isinstance(vision, ViTConfig)
    return ModelConfig(
        vision=replace(vision, positions="sincos"),
        preprocess=PreprocessConfig(
            size=(pixels, pixels),
            resize_to=pixels * 256 // 224,
            crop_rounding="round",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        masked=MaskedConfig(norm_pixels=True),
    )


_VIT = "Dosovitskiy et al. 2021, table 1 and section 4.1"
_SMALL = "Touvron et al. 2021, table 1"
_ZHAI = "Zhai et al. 2022, table 2"
_DISTILLED = "Touvron et al. 2021, section 4 and table 1"
_DEIT_3 = "Touvron et al. 2022 (DeiT III), section 3; positions as in their code"
_MAES = "He et al. 2022, section 4 and table 1; the decoder's 16 heads as in their code"
_SWIN = "Liu et al. 2021, section 3.3"

VARIANTS = {
    "vit-tiny-16": Variant(vit("tiny", 16), _SMALL),
    "vit-small-8": Variant(vit("small", 8), _SMALL),
    "vit-small-32": Variant(vit("small", 32), _SMALL),
    "vit-small-16": Variant(vit("small", 16), _SMALL),
    "vit-base-8": Variant(vit("base", 8), _VIT),
    "vit-base-32": Variant(vit("base", 32), _VIT),
    "vit-base-16": Variant(vit("base", 16), _VIT),
    "vit-large-32": Variant(vit("large", 32), _VIT),
    "vit-large-16": Variant(vit("large", 16), _VIT),
    "vit-large-14": Variant(vit("large", 14), _VIT),
    "vit-huge-14": Variant(vit("huge", 14), _VIT),
    "vit-giant-14": Variant(vit("giant", 14), _ZHAI),
    "vit-gigantic-14": Variant(vit("gigantic", 14), _ZHAI),
    "deit-tiny-16": Variant(deit("tiny"), _SMALL),
    "deit-small-16": Variant(deit("small"), _SMALL),
    "deit-base-16": Variant(deit("base"), _SMALL),
    "deit-tiny-distilled-16": Variant(deit("tiny", distilled=True), _DISTILLED),
    "deit-small-distilled-16": Variant(deit("small", distilled=True), _DISTILLED),
    "deit-base-distilled-16": Variant(deit("base", distilled=True), _DISTILLED),
    "deit3-small-16": Variant(deit3("small", 16), _DEIT_3),
    "deit3-base-16": Variant(deit3("base", 16), _DEIT_3),
    "deit3-large-16": Variant(deit3("large", 16), _DEIT_3),
    "deit3-huge-14": Variant(deit3("huge", 14), _DEIT_3),
    "mae-vit-base-16": Variant(mae("base", 16), _MAES),
    "mae-vit-large-16": Variant(mae("large", 16), _MAES),
    "mae-vit-huge-14": Variant(mae("huge", 14), _MAES),
    "swin-tiny-7-224": Variant(swin(96, (2, 2, 6, 2), 3, 7, 224), _SWIN),
    "swin-small-7-224": Variant(swin(96, (2, 2, 18, 2), 3, 7, 224), _SWIN),
    "swin-base-7-224": Variant(swin(128, (2, 2, 18, 2), 4, 7, 224), _SWIN),
    "swin-base-12-384": Variant(swin(128, (2, 2, 18, 2), 4, 12, 384), _SWIN),
    "swin-large-7-224": Variant(swin(192, (2, 2, 18, 2), 6, 7, 224), _SWIN),
    "swin-large-12-384": Variant(swin(192, (2, 2, 18, 2), 6, 12, 384), _SWIN),
}
