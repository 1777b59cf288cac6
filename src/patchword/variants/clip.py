"""Variants of CLIP: OpenAI's, open_clip's, CLIPA, Chinese-CLIP, and towers alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from patchword.config import (
    ModelConfig,
    PreprocessConfig,
    ResNetConfig,
    TextConfig,
    VisionConfig,
    ViTConfig,
)
from patchword.variants.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MLP_WIDTHS,
    VIT_SIZES,
    Variant,
)

HEAD_WIDTH = 64
CLIP_END, CLIP_MARK = 49407, 0  # ids of CLIP's end token and of "!", which texts are padded with


def clip_vit(
    size: str,
    patch: int,
    embed: int,
    text_width: int,
    pixels: int = 224,
    text_depth: int = 12,
    act: Literal["gelu", "quick_gelu"] = "quick_gelu",
) -> ModelConfig:
    """A CLIP with a ViT; size: one of VIT_SIZES. OpenAI's have QuickGELU in both towers."""
    width, depth, heads = VIT_SIZES[size]
    vision = ViTConfig(
        image_size=(pixels, pixels),
        patch_size=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp_width=MLP_WIDTHS.get(size, 4 * width),
        activation=act,
        eps=1e-5,
        pre_norm=True,
        patch_bias=False,
    )
    return _clip(vision, embed, text_width, text_depth, act)


def squashed(clip: ModelConfig) -> ModelConfig:
    """The same model, with images that are squashed to its size and not cropped."""
    return replace(clip, preprocess=replace(clip.preprocess, resize="squash"))


