"""Converts a model to another device, or its weights to another type."""

from __future__ import annotations

import copy

import torch

from patchword.bundle import Bundle, make


@torch.inference_mode(False)  # as `checkpoints.load`
def converted(model: Bundle, device: torch.device, dtype: torch.dtype) -> Bundle:
    """A copy of a bundle on that device, with weights of that type. Raises UnsupportedError for a
    model with another engine than torch's."""
    network = copy.deepcopy(model.own_network).to(device=device, dtype=dtype)
    options = {name: value for name, value in model.options.items() if name != "dtype"}
    if dtype != torch.float32:
        options["dtype"] = str(dtype).removeprefix("torch.")
    bundle = make(network, model.config, model.tokenizer, model.name, options, model.scope)
    opener = model.opener
    squashed = bool(options.get("squash"))
    return bundle.opening(opener.stretch, opener.max_pixels, opener.urls, squashed, opener.exact)
