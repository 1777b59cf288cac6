"""What the variants of all families share: sizes of ViTs, means and standard deviations."""

from __future__ import annotations

from dataclasses import dataclass

from patchword.config import ModelConfig

HALF = (0.5, 0.5, 0.5)  # mean and std that bring pixels to [-1, 1]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Variant:
    """A configuration and where its numbers come from."""

    config: ModelConfig
    source: str


# width, depth, heads. The MLP is 4 times as wide, if it is not in MLP_WIDTHS.
VIT_SIZES = {
    "tiny": (192, 12, 3),  # Touvron et al. 2021 (DeiT), table 1
    "small": (384, 12, 6),  # the same
    "base": (768, 12, 12),  # Dosovitskiy et al. 2021, table 1
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
    "giant": (1408, 40, 16),  # Zhai et al. 2022 ("Scaling vision transformers"), table 2
    "gigantic": (1664, 48, 16),
    "plus": (896, 12, 14),  # open_clip's ViT-B-16-plus
}
MLP_WIDTHS = {"giant": 6144, "gigantic": 8192}  # Zhai et al. 2022, table 2
