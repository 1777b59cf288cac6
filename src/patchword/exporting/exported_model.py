"""Loads an exported folder as a model, run by the library that it was exported for."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from patchword.bundle import Bundle
from patchword.checkpoints import scope_files
from patchword.config import ModelConfig, from_dict
from patchword.engines.graph_engine import GraphEngine, Run, single
from patchword.engines.libraries import LIBRARIES, Graph, last_line
from patchword.errors import CheckpointError, ConfigError, UnsupportedError
from patchword.exporting.folder import MARK_FILE, VERSION
from patchword.exporting.int8 import Agreement
from patchword.exporting.parts import IDS, PIXELS, features_name
from patchword.images.preprocess import Preprocess
from patchword.text.tokenizer import Tokenizer
from patchword.text.tokenizer_files import TOKENIZER_FILE


def opened(source: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Bundle:
    """The model of an exported folder, which computes in that type. It gives vectors only.

    Raises CheckpointError for a folder that is damaged or of a later version, UnsupportedError for
    a type that its library does not support.
    """
    folder = Path(source).expanduser()
    engine, mark = with_graphs(folder, dtype)
    config = mark["model"]
    text = config.text_or_decoder
    has_tokenizer = text is not None and (folder / TOKENIZER_FILE).is_file()
    tokenizer = Tokenizer.from_folder(folder, text) if has_tokenizer and text else None
    scope = scope_files.read(folder)
    return Bundle(
        engine,
        Preprocess(config.preprocess),
        tokenizer,
        config,
        mark["fingerprint"],
        str(folder.resolve()),
        mark["options"],
        scope and scope.rounded(spacing(mark, dtype)),
    )


def with_graphs(
    folder: Path, dtype: torch.dtype = torch.float32, advice: str = "export it again"
) -> tuple[GraphEngine, dict[str, Any]]:
    """The engine of a folder's graphs, and the contents of MARK_FILE, with "model" as a
    ModelConfig. advice: what to do about a damaged folder. Raises the errors of `opened`."""
    mark = _mark(folder / MARK_FILE, advice)
    library, int8 = LIBRARIES[mark["engine"]], mark["dtype"] == "int8"
    library.check(dtype)
    config = mark["model"]
    graphs: dict[str, Graph] = {}
    for part, name in mark["graphs"].items():
        path = folder / name
        try:
            graphs[part] = library.read(path, torch.int8 if int8 else dtype)
        except UnsupportedError:
            raise
        except Exception as error:  # each library has its own errors for a damaged file
            message = f"{path} cannot be read ({last_line(error)}): {advice}"
            raise CheckpointError(message) from error
    runs: dict[str, Run] = {}
    for part, input_name in (("image", PIXELS), ("text", IDS)):
        if part in graphs:
            runs[part] = single(graphs[part], input_name, features_name(config, part))
    engine = GraphEngine(
        library.name,
        runs,
        torch.int8 if int8 else dtype,
        mark["logit_scale"],
        mark["logit_bias"],
        Preprocess(config.preprocess).levels,
        graphs,
        {part: str(Agreement(**values)) for part, values in mark["agreement"].items()},
        str(mark.get("name", "")),
    )
    return engine, mark


def spacing(mark: Mapping[str, Any], dtype: torch.dtype) -> float:
    """The relative error of the numbers in images' vectors: that of their type, or in int8 the
    measured one, the sine of the largest angle."""
    eps = float(torch.finfo(dtype).eps)
    measured = mark["agreement"].get("image")
    if not measured:
        return eps
    return max(eps, math.sqrt(max(1 - measured["least"] ** 2, 0)))


def _mark(path: Path, advice: str) -> dict[str, Any]:
    """The contents of MARK_FILE, with "model" as a ModelConfig. Raises CheckpointError for a file
    with other contents."""
    try:
        mark: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = mark["version"]
        if version != VERSION:
            raise CheckpointError(
                f"{path} is of version {version!r}, and this patchword reads version {VERSION}: "
                "upgrade patchword, or export the model again"
            )
        if mark["engine"] not in LIBRARIES or not isinstance(mark["graphs"], Mapping):
            raise ValueError(f"engine is {mark['engine']!r}")
        needed = ("fingerprint", "logit_scale", "logit_bias", "options", "dtype", "agreement")
        for name in needed:
            if name not in mark:
                raise ValueError(f"no {name}")
        return mark | {"model": from_dict(ModelConfig, mark["model"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
        raise CheckpointError(
            f"{path} is not as an export writes it ({error}): {advice}"
        ) from error