def clipa(
    size: str, embed: int, text_width: int, text_depth: int, pixels: int = 224
) -> ModelConfig:
    """A CLIPA-v2 with patches of 14 pixels; size: one of VIT_SIZES. An image's features are the
    mean of its patches, a text's are those of the last of 32 positions."""
    clip = clip_vit(size, 14, embed, text_width, pixels, text_depth, "gelu")
    assert clip.text is not None
    assert isinstance(clip.vision, ViTConfig)
    text = replace(
        clip.text,
        vocab_size=32000,
        context=32,
        causal=False,
        pool="last",
        end_token=-1,
        padding="attended",
        cleaning="whitespace",
    )
    preprocess = replace(
        squashed(clip).preprocess, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    vision = replace(clip.vision, pool="avg", pre_norm=False)
    return replace(clip, vision=vision, text=text, preprocess=preprocess)


def clip_resnet(
    stages: tuple[int, ...], width: int, embed: int, text_width: int, pixels: int = 224
) -> ModelConfig:
    """A CLIP with a ModifiedResNet. width: of the first stage before expansion, 64 in RN50."""
    vision = ResNetConfig(
        image_size=(pixels, pixels),
        width=width,
        stages=stages,
        heads=width * 32 // HEAD_WIDTH,  # of the attention pool, on 32 * width channels
    )
    return _clip(vision, embed, text_width)


def clip_text(
    width: int, depth: int, heads: int, act: Literal["gelu", "quick_gelu"], embed: int, pad: int
) -> ModelConfig:
    """The text tower of a CLIP. embed: dimensions of its projection; 0 for none. pad: the id of the
    padding."""
    text = TextConfig(
        width=width, depth=depth, heads=heads, mlp_width=4 * width, activation=act, pad_token=pad
    )
    return ModelConfig(text=text, embed_dim=embed)


def _clip(
    vision: VisionConfig,
    embed: int,
    text_width: int,
    text_depth: int = 12,
    act: Literal["gelu", "quick_gelu"] = "quick_gelu",
) -> ModelConfig:
    text = TextConfig(
        width=text_width,
        depth=text_depth,
        heads=text_width // HEAD_WIDTH,
        mlp_width=4 * text_width,
        activation=act,
        cleaning="ftfy",
    )
    pixels = vision.image_size
    return ModelConfig(
        vision=vision,
        text=text,
        preprocess=PreprocessConfig(size=pixels, resize_to=pixels[0], crop_rounding="round"),
        embed_dim=embed,
    )


# Chinese RoBERTas (Cui et al. 2020): width, depth, heads. The MLP is 4 times as wide.
ROBERTAS = {
    "rbt3": (768, 3, 12),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def chinese_clip(clip: ModelConfig, roberta: str) -> ModelConfig:
    """A Chinese-CLIP: a CLIP whose text tower is a RoBERTa; roberta: one of ROBERTAS."""
    width, depth, heads = ROBERTAS[roberta]
    text = TextConfig(
        vocab_size=21128,
        context=512,
        width=width,
        depth=depth,
        heads=heads,
        mlp_width=4 * width,
        eps=1e-12,
        causal=False,
        post_norm=True,
        pool="first",
        end_token=-1,  # the text is pooled at its first token
    )
    return replace(squashed(clip), text=text)


_RESNETS = "Radford et al. 2021, table 19"
_VITS = "Radford et al. 2021, table 20"
_CHINESE = "Yang et al. 2022 (Chinese CLIP); cn_clip/clip/model_configs of their code"

VARIANTS = {
    "clip-vit-base-32": Variant(clip_vit("base", 32, 512, 512), _VITS),
    "clip-vit-base-16": Variant(clip_vit("base", 16, 512, 512), _VITS),
    "clip-vit-large-14": Variant(clip_vit("large", 14, 768, 768), _VITS),
    "clip-vit-large-14-336": Variant(clip_vit("large", 14, 768, 768, 336), _VITS),
    "clip-vision-large-14-336": Variant(
        replace(clip_vit("large", 14, 768, 768, 336), text=None, embed_dim=0),
        "Radford et al. 2021, table 20; sees for LLaVA-1.5 (Liu et al. 2024, section 3.3)",
    ),
    "clip-text-large-14": Variant(
        clip_text(768, 12, 12, "quick_gelu", 0, CLIP_END),
        "Radford et al. 2021, table 20; conditions Stable Diffusion 1 and, first, SDXL",
    ),
    "clip-text-huge-14": Variant(
        clip_text(1024, 24, 16, "gelu", 0, CLIP_MARK),
        "open_clip's ViT-H-14; Stable Diffusion 2 keeps its first 23 blocks",
    ),
    "clip-text-bigg-14": Variant(
        clip_text(1280, 32, 20, "gelu", 1280, CLIP_MARK),
        "open_clip's ViT-bigG-14; conditions SDXL (Podell et al. 2023, section 2.1)",
    ),
    "clip-rn50": Variant(clip_resnet((3, 4, 6, 3), 64, 1024, 512), _RESNETS),
    "clip-rn101": Variant(clip_resnet((3, 4, 23, 3), 64, 512, 512), _RESNETS),
    "clip-rn50x4": Variant(clip_resnet((4, 6, 10, 6), 80, 640, 640, 288), _RESNETS),
    "clip-rn50x16": Variant(clip_resnet((6, 8, 18, 8), 96, 768, 768, 384), _RESNETS),
    "clip-rn50x64": Variant(clip_resnet((3, 15, 36, 10), 128, 1024, 1024, 448), _RESNETS),
    "chinese-clip-rn50": Variant(
        chinese_clip(clip_resnet((3, 4, 6, 3), 64, 1024, 512), "rbt3"), _CHINESE
    ),
    "chinese-clip-vit-base-16": Variant(
        chinese_clip(clip_vit("base", 16, 512, 512), "base"), _CHINESE
    ),
    "chinese-clip-vit-large-14": Variant(
        chinese_clip(clip_vit("large", 14, 768, 768), "base"), _CHINESE
    ),
    "chinese-clip-vit-large-14-336": Variant(
        chinese_clip(clip_vit("large", 14, 768, 768, 336), "base"), _CHINESE
    ),
    "chinese-clip-vit-huge-14": Variant(
        chinese_clip(clip_vit("huge", 14, 1024, 1024), "large"), _CHINESE
    ),
}

# By our name and that of open_clip.
_OPEN_CLIP = {
    ("clip-vit-base-32-gelu", "ViT-B-32"): clip_vit("base", 32, 512, 512, act="gelu"),
    ("clip-vit-base-32-256", "ViT-B-32-256"): clip_vit("base", 32, 512, 512, 256, act="gelu"),
    ("clip-vit-base-16-gelu", "ViT-B-16"): clip_vit("base", 16, 512, 512, act="gelu"),
    ("clip-vit-base-16-plus-240", "ViT-B-16-plus-240"): clip_vit(
        "plus", 16, 640, 640, 240, act="gelu"
    ),
    ("clip-vit-large-14-gelu", "ViT-L-14"): clip_vit("large", 14, 768, 768, act="gelu"),
    ("clip-vit-large-14-280", "ViT-L-14-280"): clip_vit("large", 14, 768, 768, 280, act="gelu"),
    ("clip-vit-large-14-336-gelu", "ViT-L-14-336"): clip_vit(
        "large", 14, 768, 768, 336, act="gelu"
    ),
    ("clip-vit-huge-14", "ViT-H-14"): clip_vit("huge", 14, 1024, 1024, 224, 24, "gelu"),
    ("clip-vit-huge-14-quickgelu", "ViT-H-14-quickgelu"): clip_vit("huge", 14, 1024, 1024, 224, 24),
    ("clip-vit-huge-14-378-quickgelu", "ViT-H-14-378-quickgelu"): squashed(
        clip_vit("huge", 14, 1024, 1024, 378, 24)
    ),
    ("clip-vit-giant-14", "ViT-g-14"): clip_vit("giant", 14, 1024, 1024, 224, 24, "gelu"),
    ("clip-vit-bigg-14", "ViT-bigG-14"): clip_vit("gigantic", 14, 1280, 1280, 224, 32, "gelu"),
    ("clip-vit-bigg-14-quickgelu", "ViT-bigG-14-quickgelu"): clip_vit(
        "gigantic", 14, 1280, 1280, 224, 32
    ),
    ("clipa-vit-large-14", "ViT-L-14-CLIPA"): clipa("large", 768, 768, 12),
    ("clipa-vit-large-14-336", "ViT-L-14-CLIPA-336"): clipa("large", 768, 768, 12, 336),
    ("clipa-vit-huge-14", "ViT-H-14-CLIPA"): clipa("huge", 1024, 1024, 24),
    ("clipa-vit-huge-14-336", "ViT-H-14-CLIPA-336"): clipa("huge", 1024, 1024, 24, 336),
    ("clipa-vit-bigg-14", "ViT-bigG-14-CLIPA"): clipa("gigantic", 1280, 1280, 32),
    ("clipa-vit-bigg-14-336", "ViT-bigG-14-CLIPA-336"): clipa("gigantic", 1280, 1280, 32, 336),
}
VARIANTS |= {
    name: Variant(config, f"open_clip's {model}") for (name, model), config in _OPEN_CLIP.items()
}
