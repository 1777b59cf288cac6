"""The masked autoencoder (He et al. 2022): most patches of an image are masked, and the network
reconstructs them."""

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
from patchword.nn.transformer import Block, run_blocks, select_tokens


class Masking(NamedTuple):
    """Which patches are masked."""

    visible: Tensor  # (B, K) indices of the visible patches, in the order in which they are encoded
    restore: Tensor  # (B, N) index of each patch in [visible patches; masked patches]
    masked: Tensor  # (B, N) bool


def random_masking(noise: Tensor, ratio: float) -> Masking:
    """Mask a share `ratio` of the patches at random (section 3, "Masking": uniform, without
    replacement). The N (1 - ratio) patches, rounded down, with the lowest noise (B, N) stay
    visible."""
    order = noise.argsort(dim=1)
    restore = order.argsort(dim=1)
    count = int(noise.shape[1] * (1 - ratio))
    return Masking(order[:, :count], restore, restore >= count)


class Decoder(nn.Module):
    """Encoded visible patches, with a mask token in place of each masked patch -> pixels of all
    patches (section 3, "MAE decoder").

    vision: the encoder's config, from which the decoder takes activation and eps.
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
        """Tokens (B, prefix + K, D) of the encoder -> pixels (B, N, P * P * 3)."""
        x = self.embed(x)
        prefix_tokens, visible = x[:, : self.prefix], x[:, self.prefix :]
        masked_count = restore.shape[1] - visible.shape[1]
        mask_tokens = self.mask_token.to(x.dtype).expand(len(x), masked_count, -1)
        patches = select_tokens(torch.cat([visible, mask_tokens], dim=1), restore)
        x = torch.cat([prefix_tokens, patches], dim=1)
        x = x + resample(self.pos_embed, self.grid, grid, self.prefix).to(x.dtype)
        x = self.norm(run_blocks(self.blocks, x))
        return self.head(x)[:, self.prefix :]  # type: ignore[no-any-return]


class MaskedAutoencoder(ImageEncoder):
    """A ViT that encodes the visible patches, usually a quarter, and a small decoder that
    reconstructs all:

        z = Encoder([x_class; visible patches])
        pixels = Decoder([z_class; z_visible and mask tokens, in the order of the image])

    As a feature extractor it is its encoder on all patches. Taps: "image.*", as in
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
        """Pixels (B, 3, H, W) -> reconstructed patches (B, N, P * P * 3), in the order of
        `patchify`, and which were masked, (B, N) bool. Visible patches are reconstructed too, but
        no loss uses them.

        noise: (B, N), chooses the masked patches (`random_masking`); None: from torch's generator.
        With `config.norm_pixels` the pixels of a patch are normalised by its own mean and standard
        deviation.
        """
        grid = self.image.grid((pixels.shape[-2], pixels.shape[-1]))
        if noise is None:
            noise = torch.rand(len(pixels), grid[0] * grid[1], device=pixels.device)
        masking = random_masking(noise, self.config.mask_ratio)
        x = self.image.embed(pixels).values
        prefix = self.image.prefix
        x = torch.cat([x[:, :prefix], select_tokens(x[:, prefix:], masking.visible)], dim=1)
        x = self.image.norm(run_blocks(self.image.blocks, x))
        return self.decoder(x, masking.restore, grid), masking.masked

    def reconstruct(self, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) with the masked patches reconstructed, and which pixels these are,
        (B, 1, H, W) bool.

        With `config.norm_pixels` the network does not predict the mean and standard deviation of a
        patch: those of the input are used.
        """
        predicted, masked = self(pixels, noise)
        patches = patchify(pixels, self.patch_size)
        if self.config.norm_pixels:
            variance, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True)
            predicted = predicted * (variance + 1e-6).sqrt() + mean
        masked = masked[..., None]  # (B, N, 1)
        combined = torch.where(masked, predicted.to(patches.dtype), patches)
        grid = self.image.grid((pixels.shape[-2], pixels.shape[-1]))
        is_masked = unpatchify(masked.expand_as(patches), grid, self.patch_size)
        return unpatchify(combined, grid, self.patch_size), is_masked[:, :1]
