"""The Swin Transformer, version 1 (Liu et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.config import SwinConfig
from patchword.errors import UnsupportedError
from patchword.models.edits import DenseEdit
from patchword.models.protocols import Pixels, Size, Tokens
from patchword.nn.attention import Attention
from patchword.nn.linear import Linear
from patchword.nn.mlp import Mlp
from patchword.nn.patches import PatchEmbed
from patchword.nn.taps import NO_TAPS, Taps

EPS = 1e-5  # of the norms between stages; the config has that of the others
SEPARATED = -100.0  # added to the score of two places that are in one window only after the shift


class WindowAttention(Attention):
    """Attention inside windows (B * windows, M, D), M = rows * columns of a window, with a bias B
    for each head and relative position (section 3.2, eq. 4):

        Attention(Q, K, V) = softmax(Q K^T / sqrt(d) + B) V
    """

    def __init__(self, width: int, heads: int, window: Size) -> None:
        super().__init__(width, heads)
        rows, columns = window
        offsets = (2 * rows - 1) * (2 * columns - 1)
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, heads))
        nn.init.normal_(self.relative_position_bias_table, std=0.02)

    def bias(self) -> Tensor:
        """B (1, H, M, M): the table's entry for the offset between two places of the window."""
        rows, columns = self.window
        table = self.relative_position_bias_table
        y = torch.arange(rows, device=table.device).repeat_interleave(columns)
        x = torch.arange(columns, device=table.device).repeat(rows)
        y_offset = y[:, None] - y + rows - 1  # 0 to 2 rows - 2
        x_offset = x[:, None] - x + columns - 1
        return table[y_offset * (2 * columns - 1) + x_offset].permute(2, 0, 1)[None]


