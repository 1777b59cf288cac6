"""Writes a model as a folder of graphs with their configuration."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from patchword.atomic_write import make_folder, write
from patchword.bundle import Bundle
from patchword.checkpoints import resolve, scope_files
from patchword.config import to_dict
from patchword.engines.libraries import LIBRARIES, Library
from patchword.errors import CheckpointError, CheckpointWarning, UnsupportedError, warn
from patchword.exporting import huggingface
from patchword.exporting.int8 import Agreement, Photos, quantise
from patchword.exporting.parts import parts
from patchword.fingerprint import renewed
from patchword.options import nearest
from patchword.receipts import make, to_text
from patchword.receipts.inputs import TEXTS
from patchword.text.tokenizer_files import TOKENIZER_FILE

MARK_FILE = resolve.EXPORT  # names of the graphs, and the configuration
RECEIPT_FILE = "receipt.json"
VERSION = 1  # of MARK_FILE
# The names of graphs for transformers.js and optimum: ONNX in a folder of its own, OpenVINO beside
# the configuration. A model of one part is "model" in both.
ONNX_NAMES = {
    "image": "vision_model",
    "text": "text_model",
    "matching": "matching_model",
    "question": "question_model",
    "decoder": "decoder_model",
}
OPENVINO_NAMES = {
    "image": "openvino_model_vision",
    "text": "openvino_model_text",
    "matching": "openvino_model_matching",
    "question": "openvino_model_question",
    "decoder": "openvino_decoder_model",
}


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, the file of each graph by part, and for int8 the agreement of
    each tower with itself in float32."""

    folder: Path
    graphs: dict[str, str]
    agreement: dict[str, Agreement]


def export(
    model: Bundle,
    folder: str | os.PathLike[str],
    to: str = "onnx",
    photos: Photos | None = None,
) -> Exported:
    """Write a model's graphs; see `api.exports.export`. photos: for graphs in int8."""
    if to not in LIBRARIES:
        raise UnsupportedError(
            f"to is {to!r}{nearest(to, LIBRARIES)}; there are {', '.join(LIBRARIES)}"
        )
    library, place = LIBRARIES[to], Path(folder)
    if model.engine.dtype != torch.float32:
        raise UnsupportedError("a model is exported from float32: load it without dtype")
    model = renewed(model)
    _check_replaceable(model, place)
    with replaced(place) as new:
        files, agreement = write_graphs(model, library, new, photos)
        describe(model, new)
        write_mark(model, library, files, new, photos is not None, agreement)
    for difference in huggingface.differences(model.config, model.tokenizer):
        warn(f"{place}: {difference}", CheckpointWarning)
    return Exported(place, files, agreement)


def _check_replaceable(model: Bundle, folder: Path) -> None:
    """Raise CheckpointError if the folder holds another model's export. An export of the same
    model, by its name or its fingerprint, and a damaged one may be replaced."""
    try:
        mark = json.loads((folder / MARK_FILE).read_text(encoding="utf-8"))
        name, fingerprint = mark["name"], mark["fingerprint"].removesuffix("-int8")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if name != model.name and fingerprint != model.fingerprint:
        raise CheckpointError(
            f"{folder} holds {name}, exported; to export {model.name} name another folder"
        )


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """An empty folder that replaces `folder` at the end, completely or not at all.

    Raises CheckpointError if `folder` holds files that no export wrote, and for the current folder.
    """
    place = Path(os.path.realpath(folder))
    # The process would be in a deleted folder afterwards.
    if Path(os.path.realpath(os.curdir)).is_relative_to(place):
        raise CheckpointError(f"{folder}: the current folder lies in it; name a new folder")
    if place.exists() and not (place / MARK_FILE).is_file() and not _empty(place):
        raise CheckpointError(
            f"{folder} holds something other than an exported model; give a new or empty folder"
        )
    make_folder(place.parent)
    try:
        temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
    except OSError as error:
        error.filename = str(folder)
        error.strerror = f"nothing can be written in its folder ({error.strerror})"
        raise
    try:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        yield new
        if place.exists():
            place.rename(old)
        new.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _empty(place: Path) -> bool:
    return place.is_dir() and not any(place.iterdir())


def write_graphs(
    model: Bundle, library: Library, folder: Path, photos: Photos | None
) -> tuple[dict[str, str], dict[str, Agreement]]:
    """Write each graph of a model. Returns the files by part, and the agreement of parts in
    int8."""
    all_parts = list(parts(model))
    files, agreements = {}, {}
    texts = [model.tokenizer([text])[0] for text in TEXTS] if model.tokenizer else []
    for part in all_parts:
        only_part = len(all_parts) == 1 and part.name == "image"
        name = graph_file(library, part.name, only_part, photos is not None)
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        files[part.name] = name
        if photos is None:
            library.save(part.export(), path, part.outputs)
            continue
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            exact = Path(scratch) / path.name
            library.save(part.export(), exact, part.outputs)
            agreement = quantise(library, part, exact, path, photos, texts)
        if agreement is not None:
            agreements[part.name] = agreement
    return files, agreements


def graph_file(library: Library, part: str, only_part: bool, int8: bool) -> str:
    """The path of a part's graph in the folder."""
    if library.name == "onnx":
        name = "model" if only_part else ONNX_NAMES[part]
        if int8:
            name += "_quantized"
        return f"onnx/{name}{library.suffix}"
    name = "openvino_model" if only_part else OPENVINO_NAMES[part]
    return f"{name}{library.suffix}"


def describe(model: Bundle, folder: Path) -> None:
    """Write configuration, preprocessing, tokenizer and receipt."""
    config = model.config
    text = config.text_or_decoder
    _json(folder / "config.json", huggingface.described(config, model.scale))
    pixels = huggingface.processor(config.preprocess, paired=text is not None)
    if config.vision is not None and pixels is not None:
        _json(folder / "preprocessor_config.json", pixels)
    if model.tokenizer is not None and text is not None:
        write(folder / TOKENIZER_FILE, model.tokenizer.to_json())
        _json(
            folder / "tokenizer_config.json",
            huggingface.tokenizer_config(model.tokenizer, text),
        )
    if model.tokenizer is not None or text is None:
        receipt = make(model) | {"painted_patches": []}  # no graph reconstructs patches
        write(folder / RECEIPT_FILE, to_text(receipt))
    scope_files.save(model.scope, folder)


def write_mark(
    model: Bundle,
    library: Library,
    files: Mapping[str, str],
    folder: Path,
    int8: bool,
    agreements: Mapping[str, Agreement],
) -> None:
    """Write MARK_FILE, which `opened` reads. files: the result of `write_graphs`."""
    mark = {
        "patchword": "export",
        "version": VERSION,
        "name": model.name,
        "fingerprint": f"{model.fingerprint}-int8" if int8 else model.fingerprint,
        "engine": library.name,
        "dtype": "int8" if int8 else "float32",
        "agreement": {name: vars(agreement) for name, agreement in agreements.items()},
        "graphs": dict(files),
        "logit_scale": model.scale,
        "logit_bias": model.bias,
        "options": dict(model.options),
        "model": to_dict(model.config),
    }
    _json(folder / MARK_FILE, mark)


def _json(path: Path, values: Mapping[str, Any]) -> None:
    write(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
