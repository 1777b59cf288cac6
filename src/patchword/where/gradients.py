"""Relevance of patches to a text by gradients of attention: LeGrad and Chefer et al.

A^l is the attention of block l, (heads, queries, keys), and dA its gradient.

LeGrad (Bousselham et al. 2024, section 3): with s^l the cosine of the text with the pooled output
of block l,

    E = sum over blocks l of mean over heads and queries of max(d s^l / d A^l, 0)

Chefer et al. (2021, "Generic attention-model explainability", equations 5 and 6): with y the scaled
cosine of the text with the image,

    Abar = mean over heads of max(A * dy / dA, 0)
    R <- R + Abar R, from R = I
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.models.protocols import Tokens, Tower
from patchword.nn.taps import Taps

LEGRAD_BLOCKS = 2  # the number of last blocks by default
CHEFER_BLOCKS = 1


@torch.inference_mode(False)
def legrad(model: Bundle, texts: Tensor, pixels: Tensor, layer: int | None = None) -> Tensor:
    """LeGrad maps (B, T, h, w), 0 or above, of images (B, 3, H, W) by unit texts (T, D), summed
    over the blocks from `layer` on. The output of a block is pooled by the mean of its tokens; a
    tower with attention pooling pools it by that, and A is the attention of the pooling.
    """
    tower = _with_attention(model)
    texts = texts.clone().to(pixels.device)
    blocks = _blocks(model, tower, layer, LEGRAD_BLOCKS)
    pooling = tower.pool_layer
    names = [f"{block}.attn" for block in blocks] if not pooling else []
    outputs = blocks if tower.layer_names == tower.attention_layers else ()
    taps = Taps([*names, *outputs])
    with torch.enable_grad():
        tokens = tower.encode(pixels.clone().requires_grad_(), taps)
        tapped = taps.result()
        maps = []
        for block in blocks:
            values = tapped[block] if outputs else tokens.values
            if pooling:
                pooling_taps = Taps([f"{pooling}.attn"])
                vectors = tower.pool(Tokens(values), pooling_taps)
                attention = pooling_taps.result()[f"{pooling}.attn"]
            else:
                vectors = tower.project(values.mean(dim=1, keepdim=True))[:, 0]
                attention = tapped[f"{block}.attn"]
            maps.append(_positive_gradients(vectors, texts, attention))
    return _patch_maps(tower, torch.stack(maps).sum(dim=0), pixels)


def _positive_gradients(vectors: Tensor, texts: Tensor, attention: Tensor) -> Tensor:
    """(B, T, N): the positive gradients of the cosines of vectors (B, D) with each text by
    attention (B, H, M, N), averaged over heads and queries."""
    cosines = F.normalize(vectors.float(), dim=-1) @ texts.mT  # (B, T)
    maps = []
    for score in cosines.unbind(dim=1):
        (gradient,) = torch.autograd.grad(score.sum(), attention, retain_graph=True)
        maps.append(gradient.float().clamp(min=0).mean(dim=(1, 2)))
    return torch.stack(maps, dim=1)


@torch.inference_mode(False)
def chefer(model: Bundle, texts: Tensor, pixels: Tensor, layer: int | None = None) -> Tensor:
    """Maps of Chefer et al. (B, T, h, w) of images (B, 3, H, W) by unit texts (T, D), through the
    blocks from `layer` on: the row of R of the token that is pooled, over the patches."""
    tower = _with_attention(model)
    texts = texts.clone().to(pixels.device)
    blocks = _blocks(model, tower, layer, CHEFER_BLOCKS)
    pooling = tower.pool_layer
    names = [f"{block}.attn" for block in dict.fromkeys([*blocks, pooling]) if block]
    taps = Taps(names)
    with torch.enable_grad():
        vectors = tower(pixels.clone().requires_grad_(), taps)
        tapped = taps.result()
        attentions = [tapped[name] for name in names]
        logits = model.scale * F.normalize(vectors.float(), dim=-1) @ texts.mT
        rows = []
        for score in logits.unbind(dim=1):
            gradients = torch.autograd.grad(score.sum(), attentions, retain_graph=True)
            pairs = zip(attentions, gradients, strict=True)
            rows.append(_relevance([(a * g).float().clamp(min=0).mean(dim=1) for a, g in pairs]))
    relevance = torch.stack([row.detach() for row in rows], dim=1)  # (B, T, M, N)
    if pooling:
        return _patch_maps(tower, relevance[:, :, 0], pixels)
    size = (pixels.shape[-2], pixels.shape[-1])
    pooled = tower.pooled_attention(relevance.flatten(0, 1), size)
    return pooled.unflatten(0, relevance.shape[:2]).unflatten(-1, tower.grid(size))  # type: ignore[no-untyped-call,no-any-return]


def _relevance(layers: Sequence[Tensor]) -> Tensor:
    """R (B, M, N) from Abar (B, M, N) of each layer. The last may be an attention pooling, with
    fewer rows and no residual: R <- Abar R."""
    count, width = len(layers[0]), layers[0].shape[-1]
    eye = torch.eye(width, dtype=layers[0].dtype, device=layers[0].device)
    relevance = eye.expand(count, -1, -1)
    for layer in layers:
        product = layer @ relevance
        relevance = relevance + product if product.shape == relevance.shape else product
    return relevance


def _with_attention(model: Bundle) -> Tower:
    """The tower. Raises UnsupportedError for one that attends inside windows only."""
    tower = model.image_tower
    if not tower.attention_layers:
        raise UnsupportedError(
            f"{model.name} attends inside windows, so that no gradient of attention is of the "
            'whole image; method="cosine" works'
        )
    return tower


def _blocks(model: Bundle, tower: Tower, layer: int | None, default: int) -> Sequence[str]:
    """The attention layers from `layer` on; None: the last `default` ones."""
    names = tower.attention_layers
    if layer is None:
        return names[-default:]
    if not 0 <= layer < len(names):
        raise UnsupportedError(f"no layer {layer}: {model.name} has layers 0 to {len(names) - 1}")
    return names[layer:]


def _patch_maps(tower: Tower, maps: Tensor, pixels: Tensor) -> Tensor:
    """Maps over all tokens (B, T, N) -> over the patches (B, T, h, w)."""
    size = (pixels.shape[-2], pixels.shape[-1])
    return torch.unflatten(maps[..., tower.patches(size)], -1, tower.grid(size))
