"""A model on another device, or with weights of another type."""

from __future__ import annotations

import copy

import torch

from patchword.bundle import Bundle, make


@torch.inference_mode(False)  # as `checkpoints.load`
def converted(model: Bundle, device: torch.device, dtype: torch.dtype) -> Bundle:
    """A copy of a bundle on that device, its weights of that type. Raises UnsupportedError for one
    that torch does not run."""
    network = copy.deepcopy(model.own_network).to(device=device, dtype=dtype)
    options = {name: value for name, value in model.options.items() if name != "dtype"}
    if dtype != torch.float32:
        options["dtype"] = str(dtype).removeprefix("torch.")
    bundle = make(network, model.config, model.tokenizer, model.name, options, model.scope)
    opener = model.opener
    squashed = bool(options.get("squash"))
    return bundle.opening(opener.stretch, opener.max_pixels, opener.urls, squashed, opener.exact)
