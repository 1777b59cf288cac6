"""A hash by which vectors of two models are known to be comparable."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn

from patchword.config import ModelConfig, to_dict
from patchword.text.tokenizer import Tokenizer

DENSE_HEAD = "dense_head."  # before the names of a network's tensors of a head for maps
FINGERPRINT = "2"  # which version of what is hashed: "2-" and 16 digits; in the first, digits alone


def fingerprint(network: nn.Module, config: ModelConfig, tokenizer: Tokenizer | None) -> str:
    """A hash of everything that determines a model's vectors: weights and their type, architecture,
    preprocessing, tokenizer. Its name, its files, the names of its classes, a head for maps and the
    layers for defects do not count."""
    digest = described(config, tokenizer)
    for name, value in sorted(network.state_dict().items()):
        if name.startswith(DENSE_HEAD):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
    return f"{FINGERPRINT}-{digest.hexdigest()[:16]}"


def described(config: ModelConfig, tokenizer: Tokenizer | None) -> hashlib._Hash:
    """The hash of what determines vectors besides weights, to go on with."""
    values = to_dict(config)
    for name in ("assumed", "read_from", "source", "labels", "dense_head", "defect_layers"):
        del values[name]
    if config.preprocess.resize != "patches":  # these two mean nothing then
        del values["preprocess"]["max_patches"], values["preprocess"]["patch_size"]
    if config.preprocess.resize != "contain":  # nor does this
        del values["preprocess"]["fill"]
    if not (values["vision"] or {}).get("stage_heads", True):  # as it was without this field
        del values["vision"]["stage_heads"]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    if tokenizer:
        digest.update((tokenizer.to_json() + tokenizer.cleaning).encode())
    return digest
