"""From preprocessed images to unit vectors, and to what a scope check needs of them."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from patchword.engines.protocol import Engine, Pixels, Rows
from patchword.engines.torch_engine import TorchEngine
from patchword.models.protocols import ImageNetwork
from patchword.scope import Check


def encode(engine: Engine, layer: str, pixels: Pixels) -> Rows:
    """Features (N, D) of preprocessed images, not normalised. By torch's engine they are joined
    with the summary of a layer of the image tower, if one is named."""
    if layer and engine.name == "torch" and isinstance(engine, TorchEngine):
        return engine.run(partial(summarised, engine.network, layer), pixels)
    return engine.encode_image(pixels)


def checked_units(check: Check, dim: int, encoded: Rows) -> Rows:
    """Unit vectors (N, dim) of images from what `encode` returns. A scope check gets them too."""
    rows, summaries = unit(encoded[:, :dim]), encoded[:, dim:]
    with np.errstate(invalid="ignore"):
        check.vectors(rows, summaries if summaries.size else None)
    return rows


def summarised(network: nn.Module, layer: str, pixels: Tensor) -> Tensor:
    """Features (B, D), not normalised, joined with a summary of a layer of the image tower."""
    assert isinstance(network, ImageNetwork)
    tap = f"image.{layer}"
    features, taps = network.encode_image(pixels, [tap])
    return torch.cat([features, summary(taps[tap])], dim=1)


def summary(tokens: Tensor) -> Tensor:
    """Tokens (B, N, D) -> (B, 3 * D): class token; mean and standard deviation of the others."""
    patches = tokens[:, 1:]
    return torch.cat([tokens[:, 0], patches.mean(dim=1), patches.std(dim=1)], dim=1)


def unit(rows: Rows) -> Rows:
    """Rows (N, D) divided by their lengths. In float64: a float32 sum depends on a row's alignment
    in memory."""
    exact = rows.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # infinity by infinity, which `finite` reports
        return (exact / np.maximum(lengths, 1e-12)).astype(np.float32)  # type: ignore[no-any-return]
