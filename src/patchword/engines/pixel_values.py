"""Normalises pixels by looking up the value of each level, 0 to 255."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def look_up(pixels: Tensor, levels: Tensor) -> Tensor:
    """out[b, c, y, x] = levels[c, pixels[b, c, y, x]]: pixels (B, 3, H, W) uint8, levels (3, 256)
    -> (B, 3, H, W) of the type of `levels`; all on one device. A table is exact in every type, and
    as fast as the arithmetic."""
    out = levels.new_empty(pixels.shape)
    if out.device.type == "cpu":
        _look_up_by_numpy(pixels, levels, out)
        return out
    for channel in range(3):
        values = levels[channel].index_select(0, pixels[:, channel].reshape(-1).int())
        out[:, channel] = values.view(out[:, channel].shape)
    return out


def _look_up_by_numpy(pixels: Tensor, levels: Tensor, out: Tensor) -> None:
    """In one thread, a channel at a time, which stays in its cache. torch's threads wait for each
    other in busy loops, and would take the cores from the threads that decode the next photos."""
    if levels.element_size() == 2:  # numpy has no bfloat16; the bits are only copied
        levels, out = levels.view(torch.int16), out.view(torch.int16)
    table, values = levels.numpy(), out.numpy()
    for number, image in enumerate(pixels.numpy()):
        for channel in range(3):
            np.take(table[channel], image[channel], out=values[number, channel], mode="clip")
