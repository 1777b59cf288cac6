"""A hash by which vectors of two models are known to be comparable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from patchword.config import ModelConfig, to_dict
from patchword.text.tokenizer import Tokenizer

DENSE_HEAD = "dense_head."  # before the names of a network's tensors of a head for maps
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their bytes
FINGERPRINT = "2"  # which version of what is hashed: "2-" and 16 digits; in the first, digits alone

DIGEST = re.compile(r"(\d+-)?[0-9a-f]{16}")  # what marks of how images are opened may follow


class Holder(Protocol):
    """What has a fingerprint: a `Bundle`."""

    @property
    def engine(self) -> Any: ...
    @property
    def own_network(self) -> nn.Module: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def fingerprint(self) -> str: ...


M = TypeVar("M", bound=Holder)


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
    vision = values["vision"] or {}
    if not vision.get("stage_heads", True):  # as it was without this field
        del vision["stage_heads"]
    text = values["text"] or {}
    if not text.get("head_hidden", True):  # nor this one
        del text["head_hidden"]
    resampled = config.preprocess.size != getattr(config.vision, "image_size", None)
    if vision.get("antialias", True) or not resampled:  # nor does this
        vision.pop("antialias", None)
    if config.text is None:  # of classes, on which no vector depends
        values["score"] = "softmax"
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    if tokenizer:
        digest.update((tokenizer.to_json() + tokenizer.cleaning).encode())
    return digest


def checksum(module: nn.Module) -> str:
    """By which weights as they are now are known from what they were, however they were changed,
    sooner than by a fingerprint: a hash of the sums of the bits of each row, and of each column."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        if value.numel():
            length = value.shape[-1] if value.ndim else 1
            rows = value.detach().reshape(-1, length).contiguous()
            numbers = math.gcd(length, rows.storage_offset()) * value.element_size()
            bits = rows.view(BITS[math.gcd(numbers, 8)])
            for sums in (bits.sum(dim=0), bits.sum(dim=1)):
                digest.update(sums.cpu().numpy().data)
    return digest.hexdigest()[:16]


def renewed(model: M) -> M:
    """A model with its fingerprint as it is now: computed again where somebody has had its network,
    and may have changed it since it was loaded."""
    known = DIGEST.match(model.fingerprint)
    if known is None or not getattr(model.engine, "weights_may_change", False):
        return model
    now = fingerprint(model.own_network, model.config, model.tokenizer)
    if now == known[0]:
        return model
    marked = now + model.fingerprint[known.end() :]
    return dataclasses.replace(model, fingerprint=marked)  # type: ignore[type-var]
