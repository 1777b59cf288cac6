"""What a model is evaluated on: folders of classes, or images with captions, as Hugging Face's
imagefolder lays them out."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.errors import PatchwordError
from patchword.files import picture_suffixes

METADATA = ("metadata.jsonl", "metadata.csv")
NAME = "file_name"
CAPTIONS = ("caption", "captions", "text", "texts")
TRAIN = ("train", "training")
TEST = ("test", "testing", "validation", "valid", "val", "dev")  # the first there is evaluated


@dataclass(frozen=True)
class Labelled:
    """Images of classes."""

    path: Path
    names: tuple[str, ...]  # of the classes: their folders, sorted
    images: tuple[str, ...]
    targets: NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class Captioned:
    """Images, each with one or more captions."""

    path: Path
    images: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]  # of each image


def splits(path: Path) -> tuple[Path, Path | None]:
    """(what to evaluate on, what to train a probe on): of a folder whose folders are splits
    ("train", "validation", ...) two of those, else the folder itself and None."""
    folders = {p.name.lower(): p for p in _folders(path)} if path.is_dir() else {}
    if not folders or not set(folders) <= {*TRAIN, *TEST}:
        return path, None
    known = next((folders[name] for name in TRAIN if name in folders), None)
    test = next((folders[name] for name in TEST if name in folders), None)
    return (test, known) if test else (next(iter(folders.values())), None)


def captions_in(path: Path) -> Path | None:
    """The file of captions: `path` itself, or the one in the folder; None where there is none."""
    if path.suffix.lower() in (".jsonl", ".csv"):
        return path
    return next((path / name for name in METADATA if (path / name).is_file()), None)


def labelled(path: Path) -> Labelled:
    """A folder with one folder per class; images are found at any depth, by their suffix. Raises
    PatchwordError where there are none."""
    suffixes = picture_suffixes()
    names: list[str] = []
    images: list[str] = []
    targets: list[int] = []
    for folder in _folders(path):
        files = sorted(
            os.path.join(place, name)
            for place, _, inside in os.walk(folder)
            for name in inside
            if os.path.splitext(name)[1].lower() in suffixes
        )
        if files:
            targets += [len(names)] * len(files)
            names.append(folder.name)
            images += files
    if not images:
        raise PatchwordError(
            f"{path}: no images in folders, one folder per class, and no {' or '.join(METADATA)}"
        )
    return Labelled(path, tuple(names), tuple(images), np.array(targets, np.int64))


def captioned(path: Path) -> Captioned:
    """The images and captions that a metadata.jsonl or metadata.csv lists, or that of a folder.

    Every row has "file_name", relative to the file's folder, and one of `CAPTIONS`; in JSON Lines
    that may be a list. Rows with the same image add up. Raises PatchwordError, with the number of
    the line, for a row that lacks one.
    """
    file = captions_in(path)
    if file is None:
        raise PatchwordError(f"{path}: no {' or '.join(METADATA)} with captions")
    found: dict[str, list[str]] = {}
    for line, row in _rows(file):
        name = row.get(NAME)
        words: Any = next((row[key] for key in CAPTIONS if row.get(key)), None)
        texts = words if isinstance(words, list) else [words]
        if not isinstance(name, str) or not name:
            raise PatchwordError(f"{file}, line {line}: no {NAME!r}; it names the image")
        if not all(isinstance(text, str) and text.strip() for text in texts) or not texts:
            raise PatchwordError(f"{file}, line {line}: no {' or '.join(map(repr, CAPTIONS))}")
        found.setdefault(str(file.parent / name), []).extend(texts)
    if not found:
        raise PatchwordError(f"{file}: no rows")
    return Captioned(file, tuple(found), tuple(map(tuple, found.values())))


def agreeing(known: Labelled, test: Labelled) -> NDArray[np.int64]:
    """The targets of `test` as numbers of the classes of `known`. Raises PatchwordError for a
    class that is not among them."""
    if missing := [name for name in test.names if name not in known.names]:
        raise PatchwordError(
            f"{known.path} has no class {', '.join(missing)}, which {test.path} has; both need "
            "the same folders"
        )
    numbers = np.array([known.names.index(name) for name in test.names], np.int64)
    return numbers[test.targets]


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones. Raises PatchwordError for no folder."""
    if not path.is_dir():
        raise PatchwordError(f"{path}: no such folder")
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row of a .jsonl or .csv file with the number of its line."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix.lower() == ".csv":
                reader = csv.DictReader(lines)
                for row in reader:
                    yield reader.line_num, row
                return
            for number, text in enumerate(lines, start=1):
                if text.strip():
                    yield number, _record(file, number, text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PatchwordError(f"{file}: {reason}") from error


def _record(file: Path, number: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise PatchwordError(f"{file}, line {number}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise PatchwordError(f"{file}, line {number}: not a JSON object")
    return row
