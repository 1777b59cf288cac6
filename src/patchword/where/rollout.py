"""Attention rollout as a heatmap: what the image tower attends to, for no text (Abnar & Zuidema
2020, section 3): the product over layers of (A + I) / 2, with A the mean over heads."""

from __future__ import annotations

import torch
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.models.protocols import ImageNetwork
from patchword.nn.inference_mode import inference
from patchword.tasks.attention_layers import pooling, rolled


def rollout(model: Bundle, pixels: Tensor) -> Tensor:
    """Maps (B, h, w) of images (B, 3, H, W): the row of the rollout that is pooled, over the
    patches. That is the class token's row; with attention pooling (SigLIP) the pooling's attention
    times the rollout; with mean pooling the mean of the patches' rows. Raises UnsupportedError for
    a tower that attends inside windows only."""
    tower, network = model.image_tower, model.own_network
    assert isinstance(network, ImageNetwork)
    names = [f"image.{name}.attn" for name in tower.attention_layers]
    if not names:
        raise UnsupportedError(
            f"{model.name} attends inside windows, so that there is no rollout over the whole "
            'image; method="cosine" works'
        )
    names += pooling(tower)
    with inference(network):
        _, taps = network.encode_image(pixels, taps=names)
    size = (pixels.shape[-2], pixels.shape[-1])
    layers = [taps[name].float() for name in names]
    products = (rolled([layer[i] for layer in layers]) for i in range(len(pixels)))
    rows = torch.cat([tower.pooled_attention(each[None], size) for each in products])
    return torch.unflatten(rows, -1, tower.grid(size))
