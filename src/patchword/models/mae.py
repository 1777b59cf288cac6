"""The masked autoencoder (He et al. 2022): most patches are masked, and have to be
reconstructed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from patchword.config import MaskedConfig, ModelConfig, ViTConfig
from patchword.errors import ConfigError
from patchword.models.towers import ImageEncoder
from patchword.models.vit import VisionTransformer
from patchword.nn.linear import Linear
from patchword.nn.patches import patchify, unpatchify
from patchword.nn.positions import resample, sincos_2d
from patchword.nn.transformer import Block, at, run


class Masking(NamedTuple):
    """Which patches are masked."""

    kept: Tensor  # (B, K) positions of the visible patches, in the order in which they are encoded
    restore: Tensor  # (B, N) position of each patch among visible ones, then masked ones
    hidden: Tensor  # (B, N) bool


def random_masking(noise: Tensor, ratio: float) -> Masking:
    """The patches of the lowest noise (B, N) stay visible: the share 1 - ratio, rounded down
    (section 3, "Masking": uniform, without replacement)."""
    order = noise.argsort(dim=1)
    restore = order.argsort(dim=1)
    seen = int(noise.shape[1] * (1 - ratio))
    return Masking(order[:, :seen], restore, restore >= seen)


class Decoder(nn.Module):
    """Encoded patches, and the mask token in place of each masked one, -> pixels (section 3).

    vision: the encoder's config; the decoder shares its activation and eps.
    """

    pos_embed: Tensor

    def __init__(self, vision: ViTConfig, config: MaskedConfig) -> None:
        super().__init__()
        width = config.width
        self.prefix, self.grid = vision.prefix, vision.grid
        self.embed = Linear(vision.width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.normal_(self.mask_token, std=0.02)
        fixed = sincos_2d(vision.grid, width)
        fixed = torch.cat([fixed.new_zeros(self.prefix, width), fixed])[None]
        self.register_buffer("pos_embed", fixed)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_width, vision.activation, vision.eps)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, vision.eps)
        self.head = Linear(width, vision.patch_size**2 * 3)

    def forward(self, x: Tensor, restore: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, prefix + K, D) of the encoder -> pixels (B, N, P * P * 3) of all patches."""
        x = self.embed(x)
        front, seen = x[:, : self.prefix], x[:, self.prefix :]
        missing = restore.shape[1] - seen.shape[1]
        x = torch.cat([seen, self.mask_token.to(x.dtype).expand(len(x), missing, -1)], dim=1)
        x = torch.cat([front, at(x, restore)], dim=1)
        x = x + resample(self.pos_embed, self.grid, grid, self.prefix).to(x.dtype)
        return self.head(self.norm(run(self.blocks, x)))[:, self.prefix :]  # type: ignore[no-any-return]


class MaskedAutoencoder(ImageEncoder):
    """A ViT that encodes the visible quarter of the patches, and a small decoder that reconstructs
    the others.

    As a feature extractor it is its encoder on the whole image. Taps: "image.*", as in
    VisionTransformer.
    """

    image: VisionTransformer

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.masked is None:
            raise ConfigError("a masked autoencoder needs a masked config")
        assert isinstance(config.vision, ViTConfig)
        self.config = config.masked
        self.patch_size = config.vision.patch_size
        self.image = VisionTransformer(config.vision, 0)
        self.decoder = Decoder(config.vision, config.masked)

    def forward(self, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) -> reconstructed patches (B, N, P * P * 3), as `patchify` orders
        them, and which were masked (B, N) bool. Visible patches are reconstructed too, and no loss
        uses them.

        noise: (B, N), chooses the masked patches (`random_masking`); by torch's generator when
        None. With `config.norm_pixels` the pixels of a patch are normalised by its own mean and
        standard deviation.
        """
        grid = (pixels.shape[-2] // self.patch_size, pixels.shape[-1] // self.patch_size)
        if noise is None:
            noise = torch.rand(len(pixels), grid[0] * grid[1], device=pixels.device)
        masking = random_masking(noise, self.config.mask_ratio)
        x = self.image.embed(pixels).values
        prefix = self.image.prefix
        x = torch.cat([x[:, :prefix], at(x[:, prefix:], masking.kept)], dim=1)
        x = self.image.norm(run(self.image.blocks, x))
        return self.decoder(x, masking.restore, grid), masking.hidden

    def paint(self, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) with the masked patches reconstructed, and where these are,
        (B, 1, H, W) bool.

        With `config.norm_pixels` the mean and deviation of each masked patch are the
        image's own, since the network predicts none.
        """
        painted, hidden = self(pixels, noise)
        patches = patchify(pixels, self.patch_size)
        if self.config.norm_pixels:
            variance, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True)
            painted = painted * (variance + 1e-6).sqrt() + mean
        filled = torch.where(hidden[..., None], painted.to(patches.dtype), patches)
        grid = (pixels.shape[-2] // self.patch_size, pixels.shape[-1] // self.patch_size)
        where = unpatchify(hidden[..., None].expand_as(patches), grid, self.patch_size)
        return unpatchify(filled, grid, self.patch_size), where[:, :1]
