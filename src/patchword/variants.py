"""Named configurations as data, with the source of the numbers beside each.

A name gives a network to train from nothing; a checkpoint states its own numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from patchword.config import ModelConfig, PreprocessConfig, TextConfig, VisionConfig

HALF = (0.5, 0.5, 0.5)  # mean and std that bring pixels to [-1, 1]
CROP = 0.9  # of the resized image's side that timm's ViTs see
HEAD_WIDTH = 64
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Variant:
    """A configuration and where its numbers come from."""

    config: ModelConfig
    source: str


# width, depth, heads; the MLP is 4 times as wide.
VIT_SIZES = {
    "tiny": (192, 12, 3),  # Touvron et al. 2021 (DeiT), table 1
    "small": (384, 12, 6),  # the same
    "base": (768, 12, 12),  # Dosovitskiy et al. 2021, table 1
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}


def vit(size: str, patch: int, pixels: int = 224) -> ModelConfig:
    """A ViT classifier of the thousand ImageNet classes; `size` is one of VIT_SIZES."""
    width, depth, heads = VIT_SIZES[size]
    return ModelConfig(
        vision=VisionConfig(
            image_size=(pixels, pixels),
            patch_size=patch,
            width=width,
            depth=depth,
            heads=heads,
            mlp_width=4 * width,
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


def swin(width: int, stages: tuple[int, ...], heads: int, window: int, pixels: int) -> ModelConfig:
    """A Swin classifier of the thousand ImageNet classes, preprocessed as its authors do."""
    vision = VisionConfig(
        kind="swin",
        image_size=(pixels, pixels),
        patch_size=4,
        width=width,
        depth=0,
        heads=heads,
        mlp_width=4 * width,
        eps=1e-5,
        pool="norm_avg",
        class_token=False,
        stages=stages,
        positions="relative",
        window=window,
    )
    resize = "squash" if pixels > 224 else "shortest"
    return ModelConfig(
        vision=vision,
        preprocess=PreprocessConfig(
            size=(pixels, pixels),
            resize=resize,  # type: ignore[arg-type]
            resize_to=int(pixels / 0.875) if resize == "shortest" else pixels,
            crop_rounding="round",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        classes=1000,
    )


def clip_vit(size: str, patch: int, embed: int, text_width: int, pixels: int = 224) -> ModelConfig:
    """A CLIP with a ViT; `size` is one of VIT_SIZES."""
    width, depth, heads = VIT_SIZES[size]
    vision = VisionConfig(
        image_size=(pixels, pixels),
        patch_size=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp_width=4 * width,
        activation="quick_gelu",
        eps=1e-5,
        pre_norm=True,
        patch_bias=False,
    )
    return _clip(vision, embed, text_width)


def clip_resnet(
    stages: tuple[int, ...], width: int, embed: int, text_width: int, pixels: int = 224
) -> ModelConfig:
    """A CLIP with a ModifiedResNet; width: of its first stage before expansion, 64 in RN50."""
    vision = VisionConfig(
        kind="resnet",
        image_size=(pixels, pixels),
        patch_size=32,
        width=width,
        depth=0,
        heads=width * 32 // HEAD_WIDTH,  # of the attention pool, on 32 * width channels
        mlp_width=0,
        pool="attention",
        class_token=False,
        patch_bias=False,
        stages=stages,
    )
    return _clip(vision, embed, text_width)


def _clip(vision: VisionConfig, embed: int, text_width: int) -> ModelConfig:
    text = TextConfig(
        width=text_width,
        heads=text_width // HEAD_WIDTH,
        mlp_width=4 * text_width,
        activation="quick_gelu",
        cleaning="ftfy",
    )
    pixels = vision.image_size
    return ModelConfig(
        vision=vision,
        text=text,
        preprocess=PreprocessConfig(size=pixels, resize_to=pixels[0], crop_rounding="round"),
        embed_dim=embed,
    )


_VIT = "Dosovitskiy et al. 2021, table 1 and section 4.1"
_SMALL = "Touvron et al. 2021, table 1"
_RESNETS = "Radford et al. 2021, table 19"
_VITS = "Radford et al. 2021, table 20"
_SWIN = "Liu et al. 2021, section 3.3"

VARIANTS = {
    "vit-tiny-16": Variant(vit("tiny", 16), _SMALL),
    "vit-small-32": Variant(vit("small", 32), _SMALL),
    "vit-small-16": Variant(vit("small", 16), _SMALL),
    "vit-base-32": Variant(vit("base", 32), _VIT),
    "vit-base-16": Variant(vit("base", 16), _VIT),
    "vit-large-32": Variant(vit("large", 32), _VIT),
    "vit-large-16": Variant(vit("large", 16), _VIT),
    "vit-large-14": Variant(vit("large", 14), _VIT),
    "vit-huge-14": Variant(vit("huge", 14), _VIT),
    "clip-vit-base-32": Variant(clip_vit("base", 32, 512, 512), _VITS),
    "clip-vit-base-16": Variant(clip_vit("base", 16, 512, 512), _VITS),
    "clip-vit-large-14": Variant(clip_vit("large", 14, 768, 768), _VITS),
    "clip-vit-large-14-336": Variant(clip_vit("large", 14, 768, 768, 336), _VITS),
    "clip-rn50": Variant(clip_resnet((3, 4, 6, 3), 64, 1024, 512), _RESNETS),
    "clip-rn101": Variant(clip_resnet((3, 4, 23, 3), 64, 512, 512), _RESNETS),
    "clip-rn50x4": Variant(clip_resnet((4, 6, 10, 6), 80, 640, 640, 288), _RESNETS),
    "clip-rn50x16": Variant(clip_resnet((6, 8, 18, 8), 96, 768, 768, 384), _RESNETS),
    "clip-rn50x64": Variant(clip_resnet((3, 15, 36, 10), 128, 1024, 1024, 448), _RESNETS),
    "swin-tiny-7-224": Variant(swin(96, (2, 2, 6, 2), 3, 7, 224), _SWIN),
    "swin-small-7-224": Variant(swin(96, (2, 2, 18, 2), 3, 7, 224), _SWIN),
    "swin-base-7-224": Variant(swin(128, (2, 2, 18, 2), 4, 7, 224), _SWIN),
    "swin-base-12-384": Variant(swin(128, (2, 2, 18, 2), 4, 12, 384), _SWIN),
    "swin-large-7-224": Variant(swin(192, (2, 2, 18, 2), 6, 7, 224), _SWIN),
    "swin-large-12-384": Variant(swin(192, (2, 2, 18, 2), 6, 12, 384), _SWIN),
}
