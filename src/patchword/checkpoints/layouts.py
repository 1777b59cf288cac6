"""Folders with a model in a subfolder: the layouts of sentence-transformers and diffusers.

The names of the files and the small JSON files tell the subfolder and the files that are needed, of
a local folder and of a remote repository alike.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from patchword.checkpoints.json_files import Files, json_object
from patchword.checkpoints.weight_files import (
    may_be_weights,
    no_weights,
    preferred,
    shard_names,
)
from patchword.errors import CheckpointError

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"  # sentence-transformers
PIPELINE = "model_index.json"  # diffusers
ADAPTER_CONFIG = "adapter_config.json"  # peft
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Patterns of files that are needed beside the weights: configurations and tokenizers.
CONFIG_PATTERNS = ("*.json", "merges.txt", "vocab.txt", "bpe_simple_vocab_16e6.txt.gz")
# The beginning of the name of a model's folder in a pipeline, and that of the folder with its other
# files: the tokenizer of "text_encoder_2" is in "tokenizer_2".
TOKENIZER_FOLDER = ("text_encoder", "tokenizer")
PROCESSOR_FOLDER = ("image_encoder", "feature_extractor")

MODEL_MODULES = ("CLIPModel", "Transformer")
METHODS = {"text": "get_text_features", "image": "get_image_features"}


def model_folder(configs: Mapping[str, Any], where: str, subfolder: str | None) -> str:
    """The folder with the model, relative to the repository or folder; "" for that itself.

    configs: the JSON files by path. subfolder: as the user gave it. Raises CheckpointError for a
    pipeline without `subfolder`, and for what sentence-transformers computes and patchword does
    not.
    """
    if subfolder is not None:
        folder = posixpath.normpath(subfolder.replace("\\", "/"))
        if folder.startswith(("..", "/")):
            raise CheckpointError(f"subfolder {subfolder!r} is not inside {where}")
        return "" if folder == "." else folder
    modules = configs.get(MODULES)
    if isinstance(modules, list):
        return _model_module(modules, configs, where)
    if PIPELINE in configs:
        raise CheckpointError(
            f"{where} is a pipeline of several models; say which with subfolder=, or --subfolder: "
            f"{', '.join(_encoders(configs[PIPELINE])) or 'none of them is an encoder'}"
        )
    return ""


def needed_files(
    names: Collection[str], configs: Mapping[str, Any], where: str, subfolder: str | None
) -> list[str]:
    """The files of a repository that are needed to load the model. Raises CheckpointError if there
    are no weights among them, and as `model_folder`."""
    folder = model_folder(configs, where, subfolder)
    prefix = f"{folder}/" if folder else ""
    in_folder = [name.removeprefix(prefix) for name in names if posixpath.dirname(name) == folder]
    weights = preferred(in_folder)
    if weights is None:
        others = [n for n in in_folder if may_be_weights(n) and n not in ADAPTER_WEIGHTS]
        weights = others[0] if len(others) == 1 else None
    adapters = []
    if ADAPTER_CONFIG in in_folder:
        adapters = [name for name in in_folder if name in ADAPTER_WEIGHTS]
    if weights is None and not adapters:
        place = f"{where}, {folder}," if folder else where
        raise CheckpointError(no_weights(place, in_folder))
    needed = [prefix + name for name in in_folder if matches(name, CONFIG_PATTERNS)]
    needed += [prefix + name for name in adapters[:1]]
    if weights is not None:
        needed.append(prefix + weights)
        if weights.endswith(".index.json"):
            shards = shard_names(configs[prefix + weights], f"{where}/{prefix}{weights}")
            needed += [prefix + name for name in shards]
    companions = {companion(folder, pair) for pair in (TOKENIZER_FOLDER, PROCESSOR_FOLDER)} - {""}
    needed += [name for name in names if posixpath.dirname(name) in companions]
    needed += [name for name in (MODULES, PROMPTS, PIPELINE) if name in names]
    return sorted(set(needed))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether the name of a file matches one of the patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def local_model_folder(folder: Path, where: str, subfolder: str | None) -> Path:
    """The folder with the model, in a local folder. Raises CheckpointError as `model_folder`, and
    for a `subfolder` that does not exist."""
    path = folder / model_folder(Files(folder), where, subfolder)
    if not path.is_dir():
        folders = [p.name for p in sorted(folder.iterdir()) if p.is_dir()]
        raise CheckpointError(
            f"{where} has no folder {path.relative_to(folder).as_posix()}; it has "
            f"{', '.join(folders) or 'none'}"
        )
    return path


def companion(folder: str, pair: tuple[str, str]) -> str:
    """The folder of a pipeline with the tokenizer or the processor of the model in `folder`:
    "tokenizer_2" for "text_encoder_2". "" for the folder of another kind of model.

    pair: TOKENIZER_FOLDER or PROCESSOR_FOLDER.
    """
    parent, name = posixpath.split(folder)
    if not name.startswith(pair[0]):
        return ""
    return posixpath.join(parent, name.replace(pair[0], pair[1], 1))


def companion_path(folder: Path, pair: tuple[str, str]) -> Path | None:
    """The `companion` of a local folder; None if there is none."""
    name = companion(folder.absolute().name, pair)
    path = folder.absolute().with_name(name) if name else None
    return path if path is not None and path.is_dir() else None


def _encoders(index: Any) -> Iterator[str]:
    """The folders of a pipeline with models of transformers, and their classes."""
    for name, value in sorted(index.items()) if isinstance(index, dict) else ():
        if isinstance(value, list) and value[:1] == ["transformers"] and len(value) == 2:
            kind = str(value[1])
            if not kind.endswith(("Tokenizer", "TokenizerFast", "Processor", "Extractor")):
                yield f"{name} ({kind})"


def _model_module(modules: list[Any], configs: Mapping[str, Any], where: str) -> str:
    """The folder of the first module in modules.json, the model. Raises CheckpointError unless the
    other modules are Normalize, which patchword does anyway."""
    kinds = [str(m.get("type", "")) if isinstance(m, dict) else "" for m in modules]
    names = [kind.rpartition(".")[2] for kind in kinds]
    if not names or names[0] not in MODEL_MODULES:
        raise CheckpointError(
            f"{where}: {MODULES} begins with {kinds[0] if kinds else 'nothing'!r}; patchword loads "
            f"sentence-transformers' {' and '.join(MODEL_MODULES)} that hold a CLIP or SigLIP"
        )
    folder = model_folder({}, where, str(modules[0].get("path", "")))
    for name, kind in list(zip(names, kinds, strict=True))[1:]:
        if name != "Normalize":
            raise CheckpointError(
                f"{where}: {MODULES} puts {kind} after the model, which patchword does not "
                f'compute; the model without it: subfolder="{folder or "."}"'
            )
    _check_settings(configs, where, folder)
    return folder


def _check_settings(configs: Mapping[str, Any], where: str, folder: str) -> None:
    """Raise CheckpointError for settings by which sentence-transformers changes texts or outputs in
    a way that patchword does not."""
    prompts = json_object(configs, PROMPTS)
    prompt = json_object(prompts, "prompts").get(prompts.get("default_prompt_name"))
    if prompt:
        raise CheckpointError(
            f"{where}: {PROMPTS} puts {prompt!r} before every text; patchword does not: put "
            f'it there yourself and load with subfolder="{folder or "."}"'
        )
    settings = json_object(configs, posixpath.join(folder, "sentence_bert_config.json"))
    modalities = json_object(settings, "modality_config")
    for modality, method in METHODS.items():
        stated = json_object(modalities, modality).get("method", method)
        if stated != method:
            raise CheckpointError(
                f"{where}: sentence_bert_config.json embeds {modality} by {stated}, where "
                f"patchword does what {method} does"
            )
