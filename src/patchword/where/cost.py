"""The cost of a heatmap, in encodings of the same pixels: the least that its formula allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from patchword.config import ModelConfig
from patchword.where.dense import EDITS
from patchword.where.heatmap import SURGERY
from patchword.where.photo_maps import HEAD


def least(network: Any, config: ModelConfig, method: str) -> float | None:
    """The multiplications of one text's map divided by those of one encoding of the same pixels,
    counted in convolutions, linear layers and attention. None for a method by gradients or without
    texts. Raises UnsupportedError for an edit that the tower does not have.

    network  of that config, on the meta device (`models.outline`), where nothing is computed
    """
    if method not in (*EDITS, SURGERY, HEAD):
        return None
    head = config.dense_head if method == HEAD else None
    size = (head.size, head.size) if head else config.preprocess.size
    pixels = torch.empty(1, 3, *size, device="meta")

    def same_labels(patches: Tensor) -> Tensor:  # of the second pass of ResCLIP
        return patches.new_empty(1, patches.shape[1], patches.shape[1])

    def heatmap() -> object:
        if head:
            return network.dense_cosines(pixels, pixels.new_empty(1, config.embed_dim))
        if method == SURGERY:
            return network.image.dense_pooled(pixels, EDITS["surgery"])
        return network.image.dense(pixels, EDITS[method], True, same_labels)

    return multiplications(heatmap) / multiplications(lambda: network.image(pixels))


def multiplications(work: Callable[[], object]) -> int:
    """The multiplications of matrix products and convolutions, those of attention included."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops()) // 2
