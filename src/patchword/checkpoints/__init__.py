"""Checkpoints: any of the formats below -> a Bundle, and a Bundle -> our own format.

A format is a module with `TITLE` and `EXPECTS` (for errors), `matches(keys, files)`,
`config(tensors, files)` and `rules(config)`; it knows no network. Nothing in a checkpoint is ever
run, and nothing is loaded that does not fit whole.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
from pathlib import Path
from types import ModuleType

import safetensors.torch
import torch
from torch import Tensor, nn

from patchword import bundle, models
from patchword.bundle import Bundle
from patchword.checkpoints import hub, own
from patchword.checkpoints.read import Source, open_path
from patchword.checkpoints.rules import assemble, fit
from patchword.config import ModelConfig
from patchword.errors import CheckpointError, ConfigError, TokenizerError
from patchword.tokenizers import TOKENIZER_FILE, Tokenizer

FORMATS: tuple[ModuleType, ...] = (
    own,
)
EMBEDDED = "demo"  # the model that travels in the package


def load(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    tokenizer: str | os.PathLike[str] | None = None,
    token: str | None = None,
) -> Bundle:
    """Open a checkpoint: a folder, a file of weights, a hub id "organisation/name", or "demo".

    dtype: of the weights in memory, whatever their type in the file. tokenizer: a file or folder
    to take it from instead of the checkpoint. token: for closed repositories of the hub. Raises
    CheckpointError when it is missing, of an unknown format, unsafe, or does not fit;
    TokenizerError when its tokenizer does not fit.
    """
    opened = locate(source, token)
    form = recognise(opened)
    try:
        config = form.config(opened.tensors, opened.files)
    except CheckpointError as error:
        raise CheckpointError(f"{opened.name} is a {form.TITLE}, but {error}") from error
    network = build(config, opened.name)
    expected = network.state_dict()
    shapes = {name: tuple(value.shape) for name, value in expected.items()}
    what = f"{opened.weights} is a {form.TITLE}"
    plan = fit(form.rules(config), opened.tensors, shapes, what)
    state = dict(assemble(plan, opened.tensors, expected, device, dtype))
    if form is own:
        _check_pair(opened, state)
    network.load_state_dict(state, assign=True)
    reader = _tokenizer(opened, config, tokenizer)
    return bundle.make(network, config, reader, opened.name)


def save(model: Bundle, folder: str | os.PathLike[str]) -> Path:
    """Write our own format: config.json, model.safetensors and, with a tokenizer, tokenizer.json.

    Other files of the folder stay. Every file is written beside its place and then moved there;
    config.json comes last and names the weights by hash, so that a mixture of two saves cannot
    be loaded. Raises CheckpointError for a folder that holds something other than a patchword
    model.
    """
    folder = Path(folder)
    _check_target(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {n: t.detach().cpu().contiguous() for n, t in model.network.state_dict().items()}
    weights = digest(state)
    with _moved(folder / own.WEIGHTS_FILE) as place:
        safetensors.torch.save_file(state, place)
    if model.tokenizer is not None:
        with _moved(folder / TOKENIZER_FILE) as place:
            place.write_text(model.tokenizer.to_json(), encoding="utf-8")
    else:
        (folder / TOKENIZER_FILE).unlink(missing_ok=True)
    with _moved(folder / own.CONFIG_FILE) as place:
        text = json.dumps(own.describe(model.config, weights), indent=2)
        place.write_text(text + "\n", encoding="utf-8")
    return folder
