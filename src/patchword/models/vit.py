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
from patchword.models.dense import Seen, edited, unedited, wanted
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
from patchword.nn.transformer import Block, layer_tap, padding_mask, run

WINDOWS = 256  # that run at once
OFFSET = 0.1  # patches that SCLIP and its descendants add to a side of the grid


class VisionTransformer(nn.Module):
    """Pixels (B, 3, H, W) -> (B, out), or pooled features (B, D) when `out` is 0.

    Any H and W that the patch size divides: positions are resampled to the grid. Images of
    different sizes come as a list and run in one batch, the shorter ones padded and the padding
    masked. With `config.stem_stages` the patches come from a convolutional stem (the hybrid of
    section 3.1). With positions "pyramid", patches of the image scaled down follow its own h * w.
    The fields of `config` are explained there.

    Taps: "tokens" (B, N, D) enter the first block; "blocks.{i}" leave block i;
    "blocks.{i}.attn" (B, H, N, N), ".attn.q", ".k", ".v"; "attn_pool.attn" (B, H, 1, N);
    "features" (B, D) before the head.
    """

    def __init__(self, config: ViTConfig, out: int, head_bias: bool = False) -> None:
        super().__init__()
        self.config = config
        self.prefix, self.out_width = config.prefix, out or config.width
        self.prefix_names = config.prefix_names
        self.layer_names = tuple(f"blocks.{i}" for i in range(config.depth))
        self.attention_layers = self.layer_names
        self.pool_layer = "attn_pool" if config.pool == "map" else ""
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

    def forward(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        return self._mean_head(self.heads(pixels, taps))

    def heads(self, pixels: Pixels, taps: Taps = NO_TAPS) -> tuple[Tensor, Tensor]:
        """Outputs (B, out) of the head and, with pool "distilled", of the distillation token's
        head, whose mean is the prediction (Touvron et al. 2021, section 4); without, the same
        twice."""
        x = self._pool(self._encode(pixels, taps, pooled=True), taps)
        taps.keep("features", self._merged(x))
        return self._heads(x)

    def features(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        x = self._merged(self._pool(self._encode(pixels, taps, pooled=True), taps))
        taps.keep("features", x)
        return x

    def encode(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tokens:
        return self._encode(pixels, taps)

    def pool(self, tokens: Tokens, taps: Taps = NO_TAPS) -> Tensor:
        return self._merged(self._pool(tokens, taps))

    def grid(self, size: Size) -> Size:
        return size[0] // self.config.patch_size, size[1] // self.config.patch_size

    def patches(self, size: Size) -> slice:
        """A pyramid's lower levels come after them."""
        rows, columns = self.grid(size)
        return slice(self.prefix, self.prefix + rows * columns)

    def fix_size(self, size: Size) -> None:
        config, grid = self.config, self.grid(size)
        if config.positions != "rope":
            self.pos_embed.data = self._resampled(grid).detach()
        self.config = replace(config, image_size=size)

    def dense(
        self,
        pixels: Tensor,
        edit: DenseEdit,
        project: bool = True,
        semantic: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        tokens = self._edited(self._seen(pixels, edit), edit, semantic)
        return self.project(tokens) if project else self.norm(tokens)

    def dense_pooled(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        """Of the last block nothing is computed twice. The positions are the edit's."""
        seen = self._seen(pixels, edit)
        whole = unedited(seen, self._pooled_ones or None)
        pooled = self._mean_head(self._heads(self._pool(Tokens(whole), NO_TAPS)))
        return self.project(self._edited(seen, edit)), pooled

    def dense_keys(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        seen, last = self._seen(pixels, edit), len(self.blocks) - 1
        keys = seen.blocks[last].attn.out(seen.heads(last)[1])[:, seen.patches]
        return self.project(self._edited(seen, edit)), keys

    def _seen(self, pixels: Tensor, edit: DenseEdit) -> Seen:
        """Where the last block's own output is not read, it is not run."""
        if edit.positions == "none":
            raise UnsupportedError(
                "this method is of the attention pooling of a CLIP ResNet; a ViT has cosine, "
                "maskclip, naclip and others"
            )
        depth = len(self.blocks)
        taps = Taps(wanted(edit, depth))
        x = self._tokens(pixels, edit.positions)
        taps.keep("tokens", x)
        rotary = self.rotary(pixels)
        needed = depth if taps.wants_inside(f"blocks.{depth - 1}") else depth - 1
        run(self.blocks[:needed], x, None, taps, rotary=rotary)
        size = (pixels.shape[-2], pixels.shape[-1])
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        return Seen(blocks, taps.result(), self.patches(size), self.grid(size), rotary)

    def _edited(
        self, seen: Seen, edit: DenseEdit, semantic: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Patch tokens (B, h * w, D) before the final norm."""
        tokens = calibrated(seen, edit.calibration) if edit.calibration else edited(seen, edit)
        if edit.semantic:
            if semantic is None:
                raise UnsupportedError("this method needs texts, whose places it sharpens")
            tokens = edited(seen, edit, semantic(self.project(tokens)))
        return tokens

    def windows(self, pixels: Tensor, patches: Tensor) -> Tensor:
        """Some windows at a time, whose tokens stay in the processor's cache."""
        x, rotary = self._tokens(pixels), self.rotary(pixels)
        front = torch.arange(self.prefix, device=x.device).expand(patches.shape[0], -1)
        chosen = torch.cat([front, self.prefix + patches.to(x.device)], dim=1)  # (W, K')
        some = torch.split(chosen, WINDOWS)
        return torch.cat([self._windows(x, rotary, each) for each in some], dim=1)

    def _windows(self, x: Tensor, rotary: Tensor | None, chosen: Tensor) -> Tensor:
        """What of tokens (B, N, D) those that are `chosen` (W, K') give: (B, W, out)."""
        if rotary is not None:
            rotary = rotary[:, chosen].repeat(1, len(x), 1, 1)[:, :, None]  # (2, B * W, 1, K', .)
        parts = x[:, chosen].flatten(0, 1)  # (B * W, K', D)
        pooled = self._pool(self._blocks(Tokens(parts), rotary, pooled=True), NO_TAPS)
        return self._mean_head(self._heads(pooled)).unflatten(0, (len(x), len(chosen)))  # type: ignore[no-untyped-call, no-any-return]

    def hidden_states(self, pixels: Pixels, layer: int, norm: bool) -> Tensor:
        name = layer_tap(len(self.blocks), layer)
        taps = Taps([name], alone=True)
        self._encode(pixels, taps)
        x = taps.result()[name]
        return self.norm(x) if norm else x

    def pooled_attention(self, weights: Tensor, size: Size) -> Tensor:
        """The class token's row over the patches, or the one row there is; where all patches are
        pooled, the mean of theirs."""
        patches = self.patches(size)
        if self.config.pool in ("cls", "distilled") or weights.shape[-2] == 1:
            return weights[:, 0, patches]
        return weights[:, self.prefix :, patches].mean(dim=1)

    def _encode(self, pixels: Pixels, taps: Taps = NO_TAPS, pooled: bool = False) -> Tokens:
        """`encode`; with `pooled`, only the tokens that `_pool` uses."""
        tokens = self.embed(pixels)
        taps.keep("tokens", tokens.values)
        return self._blocks(tokens, self.rotary(pixels), taps, pooled)

    def _blocks(
        self, tokens: Tokens, rotary: Tensor | None, taps: Taps = NO_TAPS, pooled: bool = False
    ) -> Tokens:
        """Tokens through the blocks; with `pooled`, only those that `_pool` uses."""
        x, present = tokens
        mask = None if present is None else padding_mask(present, x)
        read = self._pooled_ones
        count = read if pooled else 0
        only = torch.arange(read, device=x.device).expand(x.shape[0], -1) if count else None
        return Tokens(run(self.blocks, x, mask, taps, rotary=rotary, only=only), present)

    @property
    def _pooled_ones(self) -> int:
        """How many of the first tokens `_pool` uses alone; 0: all."""
        return {"cls": 1, "distilled": 2}.get(self.config.pool, 0)

    def embed(self, pixels: Pixels) -> Tokens:
        """Tokens (B, prefix + h * w, D) with their positions, before the first block. A pyramid's
        are more: those of the smaller versions come last."""
        if isinstance(pixels, Tensor):
            return Tokens(self._tokens(pixels))
        rows = [self._tokens(image[None])[0] for image in pixels]
        lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
        x = pad_sequence(rows, batch_first=True)
        return Tokens(x, torch.arange(x.shape[1], device=x.device) < lengths[:, None])

    def rotary(self, pixels: Pixels) -> Tensor | None:
        """The rotary embedding of these images' tokens (`positions.rotate`), or None where position
        embeddings are added to the tokens."""
        config = self.config
        if config.positions != "rope":
            return None
        width, patch = config.width // config.heads, config.patch_size

        def turns(image: Tensor) -> Tensor:
            grid = (image.shape[-2] // patch, image.shape[-1] // patch)
            return rope_2d(grid, width, self.prefix, image.device)

        if isinstance(pixels, Tensor):
            return turns(pixels)
        rows = pad_sequence([turns(image).transpose(0, 1) for image in pixels], batch_first=True)
        return rows.permute(2, 0, 1, 3)[:, :, None]  # (2, B, 1, N, d / 2)

    def _tokens(self, pixels: Tensor, resampled: Positions = "own") -> Tensor:
        """Pixels (B, 3, H, W) of one size -> tokens (B, N, D); resampled: see `DenseEdit`."""
        config = self.config
        patches = self._patches(pixels)
        grid = (patches.shape[-2], patches.shape[-1])
        x = patches.flatten(2).mT  # (B, h * w, D)
        if config.positions == "pyramid":
            x = torch.cat([x, *(self._scaled(pixels, level) for level in pyramid_grids(grid))], 1)
        apart = config.positions in ("patches", "flexible")  # positions are of the patches alone
        positions = self._positions(grid, 0 if apart else self.prefix, resampled)
        if apart and positions is not None:
            x = x + positions.to(x.dtype)
        front = [
            getattr(self, name).to(x.dtype).expand(x.shape[0], -1, -1)
            for name in ("cls_token", "dist_token", "reg_token")
            if hasattr(self, name)
        ]
        x = torch.cat([*front, x], dim=1) if front else x
        if not apart and positions is not None:
            x = x + positions.to(x.dtype)
        return self.norm_pre(x)  # type: ignore[no-any-return]

    def _patches(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> patches (B, D, h, w)."""
        return self.patch_embed(self.stem(pixels) if self.config.stem_stages else pixels)  # type: ignore[no-any-return]

    def _scaled(self, pixels: Tensor, grid: Grid) -> Tensor:
        """Patches (B, rows * columns, D) of the images scaled down to that grid."""
        size = [side * self.config.patch_size for side in grid]
        small = F.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
        return self._patches(small.to(pixels.dtype)).flatten(2).mT

    def _positions(self, grid: Grid, before: int, resampled: Positions = "own") -> Tensor | None:
        """Positions (1, before + patches, D) on this grid; None where none are added."""
        config = self.config
        if config.positions == "rope":
            return None
        if resampled == "own" or config.positions == "flexible":
            positions = self._resampled(grid)
        else:
            mode = "bilinear" if resampled == "bilinear" else "bicubic"
            offset = OFFSET if resampled == "offset" else 0.0
            positions = resample(self.pos_embed, config.grid, grid, before, mode, False, offset)
        if config.positions != "pyramid":
            return positions
        lower = scaled_average(positions[:, before:], grid, pyramid_grids(grid))
        return torch.cat([positions, lower], dim=1)

    def _resampled(self, grid: Grid) -> Tensor:
        """The learned or fixed positions on another grid, as this kind of ViT resamples them."""
        config = self.config
        before = self.pos_embed.shape[1] - math.prod(config.grid)
        mode = "bilinear" if config.positions == "flexible" else "bicubic"
        return resample(self.pos_embed, config.grid, grid, before, mode, config.antialias)

    def _pool(self, tokens: Tokens, taps: Taps) -> Tensor:
        """`pool`, but "distilled" keeps two vectors: (B, 2, D)."""
        x, present = tokens
        kind = self.config.pool
        if kind == "cls":
            return self.norm(x[:, 0])  # type: ignore[no-any-return]
        if kind == "distilled":
            return self.norm(x[:, :2])  # type: ignore[no-any-return]
        if kind in ("avg", "raw_avg"):
            return self.norm(self._mean(x, present))  # type: ignore[no-any-return]
        x = self.norm(x)
        if kind == "norm_avg":
            return self._mean(x, present)
        mask = None if present is None else padding_mask(present, x)
        return self.attn_pool(x, mask, taps.inside("attn_pool"))  # type: ignore[no-any-return]

    def _heads(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """`heads` of what `_pool` gives."""
        if self.config.pool == "distilled":
            return self.head(pooled[:, 0]), self.head_dist(pooled[:, 1])
        out = self.head(pooled)
        return out, out

    def _mean_head(self, heads: tuple[Tensor, Tensor]) -> Tensor:
        first, second = heads
        return (first + second) / 2 if self.config.pool == "distilled" else first

    def _merged(self, pooled: Tensor) -> Tensor:
        """What `_pool` gives as one vector (B, D)."""
        return pooled.mean(dim=1) if self.config.pool == "distilled" else pooled

    def _mean(self, x: Tensor, present: Tensor | None) -> Tensor:
        """The mean (B, D) of the patches that are there; of a pyramid, of all its levels'."""
        x = x[:, self.prefix :]
        if present is None:
            return x.mean(dim=1)
        weights = present[:, self.prefix :, None].to(x.dtype)
        return (x * weights).sum(dim=1) / weights.sum(dim=1)

    def project(self, values: Tensor) -> Tensor:
        """With pool "map", as if the query attended to each token alone."""
        if self.config.pool == "map":
            pooled = self._pool(Tokens(values.flatten(0, 1)[:, None]), NO_TAPS)
            return self.head(pooled).unflatten(0, values.shape[:2])  # type: ignore[no-any-return]
        return self.head(self.norm(values))  # type: ignore[no-any-return]

    def _add_positions(self) -> None:
        """The parameter or buffer "pos_embed" (1, N, D); none with rotary positions."""
        config = self.config
        if config.positions == "rope":
            return
        rows, columns = config.grid
        before = 0 if config.positions in ("patches", "flexible") else self.prefix
        if config.positions == "sincos":
            fixed = sincos_2d(config.grid, config.width)
            fixed = torch.cat([fixed.new_zeros(before, config.width), fixed])[None]
            self.register_buffer("pos_embed", fixed)
        else:
            self.pos_embed = learned(before + rows * columns, config.width)
