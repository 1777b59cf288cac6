"""A hash of models: vectors of two models are comparable if it is equal."""

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

DENSE_HEAD = "dense_head."  # names of a dense head's tensors begin with it
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes
VERSION = "2"  # a fingerprint is "2-" and 16 digits; version 1 was digits only

DIGEST = re.compile(r"(\d+-)?[0-9a-f]{16}")  # before suffixes for options of opening images


class Holder(Protocol):
    """The fields of a `Bundle` that are used here."""

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
    preprocessing, tokenizer. Without name, files, labels, dense head and the layers for defects."""
    digest = described(config, tokenizer)
    for name, value in sorted(network.state_dict().items()):
        if name.startswith(DENSE_HEAD):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
    return f"{VERSION}-{digest.hexdigest()[:16]}"


def described(config: ModelConfig, tokenizer: Tokenizer | None) -> hashlib._Hash:
    """The hash of everything except weights that determines vectors, to be continued."""
    values = to_dict(config)
    for name in ("assumed", "read_from", "source", "labels", "dense_head", "defect_layers"):
        del values[name]
    # Fields without an effect are not hashed. Some did not exist in earlier versions.
    if config.preprocess.resize != "patches":
        del values["preprocess"]["max_patches"], values["preprocess"]["patch_size"]
    if config.preprocess.resize != "contain":
        del values["preprocess"]["fill"]
    vision = values["vision"] or {}
    if not vision.get("stage_heads", True):
        del vision["stage_heads"]
    text = values["text"] or {}
    if not text.get("head_hidden", True):
        del text["head_hidden"]
    resampled = config.preprocess.size != getattr(config.vision, "image_size", None)
    if vision.get("antialias", True) or not resampled:
        vision.pop("antialias", None)
    if config.text is None:  # it is the score of classes, on which vectors do not depend
        values["score"] = "softmax"
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    if tokenizer:
        digest.update((tokenizer.to_json() + tokenizer.cleaning).encode())
    return digest


def checksum(module: nn.Module) -> str:
    """A hash of the sums of the bits of each row and each column of all weights. It shows that
    weights have changed, in less time than a fingerprint."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        if value.numel():
            length = value.shape[-1] if value.ndim else 1
            rows = value.detach().reshape(-1, length).contiguous()
            alignment = math.gcd(length, rows.storage_offset()) * value.element_size()
            bits = rows.view(INTEGERS[math.gcd(alignment, 8)])
            for sums in (bits.sum(dim=0), bits.sum(dim=1)):
                digest.update(sums.cpu().numpy().data)
    return digest.hexdigest()[:16]


def renewed(model: M) -> M:
    """A model with its current fingerprint, which is computed again if a caller has got its network
    and may have changed it."""
    known = DIGEST.match(model.fingerprint)
    if known is None or not getattr(model.engine, "weights_may_change", False):
        return model
    current = fingerprint(model.own_network, model.config, model.tokenizer)
    if current == known[0]:
        return model
    suffixes = model.fingerprint[known.end() :]
    return dataclasses.replace(model, fingerprint=current + suffixes)  # type: ignore[type-var]
