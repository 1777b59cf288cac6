"""Saves a model in patchword's own format: config.json, model.safetensors, tokenizer.json."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from patchword.atomic_write import make_folder, replacing, write
from patchword.bundle import Bundle
from patchword.checkpoints import scope_files
from patchword.checkpoints.formats import own
from patchword.errors import CheckpointError
from patchword.text.tokenizer_files import TOKENIZER_FILE


def save(model: Bundle, folder: str | os.PathLike[str]) -> Path:
    """Write config.json and model.safetensors; with a tokenizer, tokenizer.json; with a scope,
    scope.json and scope.safetensors.

    Other files of the folder stay. Each file is written atomically. config.json comes last and has
    a hash of the weights, so that an interrupted save is never loaded. Raises CheckpointError for a
    folder that holds something other than a patchword model, for a network with a peft adapter that
    is not merged, and for one whose weights are NaN or infinite.
    """
    folder = Path(folder)
    if folder.exists() and not own.may_replace(folder):
        raise CheckpointError(
            f"{folder} holds something other than a patchword model; give a new or empty folder"
        )
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.own_network.state_dict().items()
    }
    if any(".base_layer." in name or ".modules_to_save." in name for name in state):
        raise CheckpointError(
            f"{model.name} has an adapter that is not merged, which {folder} could not be loaded "
            "with: call merge_and_unload() of the peft model, then save"
        )
    bad = next((name for name, values in state.items() if not values.isfinite().all()), None)
    if bad is not None:
        raise CheckpointError(
            f"{model.name} is not saved: its weights are NaN or infinite, first in {bad}, as after "
            "a training that diverged, and no program could use them"
        )
    make_folder(folder)
    digest = _digest(state)
    with replacing(folder / own.WEIGHTS_FILE) as part:
        metadata = {"format": "pt", own.MARK: digest}
        safetensors.torch.save_file(state, part, metadata=metadata)
        _sort_metadata(part)
    if model.tokenizer is None:
        (folder / TOKENIZER_FILE).unlink(missing_ok=True)
    else:
        write(folder / TOKENIZER_FILE, model.tokenizer.to_json())
    scope_files.save(model.scope, folder)
    text = json.dumps(own.describe(model.config, digest), indent=2, ensure_ascii=False)
    write(folder / own.CONFIG_FILE, text + "\n")
    return folder


def _digest(state: Mapping[str, Tensor]) -> str:
    """A hash (hex, 16 digits) of tensors with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file. Their order varies in the library, so that two files
    of the same model would differ."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        metadata = dict(sorted(header.pop("__metadata__").items()))
        text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":"))
        if len(text) > size:
            raise AssertionError("safetensors writes headers in another way than it did")
        file.seek(8)
        file.write(text.ljust(size).encode())
