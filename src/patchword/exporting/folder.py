"""A model as a folder of graphs and what belongs to them."""

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

MARK_FILE = resolve.EXPORT  # which graphs are there, and the whole configuration
RECEIPT_FILE = "receipt.json"
VERSION = 1  # of MARK_FILE
# Where transformers.js and optimum look for a graph: ONNX in a folder of its own, OpenVINO beside
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
    """What was written: the folder, the file of each graph by its part, and in int8 how each tower
    agrees with itself in float32."""

    folder: Path
    graphs: dict[str, str]
    agreement: dict[str, Agreement]


def export(
    model: Bundle,
    folder: str | os.PathLike[str],
    to: str = "onnx",
    photos: Photos | None = None,
) -> Exported:
    """Write a model's graphs, see `api.exports.export`. photos: for graphs in int8."""
    if to not in LIBRARIES:
        raise UnsupportedError(
            f"to is {to!r}{nearest(to, LIBRARIES)}; there are {', '.join(LIBRARIES)}"
        )
    library, place = LIBRARIES[to], Path(folder)
    if model.engine.dtype != torch.float32:
        raise UnsupportedError("a model is exported from float32: load it without dtype")
    model = renewed(model)
    _check_other(model, place)
    with replaced(place) as beside:
        files, found = write_graphs(model, library, beside, photos)
        describe(model, beside)
        write_mark(model, library, files, beside, photos is not None, found)
    for words in huggingface.differences(model.config, model.tokenizer):
        warn(f"{place}: {words}", CheckpointWarning)
    return Exported(place, files, found)


def _check_other(model: Bundle, folder: Path) -> None:
    """Raises CheckpointError where another model's export is; the same model's, by its name or its
    fingerprint, and a damaged one may be replaced."""
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
    """An empty folder that becomes `folder` at the end, whole or not at all.

    Raises CheckpointError where something is that no export wrote, and for the current folder.
    """
    place = Path(os.path.realpath(folder))
    if Path(os.path.realpath(os.curdir)).is_relative_to(place):  # it would be in no folder any more
        raise CheckpointError(f"{folder}: the current folder lies in it; name a new folder")
    if place.exists() and not (place / MARK_FILE).is_file() and not _empty(place):
        raise CheckpointError(
            f"{folder} holds something other than an exported model; give a new or empty folder"
        )
    make_folder(place.parent)
    try:
        beside = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
    except OSError as error:
        error.filename = str(folder)
        error.strerror = f"nothing can be written in its folder ({error.strerror})"
        raise
    try:
        new, old = beside / "new", beside / "old"
        new.mkdir()
        yield new
        if place.exists():
            place.rename(old)
        new.rename(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _empty(place: Path) -> bool:
    return place.is_dir() and not any(place.iterdir())


def write_graphs(
    model: Bundle, library: Library, folder: Path, photos: Photos | None
) -> tuple[dict[str, str], dict[str, Agreement]]:
    """Write each graph of a model: their files by their parts, and how those in int8 agree."""
    found = list(parts(model))
    files, agreements = {}, {}
    texts = [model.tokenizer([text])[0] for text in TEXTS] if model.tokenizer else []
    for part in found:
        alone = len(found) == 1 and part.name == "image"
        name = graph_file(library, part.name, alone, photos is not None)
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        files[part.name] = name
        if photos is None:
            library.save(part.traced(), path, part.outputs)
            continue
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            whole = Path(scratch) / path.name
            library.save(part.traced(), whole, part.outputs)
            agreement = quantise(library, part, whole, path, photos, texts)
        if agreement is not None:
            agreements[part.name] = agreement
    return files, agreements


def graph_file(library: Library, part: str, alone: bool, int8: bool) -> str:
    """Where the graph of a part lies in the folder. alone: it is the only one."""
    if library.name == "onnx":
        name = "model" if alone else ONNX_NAMES[part]
        return f"onnx/{name}{'_quantized' * int8}{library.suffix}"
    return f"{'openvino_model' if alone else OPENVINO_NAMES[part]}{library.suffix}"


def describe(model: Bundle, folder: Path) -> None:
    """Write what belongs to the graphs: configuration, preprocessing, tokenizer, receipt."""
    config = model.config
    text = config.text_or_decoder
    _json(folder / "config.json", huggingface.described(config, model.scale))
    pixels = huggingface.processor(config.preprocess, paired=text is not None)
    if config.vision is not None and pixels is not None:
        _json(folder / "preprocessor_config.json", pixels)
    if model.tokenizer is not None and text is not None:
        write(folder / TOKENIZER_FILE, model.tokenizer.to_json())
        words = huggingface.tokenizer_config(model.tokenizer, text)
        _json(folder / "tokenizer_config.json", words)
    if model.tokenizer is not None or text is None:
        receipt = make(model) | {"painted_patches": []}  # no graph paints
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
    """Write MARK_FILE, by which `opened` finds the graphs. files: as `write_graphs` gives them."""
    mark = {
        "patchword": "export",
        "version": VERSION,
        "name": model.name,
        "fingerprint": f"{model.fingerprint}{'-int8' * int8}",
        "engine": library.name,
        "dtype": "int8" if int8 else "float32",
        "agreement": {name: vars(each) for name, each in agreements.items()},
        "graphs": dict(files),
        "logit_scale": model.scale,
        "logit_bias": model.bias,
        "options": dict(model.options),
        "model": to_dict(model.config),
    }
    _json(folder / MARK_FILE, mark)


def _json(path: Path, values: Mapping[str, Any]) -> None:
    write(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
