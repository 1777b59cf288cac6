"""Images as sequences of patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.nn.inference_mode import eager_inference, has_hooks
from patchword.nn.linear import ONEDNN_TYPES


class PatchEmbed(nn.Module):
    """z_i = x_i E + b for each non-overlapping P x P patch x_i of an image (Dosovitskiy et al.
    2021, eq. 1): (B, C, H, W) -> (B, D, H / P, W / P).

    It is a convolution with stride P. In inference on a CPU in bfloat16 it is computed as the
    product that it is, in 0.15 to 0.85 of the time on an Intel Xeon. In float32 that would save
    less, and the sums would not be those of the original libraries, which convolve.
    """

    def __init__(self, channels: int, width: int, patch_size: int, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size, bias=bias)

    def forward(self, pixels: Tensor) -> Tensor:
        if eager_inference() and self._can_multiply(pixels):
            return self._product(pixels)
        return self.proj(pixels)  # type: ignore[no-any-return]

    def _can_multiply(self, pixels: Tensor) -> bool:
        """True in bfloat16 on a CPU where oneDNN computes it, for the convolution that `__init__`
        made: not for an adapter's, nor where a hook must run."""
        proj, size = self.proj, self.proj.kernel_size
        return (
            pixels.is_cpu
            and pixels.dtype == torch.bfloat16
            and torch.bfloat16 in ONEDNN_TYPES
            and pixels.ndim == 4
            and min(pixels.shape[2:]) >= size[0]
            and type(proj) is nn.Conv2d
            and type(proj.weight) is nn.Parameter
            and (proj.stride, proj.padding, proj.dilation) == (size, (0, 0), (1, 1))
            and not has_hooks(proj)
        )

    def _product(self, pixels: Tensor) -> Tensor:
        size = self.proj.kernel_size[0]
        rows, columns = pixels.shape[2] // size, pixels.shape[3] // size
        whole = pixels[:, :, : rows * size, : columns * size]
        x = torch.unflatten(torch.unflatten(whole, 3, (columns, size)), 2, (rows, size))
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (B, h, w, C * P * P)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias).permute(0, 3, 1, 2)


def patchify(pixels: Tensor, patch_size: int) -> Tensor:
    """Images (B, 3, H, W) -> the pixels of their patches (B, h * w, P * P * 3): patches and their
    pixels row by row, the three colours of a pixel together (He et al. 2022, section 3)."""
    x = torch.unflatten(pixels, 3, (-1, patch_size))
    x = torch.unflatten(x, 2, (-1, patch_size))  # (B, 3, h, P, w, P)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """The inverse of `patchify`: (B, h * w, P * P * 3) on a grid (h, w) -> (B, 3, H, W)."""
    x = torch.unflatten(patches, 2, (patch_size, patch_size, 3))
    x = torch.unflatten(x, 1, grid)  # (B, h, w, P, P, 3)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
