"""Folders with a model in a subfolder: the layouts of sentence-transformers and diffusers.

The subfolder and the files that are needed are found in the same way for a local folder and for a
remote repository: from the names of its files and its small JSON files.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from patchword.checkpoints.read import Files, may_be_weights, no_weights, preferred, shard_names
from patchword.errors import CheckpointError

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"  # sentence-transformers
PIPELINE = "model_index.json"  # diffusers
ADAPTER = "adapter_config.json"  # peft
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Files that are needed beside weights: configurations and tokenizers.
BESIDE = ("*.json", "merges.txt", "vocab.txt", "bpe_simple_vocab_16e6.txt.gz")
# The folder of a pipeline with a model's other files: for "text_encoder_2" it is "tokenizer_2".
WORDS_OF, PIXELS_OF = ("text_encoder", "tokenizer"), ("image_encoder", "feature_extractor")

MODEL_MODULES = ("CLIPModel", "Transformer")
METHODS = {"text": "get_text_features", "image": "get_image_features"}


def part(configs: Mapping[str, Any], where: str, subfolder: str | None) -> str:
    """The folder with the model, relative to a repository or folder: "" for itself.

    configs: its JSON files by path. Raises CheckpointError for a pipeline whose `subfolder` is not
    given, and for what sentence-transformers computes and patchword does not.
    """
    if subfolder is not None:
        inside = posixpath.normpath(subfolder.replace("\\", "/"))
        if inside.startswith(("..", "/")):
            raise CheckpointError(f"subfolder {subfolder!r} is not inside {where}")
        return "" if inside == "." else inside
    modules = configs.get(MODULES)
    if isinstance(modules, list):
        return _model_module(modules, configs, where)
    if PIPELINE in configs:
        raise CheckpointError(
            f"{where} is a pipeline of several models; say which with subfolder=, or --subfolder: "
            f"{', '.join(_encoders(configs[PIPELINE])) or 'none of them is an encoder'}"
        )
    return ""


def wanted(
    names: Collection[str], configs: Mapping[str, Any], where: str, subfolder: str | None
) -> list[str]:
    """The files of a repository that are needed to load the model. Raises CheckpointError when
    there are no weights among them, and as `part`."""
    inside = part(configs, where, subfolder)
    start = f"{inside}/" if inside else ""
    here = [name.removeprefix(start) for name in names if posixpath.dirname(name) == inside]
    loose = [n for n in here if may_be_weights(n) and n not in ADAPTER_WEIGHTS]
    weights = preferred(here) or (loose[0] if len(loose) == 1 else None)
    adapter = [name for name in here if name in ADAPTER_WEIGHTS] if ADAPTER in here else []
    if weights is None and not adapter:
        place = f"{where}, {inside}," if inside else where
        raise CheckpointError(no_weights(place, here))
    files = [*adapter[:1], *([weights] if weights else [])]
    files += [name for name in here if any(fnmatch(name, pattern) for pattern in BESIDE)]
    if weights and weights.endswith(".index.json"):
        files += shard_names(configs[start + weights], f"{where}/{start}{weights}")
    out = [start + name for name in files]
    folders = {companion(inside, pair) for pair in (WORDS_OF, PIXELS_OF)} - {""}
    out += [name for name in names if posixpath.dirname(name) in folders]
    out += [name for name in (MODULES, PROMPTS, PIPELINE) if name in names]
    return sorted(set(out))


def inside(folder: Path, where: str, subfolder: str | None) -> Path:
    """The folder with the model, in a local folder. Raises CheckpointError as `part`, and for a
    `subfolder` that does not exist."""
    found = folder / part(Files(folder), where, subfolder)
    if not found.is_dir():
        there = [p.name for p in sorted(folder.iterdir()) if p.is_dir()]
        raise CheckpointError(
            f"{where} has no folder {found.relative_to(folder).as_posix()}; it has "
            f"{', '.join(there) or 'none'}"
        )
    return found


def companion(folder: str, pair: tuple[str, str]) -> str:
    """The folder of a pipeline with the other files of the model in `folder`: "tokenizer_2" for
    "text_encoder_2"; "" for a folder that is not of that kind."""
    above, name = posixpath.split(folder)
    if not name.startswith(pair[0]):
        return ""
    return posixpath.join(above, name.replace(pair[0], pair[1], 1))


def companion_path(folder: Path, pair: tuple[str, str]) -> Path | None:
    """What `companion` names beside a local folder; None where it is not there."""
    here = folder.absolute()
    found = companion(here.name, pair)
    return here.with_name(found) if found and here.with_name(found).is_dir() else None


def _encoders(index: Any) -> Iterator[str]:
    """The folders of a pipeline whose models are of transformers, with their classes."""
    for name, value in sorted(index.items()) if isinstance(index, dict) else ():
        if isinstance(value, list) and value[:1] == ["transformers"] and len(value) == 2:
            kind = str(value[1])
            if not kind.endswith(("Tokenizer", "TokenizerFast", "Processor", "Extractor")):
                yield f"{name} ({kind})"


def _model_module(modules: list[Any], configs: Mapping[str, Any], where: str) -> str:
    """The folder of the first module of modules.json, the model. The others must be Normalize,
    which patchword does anyway. Raises CheckpointError for any other."""
    kinds = [str(m.get("type", "")) if isinstance(m, dict) else "" for m in modules]
    names = [kind.rpartition(".")[2] for kind in kinds]
    if not names or names[0] not in MODEL_MODULES:
        raise CheckpointError(
            f"{where}: {MODULES} begins with {kinds[0] if kinds else 'nothing'!r}; patchword loads "
            f"sentence-transformers' {' and '.join(MODEL_MODULES)} that hold a CLIP or SigLIP"
        )
    path = modules[0].get("path", "")
    inside = part({}, where, str(path))
    for name, kind in list(zip(names, kinds, strict=True))[1:]:
        if name != "Normalize":
            there = f'the model without it: subfolder="{inside or "."}"'
            raise CheckpointError(
                f"{where}: {MODULES} puts {kind} after the model, which patchword does not "
                f"compute; {there}"
            )
    _plain(configs, where, inside)
    return inside


def _plain(configs: Mapping[str, Any], where: str, inside: str) -> None:
    """Raise CheckpointError for settings by which sentence-transformers changes texts or outputs in
    a way that patchword does not."""
    whole = _object(configs.get(PROMPTS))
    prompt = _object(whole.get("prompts")).get(whole.get("default_prompt_name"))
    if prompt:
        raise CheckpointError(
            f"{where}: {PROMPTS} puts {prompt!r} before every text; patchword does not: put "
            f'it there yourself and load with subfolder="{inside or "."}"'
        )
    settings = _object(configs.get(posixpath.join(inside, "sentence_bert_config.json")))
    kinds = _object(settings.get("modality_config"))
    for kind, method in METHODS.items():
        found = _object(kinds.get(kind)).get("method", method)
        if found != method:
            raise CheckpointError(
                f"{where}: sentence_bert_config.json embeds {kind} by {found}, where patchword "
                f"does what {method} does"
            )


def _object(value: Any) -> dict[Any, Any]:
    """A JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}