class SwinBlock(nn.Module):
    """A pre-norm block x (B, h, w, D) with attention inside windows, shifted or not (eq. 3):

        x = (S)W-MSA(LN(x)) + x
        x = MLP(LN(x)) + x

    grid: of the stage at the configured image size. A grid that the window does not divide is
    padded with zeros, and the padding is attended to, as in the reference libraries. These differ
    in the order: transformers pads, then shifts (config.padded "before_shift"), and shifts neither
    axis if the shorter has only one window; timm shifts, then pads ("after_shift"), and decides for
    each axis.
    """

    def __init__(self, config: SwinConfig, stage: int, grid: Size, shifted: bool) -> None:
        super().__init__()
        width, scale = config.width << stage, 1 << stage
        self.pads_first = config.padded == "before_shift"
        self.window = (min(grid[0], config.window), min(grid[1], config.window))
        self.shifted = shifted
        # An axis with one window is not shifted.
        self.shift = (
            config.window // 2 if shifted and grid[0] > config.window else 0,
            config.window // 2 if shifted and grid[1] > config.window else 0,
        )
        self.norm1 = nn.LayerNorm(width, config.eps)
        self.attn = WindowAttention(width, config.heads_by_stage[stage], self.window)
        self.norm2 = nn.LayerNorm(width, config.eps)
        self.mlp = Mlp(width, config.mlp_width * scale, config.activation)

    def forward(self, x: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        x = x + self.attend(self.norm1(x), taps)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]

    def attend(self, x: Tensor, taps: Taps) -> Tensor:
        """Self-attention of x (B, h, w, D) inside windows."""
        height, width = x.shape[1:3]
        rows, columns = self.window
        shift = self.shift
        if self.pads_first:
            one_window = min(height, width) <= min(rows, columns)
            shift = (rows // 2, columns // 2) if self.shifted and not one_window else (0, 0)
        padding = (0, 0, 0, -width % columns, 0, -height % rows)
        shift_back = (-shift[0], -shift[1])
        if self.pads_first:
            x = torch.roll(F.pad(x, padding), shift_back, (1, 2))
        else:
            x = F.pad(torch.roll(x, shift_back, (1, 2)), padding)
        grid = (x.shape[1] // rows, x.shape[2] // columns)  # windows down and across
        mask = self.attn.bias().to(x.dtype)
        if any(shift):
            regions = _region_mask((x.shape[1], x.shape[2]), self.window, shift, x)
            mask = mask + regions.repeat(x.shape[0], 1, 1)[:, None]
        x = self.attn(_split_windows(x, self.window), mask=mask, taps=taps)
        x = _join_windows(x, grid, self.window)
        if self.pads_first:
            return torch.roll(x, shift, (1, 2))[:, :height, :width]
        return torch.roll(x[:, :height, :width], shift, (1, 2))


class PatchMerging(nn.Module):
    """Concatenate each 2 x 2 places and project them: (B, h, w, D) -> (B, h / 2, w / 2, 2 D), sides
    rounded up (section 3.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, EPS)
        self.reduction = Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """Patch merging, but in the first stage, and blocks on the merged grid."""

    def __init__(self, config: SwinConfig, stage: int, grid: Size) -> None:
        super().__init__()
        width = config.width << stage  # doubled at each stage after the first
        self.downsample = PatchMerging(width // 2) if stage else nn.Identity()
        self.blocks = nn.ModuleList(
            SwinBlock(config, stage, grid, shifted=i % 2 == 1) for i in range(config.stages[stage])
        )

    def forward(self, x: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        x = self.downsample(x)
        for i, block in enumerate(self.blocks):
            x = block(x, taps.inside(f"blocks.{i}"))
            taps.keep(f"blocks.{i}", x)
        return x


class SwinTransformer(nn.Module):
    """Pixels (B, 3, H, W) -> (B, out), or pooled features (B, D) when `out` is 0.

    H and W may have any value: sides that a patch, a window or a merging does not divide are
    padded. D is the width doubled at each stage after the first.

    Taps: "tokens" (B, h, w, D), the input of the first stage; "layers.{s}.blocks.{i}" (B, h, w, D),
    the output of block i of stage s; its ".attn" (B * windows, H, M, M), ".attn.q", ".k", ".v";
    "features" (B, D) before the head.
    """

    def __init__(self, config: SwinConfig, out: int, head_bias: bool = False) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(3, config.width, config.patch_size)
        self.norm_pre = nn.LayerNorm(config.width, EPS)
        rows, columns = config.grid
        self.layers = nn.ModuleList(
            Stage(config, i, (-(-rows // (1 << i)), -(-columns // (1 << i))))
            for i in range(len(config.stages))
        )
        width = config.out_width
        self.norm = nn.LayerNorm(width, config.eps)
        self.head = Linear(width, out, bias=head_bias) if out else nn.Identity()
        self.prefix, self.out_width = 0, out or width
        self.prefix_names: tuple[str, ...] = ()
        self.layer_names = tuple(
            f"layers.{i}.blocks.{j}" for i, count in enumerate(config.stages) for j in range(count)
        )
        self.pool_layer = ""
        self.attention_layers: tuple[str, ...] = ()  # inside windows, not between all tokens

    def forward(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        return self.head(self.features(pixels, taps))  # type: ignore[no-any-return]

    def features(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tensor:
        return self.pool(self.encode(pixels, taps), taps)

    def encode(self, pixels: Pixels, taps: Taps = NO_TAPS) -> Tokens:
        if not isinstance(pixels, Tensor):
            raise UnsupportedError("this tower takes images of one size; a ViT takes each its own")
        side = self.config.patch_size
        pixels = F.pad(pixels, (0, -pixels.shape[3] % side, 0, -pixels.shape[2] % side))
        x = self.norm_pre(self.patch_embed(pixels).permute(0, 2, 3, 1))  # (B, h, w, D)
        taps.keep("tokens", x)
        for i, stage in enumerate(self.layers):
            x = stage(x, taps.inside(f"layers.{i}"))
        return Tokens(x.flatten(1, 2))

    def pool(self, tokens: Tokens, taps: Taps = NO_TAPS) -> Tensor:
        x: Tensor = self.norm(tokens.values).mean(dim=1)
        taps.keep("features", x)
        return x

    def project(self, values: Tensor) -> Tensor:
        return self.head(self.norm(values))  # type: ignore[no-any-return]

    def grid(self, size: Size) -> Size:
        """The grid of the last stage, padded where patch or merging do not divide a side."""
        stride = self.config.patch_size << len(self.layers) - 1
        return -(-size[0] // stride), -(-size[1] // stride)

    def patches(self, size: Size) -> slice:
        rows, columns = self.grid(size)
        return slice(0, rows * columns)

    def fix_size(self, size: Size) -> None:
        """Nothing to do: positions are relative."""

    def dense(
        self,
        pixels: Tensor,
        edit: DenseEdit,
        project: bool = True,
        semantic: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        if edit != DenseEdit():
            raise UnsupportedError(
                "a Swin attends inside windows, so that its last layer cannot be changed for the "
                'whole image; method="cosine" takes its patches as they are'
            )
        tokens = self.encode(pixels).values
        return self.project(tokens) if project else self.norm(tokens)

    def dense_pooled(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        return self.dense(pixels, edit), self(pixels)

    def dense_keys(self, pixels: Tensor, edit: DenseEdit) -> tuple[Tensor, Tensor]:
        raise UnsupportedError(
            "a Swin attends inside windows: its last layer has no keys of the whole image"
        )

    def windows(self, pixels: Tensor, patches: Tensor) -> Tensor:
        raise UnsupportedError(
            "a Swin attends in windows of a whole grid: no patch can be left out"
        )

    def hidden_states(self, pixels: Pixels, layer: int, norm: bool) -> Tensor:
        raise UnsupportedError(
            "a Swin has other tokens at every stage; hidden states of one layer come from a ViT, "
            'such as that of a CLIP model or of the embedded one: patchword.load("demo")'
        )

    def pooled_attention(self, weights: Tensor, size: Size) -> Tensor:
        raise UnsupportedError("a Swin attends inside windows: it has no map of the whole image")


def _split_windows(x: Tensor, window: Size) -> Tensor:
    """(B, h, w, D) -> (B * windows, M, D), windows row by row."""
    rows, columns = window
    x = x.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))  # type: ignore[no-untyped-call]
    return x.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def _join_windows(x: Tensor, grid: Size, window: Size) -> Tensor:
    """The inverse of `_split_windows`. grid: windows (down, across)."""
    x = x.unflatten(1, window).unflatten(0, (-1, *grid))  # type: ignore[no-untyped-call]
    return x.transpose(2, 3).flatten(1, 2).flatten(2, 3)


def _region_mask(size: Size, window: Size, shift: Size, like: Tensor) -> Tensor:
    """Additive (windows, M, M): 0 for two places of one region, `SEPARATED` for places that the
    shift brought together from opposite edges (figure 4)."""
    axes = []  # for rows and for columns: which of up to three regions each is in
    for length, window_side, shifted_by in zip(size, window, shift, strict=True):
        position = torch.arange(length, device=like.device)
        region = (position >= length - window_side).long()
        if shifted_by:
            region = region + (position >= length - shifted_by).long()
        axes.append(region)
    regions = axes[0][:, None] * 3 + axes[1]  # (h, w)
    by_window = _split_windows(regions[None, :, :, None], window)  # (windows, M, 1)
    return (by_window != by_window.mT).to(like.dtype) * SEPARATED
