"""Attention rollout as a heatmap: where the image tower looks, whatever the text."""

from __future__ import annotations

import torch
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.models.protocols import ImageNetwork
from patchword.nn.mode import inference
from patchword.tasks.attention_layers import rolled


def rollout(model: Bundle, pixels: Tensor) -> Tensor:
    """Maps (B, h, w) of images (B, 3, H, W): the pooled token's row of the product over the layers
    of (A + I) / 2 (Abnar & Zuidema 2020, section 3), over the patches. It is of no text. Raises
    UnsupportedError for a tower that attends inside windows alone."""
    tower, network = model.image_tower, model.own_network
    assert isinstance(network, ImageNetwork)
    names = [f"image.{name}.attn" for name in tower.attention_layers]
    if not names:
        raise UnsupportedError(
            f"{model.name} attends inside windows, so that there is no rollout over the whole "
            'image; method="cosine" works'
        )
    with inference(network):
        _, taps = network.encode_image(pixels, taps=names)
    size = (pixels.shape[-2], pixels.shape[-1])
    layers = [taps[name].float() for name in names]
    if layers[0].shape[-2] == 1:  # attention pooling: its one query is the row itself
        rows = torch.cat([tower.pooled_attention(each, size).mean(0)[None] for each in layers[0]])
    else:
        products = (rolled([layer[i] for layer in layers]) for i in range(len(pixels)))
        rows = torch.cat([tower.pooled_attention(each[None], size) for each in products])
    return torch.unflatten(rows, -1, tower.grid(size))
