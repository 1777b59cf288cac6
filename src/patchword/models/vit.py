"""The Vision Transformer (Dosovitskiy et al. 2021) and its descendants, plain or hybrid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from patchword.config import ViTConfig
from patchword.errors import UnsupportedError
from patchword.models.dense import ForwardPass, edited_patches, last_block_output, required_taps
from patchword.models.edits import DenseEdit, Positions
from patchword.models.protocols import Pixels, Size, Tokens
from patchword.models.resnet import Trunk
from patchword.models.scclip import calibrated
from patchword.nn.linear import Linear
from patchword.nn.patches import PatchEmbed
from patchword.nn.pooling import MapPool
from patchword.nn.positions import (
    Grid,
    learned,
    pyramid_grids,
    resample,
    rope_2d,
    scaled_average,
    sincos_2d,
)
from patchword.nn.taps import NO_TAPS, Taps
from patchword.nn.transformer import Block, layer_tap, padding_mask, run_blocks

WINDOWS_AT_ONCE = 256
OFFSET = 0.1  # patches that SCLIP and its descendants add to a side of the grid


class VisionTransformer(nn.Module):
    """Pixels (B, 3, H, W) -> (B, out), or pooled features (B, D) when `out` is 0.

    Dosovitskiy et al. 2021, equations 1 to 4, with a class token, for an image of n patches:

        z_0  = [x_class; x_1 E; ...; x_n E] + E_pos            `embed`
        z'_l = MSA(LN(z_{l-1})) + z_{l-1}                      `Block`, l = 1, ..., L
        z_l  = MLP(LN(z'_l)) + z'_l
        y    = LN(z_L^0)                                       `pool`
        output = y W + b                                       `head`

    Variants, chosen by the fields of `config` (explained there): other poolings, tokens before the
    patches and positions; patches from a convolutional stem (`stem_stages`, the hybrid of section
    3.1); with positions "pyramid", patches of the image scaled down follow its own h * w.

    H and W are multiples of the patch size: positions are resampled to the grid. Images of
    different sizes come as a list and run in one batch, the shorter ones padded and the padding
    masked.

    Taps: "tokens" (B, N, D), z_0; "blocks.{i}", the output of block i; "blocks.{i}.attn"
    (B, H, N, N), ".attn.q", ".k", ".v"; "attn_pool.attn" (B, H, 1, N); "features" (B, D), y.
    """

    def __init__(self, config: ViTConfig, out: int, head_bias: bool = False) -> None:
        super().__init__()
        self.config = config
        self.prefix, self.out_width = config.prefix, out or config.width
        self.prefix_names = config.prefix_names
        self.layer_names = tuple(f"blocks.{i}" for i in range(config.depth))
        self.attention_layers = self.layer_names
        self.pool_layer = "attn_pool" if config.pool == "map" else ""
        # How many of the first tokens `_pool` uses; 0: all tokens.
        self._pooled_count = {"cls": 1, "distilled": 2}.get(config.pool, 0)
        width, eps = config.width, config.eps
        if config.stem_stages:
            self.stem = Trunk(config.stem_width, config.stem_stages)
            self.patch_embed = PatchEmbed(self.stem.channels, width, 1, bias=config.patch_bias)
        else:
            self.patch_embed = PatchEmbed(3, width, config.patch_size, bias=config.patch_bias)
        if config.class_token:
            self.cls_token = learned(1, width)
        if config.pool == "distilled":
            self.dist_token = learned(1, width)
            self.head_dist = Linear(width, out, bias=head_bias) if out else nn.Identity()
        if config.registers:
            self.reg_token = learned(config.registers, width)
        self._prefix_has_positions = config.positions not in ("patches", "flexible")
        self._positions_before = self.prefix if self._prefix_has_positions else 0
        self._add_positions()
        self.norm_pre = nn.LayerNorm(width, eps) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.heads,
                config.mlp_width,
                config.activation,
                eps,
                layer_scale=config.layer_scale,
                qk_norm=config.qk_norm,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.Identity() if config.pool == "raw_avg" else nn.LayerNorm(width, eps)
        if config.pool == "map":
            self.attn_pool = MapPool(width, config.heads, config.mlp_width, config.activation, eps)
        self.head = Linear(width, out, bias=head_bias) if out else nn.Identity()

    def _add_positions(self) -> None:
        """The parameter or buffer "pos_embed" (1, N, D); none with rotary positions."""
        config = self.config
        if config.positions == "rope":
            return
        if config.positions == "sincos":
            fixed = sincos_2d(config.grid, config.width)
            fixed = torch.cat([fixed.new_zeros(self._positions_before, config.width), fixed])[None]
            self.register_buffer("pos_embed", fixed)
        else:
            count = self._positions_before + math.prod(config.grid)
            self.pos_embed = learned(count, config.width)

    def forward(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        return self._mean_output(self.heads(pixels, taps))

    def heads(self, pixels: Pixels, taps: Taps = NO_TAPS) -> tuple[Tensor, Tensor]:
        """Outputs (B, out) of the class token's and of the distillation token's head, whose mean is
        the prediction (pool "distilled"; Touvron et al. 2021, section 4). For other pools, the
        head's output twice."""
        x = self._pool(self.encode(pixels, taps, pooled=True), taps)
        taps.keep("features", self._mean_token(x))
        return self._heads(x)

    def features(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        x = self._mean_token(self._pool(self.encode(pixels, taps, pooled=True), taps))
        taps.keep("features", x)
        return x

    def encode(self, pixels: Pixels, taps: Taps = NO_TAPS, pooled: bool = False) -> Tokens:
        """With `pooled`, only the tokens that `_pool` uses."""
        tokens = self.embed(pixels)
        taps.keep("tokens", tokens.values)
        return self._run_blocks(tokens, self.rotary(pixels), taps, pooled)

    def pool(self, tokens: Tokens, taps: Taps = NO_TAPS) -> Tensor:
        return self._mean_token(self._pool(tokens, taps))

    def project(self, values: Tensor) -> Tensor:
        """With pool "map", as if the query attended to each token alone."""
        if self.config.pool == "map":
            pooled = self._pool(Tokens(values.flatten(0, 1)[:, None]), NO_TAPS)
            return self.head(pooled).unflatten(0, values.shape[:2])  # type: ignore[no-any-return]
        return self.head(self.norm(values))  # type: ignore[no-any-return]

    # Patches and positions: z_0

    def embed(self, pixels: Pixels) -> Tokens:
        """z_0 (B, prefix + h * w, D), the input of the first block. A pyramid has more tokens:
        those of the scaled-down images come last."""
        if isinstance(pixels, Tensor):
            return Tokens(self._tokens(pixels))
        rows = [self._tokens(image[None])[0] for image in pixels]
        lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
        x = pad_sequence(rows, batch_first=True)
        return Tokens(x, torch.arange(x.shape[1], device=x.device) < lengths[:, None])

    def _tokens(self, pixels: Tensor, resampling: Positions = "own") -> Tensor:
        """Pixels (B, 3, H, W) -> z_0 (B, N, D). resampling: see `DenseEdit.positions`."""
        patches = self._patches(pixels)
        grid = (patches.shape[-2], patches.shape[-1])
        x = patches.flatten(2).mT  # (B, h * w, D)
        if self.config.positions == "pyramid":
            scaled = [self._scaled_patches(pixels, level) for level in pyramid_grids(grid)]
            x = torch.cat([x, *scaled], dim=1)
        positions = self._positions(grid, resampling)
        if positions is not None and not self._prefix_has_positions:
            x = x + positions.to(x.dtype)
        prefix_tokens = [
            getattr(self, name).to(x.dtype).expand(x.shape[0], -1, -1)
            for name in ("cls_token", "dist_token", "reg_token")
            if hasattr(self, name)
        ]
        if prefix_tokens:
            x = torch.cat([*prefix_tokens, x], dim=1)
        if positions is not None and self._prefix_has_positions:
            x = x + positions.to(x.dtype)
        return self.norm_pre(x)  # type: ignore[no-any-return]

    def _patches(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> patch embeddings (B, D, h, w)."""
        if self.config.stem_stages:
            pixels = self.stem(pixels)
        return self.patch_embed(pixels)  # type: ignore[no-any-return]

    def _scaled_patches(self, pixels: Tensor, grid: Grid) -> Tensor:
        """Patch embeddings (B, rows * columns, D) of the images scaled down to that grid."""
        size = [side * self.config.patch_size for side in grid]
        small = F.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
        return self._patches(small.to(pixels.dtype)).flatten(2).mT

    def _positions(self, grid: Grid, resampling: Positions = "own") -> Tensor | None:
        """Position embeddings (1, N, D) on this grid; None with rotary positions."""
        config, before = self.config, self._positions_before
        if config.positions == "rope":
            return None
        if resampling == "own" or config.positions == "flexible":
            positions = self._resampled(grid)
        else:
            mode = "bilinear" if resampling == "bilinear" else "bicubic"
            offset = OFFSET if resampling == "offset" else 0.0
            positions = resample(self.pos_embed, config.grid, grid, before, mode, False, offset)
        if config.positions == "pyramid":
            lower = scaled_average(positions[:, before:], grid, pyramid_grids(grid))
            positions = torch.cat([positions, lower], dim=1)
        return positions

    def _resampled(self, grid: Grid) -> Tensor:
        """`pos_embed` on another grid, as the libraries of this kind of ViT resample it."""
        config, before = self.config, self._positions_before
        mode = "bilinear" if config.positions == "flexible" else "bicubic"
        return resample(self.pos_embed, config.grid, grid, before, mode, config.antialias)

    def rotary(self, pixels: Pixels) -> Tensor | None:
        """The rotary embedding of these images' tokens, as `positions.rotate` takes it; None where
        position embeddings are added to the tokens."""
        config = self.config
        if config.positions != "rope":
            return None
        head_width = config.width // config.heads

        def of_image(image: Tensor) -> Tensor:
            grid = self.grid((image.shape[-2], image.shape[-1]))
            return rope_2d(grid, head_width, self.prefix, image.device)

        if isinstance(pixels, Tensor):
            return of_image(pixels)
        rows = pad_sequence([of_image(image).transpose(0, 1) for image in pixels], batch_first=True)
        return rows.permute(2, 0, 1, 3)[:, :, None]  # (2, B, 1, N, d / 2)

    # Blocks: z_1, ..., z_L

    def _run_blocks(
        self, tokens: Tokens, rotary: Tensor | None, taps: Taps = NO_TAPS, pooled: bool = False
    ) -> Tokens:
        """z_0 -> z_L; with `pooled`, only the tokens that `_pool` uses."""
        x, present = tokens
        mask = None if present is None else padding_mask(present, x)
        indices = None
        if pooled and self._pooled_count:
            indices = torch.arange(self._pooled_count, device=x.device).expand(x.shape[0], -1)
        x = run_blocks(self.blocks, x, mask, taps, rotary=rotary, output_indices=indices)
        return Tokens(x, present)

    # Pooling and heads

    def _pool(self, tokens: Tokens, taps: Taps) -> Tensor:
        """y (B, D) of z_L; with pool "distilled" one vector for each of two tokens, (B, 2, D)."""
        x, present = tokens
        pool = self.config.pool
        if pool == "cls":
            return self.norm(x[:, 0])  # type: ignore[no-any-return]
        if pool == "distilled":
            return self.norm(x[:, :2])  # type: ignore[no-any-return]
        if pool in ("avg", "raw_avg"):
            return self.norm(self._mean_patch(x, present))  # type: ignore[no-any-return]
        x = self.norm(x)
        if pool == "norm_avg":
            return self._mean_patch(x, present)
        mask = None if present is None else padding_mask(present, x)
        return self.attn_pool(x, mask, taps.inside("attn_pool"))  # type: ignore[no-any-return]

    def _mean_patch(self, x: Tensor, present: Tensor | None) -> Tensor:
        """The mean (B, D) of the patch tokens, without padding; a pyramid's levels all count."""
        x = x[:, self.prefix :]
        if present is None:
            return x.mean(dim=1)
        weights = present[:, self.prefix :, None].to(x.dtype)
        return (x * weights).sum(dim=1) / weights.sum(dim=1)

    def _mean_token(self, pooled: Tensor) -> Tensor:
        """The result of `_pool` as one vector (B, D)."""
        return pooled.mean(dim=1) if self.config.pool == "distilled" else pooled

    def _heads(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """`heads`, from the result of `_pool`."""
        if self.config.pool == "distilled":
            return self.head(pooled[:, 0]), self.head_dist(pooled[:, 1])
        out = self.head(pooled)
        return out, out

    def _mean_output(self, heads: tuple[Tensor, Tensor]) -> Tensor:
        first, second = heads
        return (first + second) / 2 if self.config.pool == "distilled" else first

    # Grids, intermediate layers and attention

    def grid(self, size: Size) -> Size:
        return size[0] // self.config.patch_size, size[1] // self.config.patch_size

    def patches(self, size: Size) -> slice:
        """Those of the image itself: the tokens of the image scaled down, with positions "pyramid",
        come after them."""
        rows, columns = self.grid(size)
        return slice(self.prefix, self.prefix + rows * columns)

    def fix_size(self, size: Size) -> None:
        if self.config.positions != "rope":
            self.pos_embed.data = self._resampled(self.grid(size)).detach()
        self.config = replace(self.config, image_size=size)

    def hidden_states(self, pixels: Pixels, layer: int, norm: bool) -> Tensor:
        name = layer_tap(len(self.blocks), layer)
        taps = Taps([name], stop_early=True)
        self.encode(pixels, taps)
        x = taps.result()[name]
        return self.norm(x) if norm else x

    def pooled_attention(self, weights: Tensor, size: Size) -> Tensor:
        """The row of the class token or of the pooling's only query; where all patches are pooled,
        the mean of their rows."""
        patches = self.patches(size)
        if self.config.pool in ("cls", "distilled") or weights.shape[-2] == 1:
            return weights[:, 0, patches]
        return weights[:, self.prefix :, patches].mean(dim=1)

    def windows(self, pixels: Tensor, patches: Tensor) -> Tensor:
        """Runs `WINDOWS_AT_ONCE`, whose tokens stay in the processor's cache."""
        x, rotary = self._tokens(pixels), self.rotary(pixels)
        prefix = torch.arange(self.prefix, device=x.device).expand(patches.shape[0], -1)
        indices = torch.cat([prefix, self.prefix + patches.to(x.device)], dim=1)  # (W, K')
        chunks = torch.split(indices, WINDOWS_AT_ONCE)
        return torch.cat([self._windows(x, rotary, chunk) for chunk in chunks], dim=1)

    def _windows(self, x: Tensor, rotary: Tensor | None, indices: Tensor) -> Tensor:
        """Outputs (B, W, out) of windows, given by the indices (W, K') of their tokens in x
        (B, N, D)."""
        if rotary is not None:  # (2, N, .) -> (2, B * W, 1, K', .)
            rotary = rotary[:, indices].repeat(1, len(x), 1, 1)[:, :, None]
        windows = x[:, indices].flatten(0, 1)  # (B * W, K', D)
        pooled = self._pool(self._run_blocks(Tokens(windows), rotary, pooled=True), NO_TAPS)
        out = self._mean_output(self._heads(pooled))
        return out.unflatten(0, (len(x), len(indices)))  # type: ignore[no-untyped-call, no-any-return]

    # Patch features for heatmaps: see `dense.py`

    def dense(
        self,
        pixels: Tensor,
        edit: DenseEdit,
        project: bool = True,
        semantic: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        patches = self._edited(self._forward_pass(pixels, edit), edit, semantic)
        return self.project(patches) if project else self.norm(patches)

    def dense_pooled(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        """Of the last block nothing is computed twice. The positions are the edit's."""
        forward_pass = self._forward_pass(pixels, edit)
        tokens = Tokens(last_block_output(forward_pass, self._pooled_count or None))
        output = self._mean_output(self._heads(self._pool(tokens, NO_TAPS)))
        return self.project(self._edited(forward_pass, edit)), output

    def dense_keys(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        forward_pass = self._forward_pass(pixels, edit)
        _, keys, _ = forward_pass.heads(len(self.blocks) - 1)
        merged = forward_pass.blocks[-1].attn.merge_heads(keys)[:, forward_pass.patches]
        return self.project(self._edited(forward_pass, edit)), merged

    def _forward_pass(self, pixels: Tensor, edit: DenseEdit) -> ForwardPass:
        """Run the unedited network up to its last block, which runs only if the edit reads its
        output."""
        if edit.positions == "none":
            raise UnsupportedError(
                "this method is of the attention pooling of a CLIP ResNet; a ViT has cosine, "
                "maskclip, naclip and others"
            )
        depth = len(self.blocks)
        taps = Taps(required_taps(edit, depth))
        x = self._tokens(pixels, edit.positions)
        taps.keep("tokens", x)
        rotary = self.rotary(pixels)
        count = depth if taps.wants_inside(f"blocks.{depth - 1}") else depth - 1
        run_blocks(self.blocks[:count], x, None, taps, rotary=rotary)
        size = (pixels.shape[-2], pixels.shape[-1])
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        return ForwardPass(blocks, taps.result(), self.patches(size), self.grid(size), rotary)

    def _edited(
        self,
        forward_pass: ForwardPass,
        edit: DenseEdit,
        semantic: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Patch tokens (B, h * w, D) under the edit, before the final norm."""
        if edit.calibration:
            patches = calibrated(forward_pass, edit.calibration)
        else:
            patches = edited_patches(forward_pass, edit)
        if edit.semantic:
            if semantic is None:
                raise UnsupportedError("this method needs texts, whose places it sharpens")
            patches = edited_patches(forward_pass, edit, semantic(self.project(patches)))
        return patches
