"""Relevance of patches to a text by gradients of attention: LeGrad and Chefer et al."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.models.protocols import Tokens, Tower
from patchword.nn.taps import Taps

BLOCKS = 2  # the last ones that LeGrad takes by default


@torch.inference_mode(False)
def legrad(model: Bundle, texts: Tensor, pixels: Tensor, layer: int | None = None) -> Tensor:
    """Maps (B, T, h, w), 0 or above, of images (B, 3, H, W) by unit texts (T, D): how much
    attention to a patch supports the text (LeGrad, Bousselham et al. 2024, section 3).

    Of each block from `layer` on the cosine of the text with what the block gives, pooled by the
    mean of all tokens; its gradient by the block's attention, held at 0 or above, the mean over
    heads and queries; summed over blocks. A tower that pools by attention pools each block by that,
    and the gradient is of this attention.
    """
    tower = _with_attention(model)
    texts = texts.clone().to(pixels.device)
    blocks = _blocks(model, tower, layer, BLOCKS)
    pooling = tower.pool_layer
    names = [f"{block}.attn" for block in blocks] if not pooling else []
    outputs = blocks if tower.layer_names == tower.attention_layers else ()
    taps = Taps([*names, *outputs])
    with torch.enable_grad():
        tokens = tower.encode(pixels.clone().requires_grad_(), taps)
        kept = taps.result()
        pairs = []
        for block in blocks:
            values = kept[block] if outputs else tokens.values
            if pooling:
                inner = Taps([f"{pooling}.attn"])
                vectors = tower.pool(Tokens(values), inner)
                pairs.append((vectors, inner.result()[f"{pooling}.attn"]))
            else:
                vectors = tower.project(values.mean(dim=1, keepdim=True))[:, 0]
                pairs.append((vectors, kept[f"{block}.attn"]))
        maps = torch.stack([_raised(vectors, texts, attention) for vectors, attention in pairs])
    return _gridded(tower, maps.sum(dim=0), pixels)


def _raised(vectors: Tensor, texts: Tensor, attention: Tensor) -> Tensor:
    """(B, T, N): of the cosine with each text, the gradient by attention (B, H, M, N)."""
    cosines = F.normalize(vectors.float(), dim=-1) @ texts.mT  # (B, T)
    rows = []
    for score in cosines.unbind(dim=1):
        (gradient,) = torch.autograd.grad(score.sum(), attention, retain_graph=True)
        rows.append(gradient.float().clamp(min=0).mean(dim=(1, 2)))
    return torch.stack(rows, dim=1)


@torch.inference_mode(False)
def chefer(model: Bundle, texts: Tensor, pixels: Tensor, layer: int | None = None) -> Tensor:
    """Maps (B, T, h, w) of images (B, 3, H, W) by unit texts (T, D) (Chefer et al. 2021, "Generic
    attention-model explainability", section 3): R <- R + mean over heads of max(A dA, 0) R, from
    the identity, over the blocks from `layer` on, the last alone by default; dA is the gradient of
    the scaled cosine. Then the row of what is pooled.
    """
    tower = _with_attention(model)
    texts = texts.clone().to(pixels.device)
    blocks = _blocks(model, tower, layer, 1)
    pooling = tower.pool_layer
    names = [f"{block}.attn" for block in dict.fromkeys([*blocks, pooling]) if block]
    taps = Taps(names)
    with torch.enable_grad():
        vectors = tower(pixels.clone().requires_grad_(), taps)
        kept = taps.result()
        maps = [kept[name] for name in names]
        logits = model.scale * F.normalize(vectors.float(), dim=-1) @ texts.mT
        rows = []
        for score in logits.unbind(dim=1):
            gradients = torch.autograd.grad(score.sum(), maps, retain_graph=True)
            parts = zip(maps, gradients, strict=True)
            rows.append(_relevance([(a * g).float().clamp(min=0).mean(dim=1) for a, g in parts]))
    relevance = torch.stack([row.detach() for row in rows], dim=1)  # (B, T, M, N)
    if pooling:
        return _gridded(tower, relevance[:, :, 0], pixels)
    size = (pixels.shape[-2], pixels.shape[-1])
    pooled = tower.pooled_attention(relevance.flatten(0, 1), size)
    return pooled.unflatten(0, relevance.shape[:2]).unflatten(-1, tower.grid(size))  # type: ignore[no-untyped-call,no-any-return]


def _relevance(parts: Sequence[Tensor]) -> Tensor:
    """R (B, M, N) over the layers' (B, M, N), all but the last of which are square."""
    count, width = len(parts[0]), parts[0].shape[-1]
    eye = torch.eye(width, dtype=parts[0].dtype, device=parts[0].device)
    total = eye.expand(count, -1, -1)
    for part in parts:
        total = total + part @ total if part.shape[-2] == total.shape[-2] else part @ total
    return total


def _with_attention(model: Bundle) -> Tower:
    """The tower. Raises UnsupportedError for one that attends inside windows alone."""
    tower = model.image_tower
    if not tower.attention_layers:
        raise UnsupportedError(
            f"{model.name} attends inside windows, so that no gradient of attention is of the "
            'whole image; method="cosine" works'
        )
    return tower


def _blocks(model: Bundle, tower: Tower, layer: int | None, usual: int) -> Sequence[str]:
    """The attention layers from `layer` on, or the `usual` last ones."""
    names = tower.attention_layers
    if layer is None:
        return names[-usual:]
    if not 0 <= layer < len(names):
        raise UnsupportedError(f"no layer {layer}: {model.name} has layers 0 to {len(names) - 1}")
    return names[layer:]


def _gridded(tower: Tower, maps: Tensor, pixels: Tensor) -> Tensor:
    """Of all tokens (B, T, N) the patches (B, T, h, w)."""
    size = (pixels.shape[-2], pixels.shape[-1])
    return torch.unflatten(maps[..., tower.patches(size)], -1, tower.grid(size))
