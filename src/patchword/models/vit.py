"""The Vision Transformer (Dosovitskiy et al. 2021), plain or hybrid, with or without a head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from patchword.config import ModelConfig, VisionConfig
from patchword.models.resnet import Trunk
from patchword.nn.patches import PatchEmbed
from patchword.nn.positions import resample
from patchword.nn.taps import NO_TAPS, Taps
from patchword.nn.transformer import Block, run


class VisionTransformer(nn.Module):
    """Pixels (B, 3, H, W) -> (B, out), or pooled features (B, D) when `out` is 0.

    Any H and W that the patch size divides: positions are resampled to the grid. With
    `config.stages` the patches come from a convolutional stem (the hybrid of section 3.1).

    Taps: "tokens" (B, N, D) enter the first block; "blocks.{i}" leave block i;
    "blocks.{i}.attn" (B, H, N, N), ".attn.q", ".k", ".v"; "features" (B, D) before the head.
    """

    def __init__(self, config: VisionConfig, out: int, head_bias: bool = False) -> None:
        super().__init__()
        self.config = config
        width, rows, columns = config.width, *config.grid
        if config.stages:
            self.stem = Trunk(config.stem_width, config.stages)
            self.patch_embed = PatchEmbed(self.stem.out_width, width, 1, bias=config.patch_bias)
        else:
            self.patch_embed = PatchEmbed(3, width, config.patch_size, bias=config.patch_bias)
        self.prefix = int(config.class_token)
        if config.class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
            nn.init.normal_(self.cls_token, std=0.02)
        self.pos_embed = nn.Parameter(torch.empty(1, self.prefix + rows * columns, width))
        nn.init.normal_(self.pos_embed, std=0.02)
        self.norm_pre = nn.LayerNorm(width, config.eps) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_width, config.activation, config.eps)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, config.eps)
        self.head = nn.Linear(width, out, bias=head_bias) if out else nn.Identity()

    def forward(self, pixels: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        x = self.embed(pixels)
        taps.keep("tokens", x)
        x = self.pool(run(self.blocks, x, taps=taps))
        x = self.norm(x)
        taps.keep("features", x)
        return self.head(x)  # type: ignore[no-any-return]

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> tokens (B, prefix + h * w, D) with their positions."""
        patches = self.patch_embed(self.stem(pixels) if self.config.stages else pixels)
        grid = (patches.shape[-2], patches.shape[-1])
        x = patches.flatten(2).mT  # (B, h * w, D)
        if self.config.class_token:
            x = torch.cat([self.cls_token.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        x = x + resample(self.pos_embed, self.config.grid, grid, self.prefix).to(x.dtype)
        return self.norm_pre(x)  # type: ignore[no-any-return]

    def pool(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) -> (B, D): the class token, or the mean of the patches."""
        return x[:, 0] if self.config.pool == "cls" else x[:, self.prefix :].mean(dim=1)

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens of the last block (B, N, D) the way the pooled one goes: (B, N, out)."""
        return self.head(self.norm(tokens))  # type: ignore[no-any-return]


class ImageModel(nn.Module):
    """One image tower alone: a classifier, or a feature extractor when `config.classes` is 0."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.image = VisionTransformer(config.vision, config.classes, head_bias=True)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.image(pixels)  # type: ignore[no-any-return]

    def encode_image(
        self, pixels: Tensor, taps: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Features (B, D) before the head; with `taps`, those intermediates too."""
        wanted = Taps({"image.features", *taps})
        self.image(pixels, wanted.inside("image"))
        kept = wanted.result()
        features = kept["image.features"]
        return (features, {name: kept[name] for name in taps}) if taps else features
