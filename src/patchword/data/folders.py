"""Images in folders, as Hugging Face's imagefolder lays them out: one folder per class, or a
metadata file with a row for each. Read without the `datasets` library."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]

from patchword.data.rows import (
    ANSWERS,
    CAPTIONS,
    IMAGES,
    LABELS,
    QUESTIONS,
    USUAL,
    ArrowRows,
    Columns,
    answer_column,
    called,
    find,
    first,
    listed,
    question_column,
    texts_of,
)
from patchword.data.table_source import Table
from patchword.errors import ImageError, PatchwordError, RecipeError
from patchword.images.files import pictures_in, shown

NAME = "file_name"  # the usual column of images, relative to the folder of the file
METADATA = ("metadata.jsonl", "metadata.csv")
TRAIN = ("train", "training")
TEST = ("test", "testing", "validation", "valid", "val", "dev")  # the first there is evaluated


class Classes(NamedTuple):
    """Images of classes."""

    names: tuple[str, ...]  # of the classes: their folders, sorted
    images: list[str]
    targets: list[int]  # the class of each image


class Entry(NamedTuple):
    """One row of a metadata file."""

    line: int
    image: str  # as it is written; "" without one
    captions: list[str]
    label: str | None
    question: Any  # its cell; None without one
    answer: Any


class Metadata(NamedTuple):
    """What a metadata file lists."""

    file: Path
    columns: list[str]
    meant: list[list[str]]  # of these, those of images, captions, classes, questions and answers
    entries: list[Entry]


def splits(path: Path) -> dict[str, Path]:
    """The folders of a folder by name, lower case, where all are splits ("train", ...); else {}."""
    folders = {p.name.lower(): p for p in subfolders(path)} if path.is_dir() else {}
    return folders if set(folders) <= {*TRAIN, *TEST} else {}


def metadata_in(path: Path) -> Path | None:
    """The metadata file in a folder; None where there is none."""
    return next((path / name for name in METADATA if (path / name).is_file()), None)


def class_folders(path: Path) -> Classes:
    """What a folder with one folder per class holds. Classes without images are none."""
    names: list[str] = []
    images: list[str] = []
    targets: list[int] = []
    for folder in subfolders(path):
        if files := pictures(folder):
            targets += [len(names)] * len(files)
            names.append(shown(folder.name))
            images += files
    return Classes(tuple(names), images, targets)


def pictures(folder: Path) -> list[str]:
    """The images in a folder at any depth, see `images.files.pictures_in`. Raises PatchwordError
    where one cannot be listed: a dataset never gets smaller in silence."""
    failed: list[ImageError] = []
    found = pictures_in(folder, failed)
    if failed:
        raise PatchwordError(str(failed[0]))
    return found


def subfolders(path: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones. Raises PatchwordError for no folder."""
    if not path.is_dir():
        raise PatchwordError(f"{path}: no such folder")
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def metadata(file: Path, named: Columns = USUAL) -> Metadata:
    """What a .jsonl or .csv file lists; columns as `named`, "" for those of usual names, of which
    each row may have another. Raises PatchwordError for a line that cannot be read, and for a file
    without rows or without a column as named."""
    read = list(_rows(file))
    columns = list(dict.fromkeys(key for _, row in read for key in row if isinstance(key, str)))
    if not read:
        raise RecipeError(f"{file}: no rows")
    for name in named:
        find(columns, name, (), str(file))
    usual = ((NAME, *IMAGES), CAPTIONS, LABELS, QUESTIONS, ANSWERS)
    meant = [
        [name] if name else called(columns, words) for name, words in zip(named, usual, strict=True)
    ]
    return Metadata(file, columns, meant, [_entry(line, row, meant) for line, row in read])


def as_table(found: Metadata, questions: bool = False) -> Table:
    """The same as a table of images. Rows with the same image add up their captions.

    questions: keep the columns of questions and answers, where there are any. Then each row is a
    sample of its own, with all captions of its image: captions say the same thing in other words,
    so that one a visit will do, but each question asks for something else, and every epoch is to
    ask all of them.
    """
    (image, caption, label, question, answer), file = found.meant, found.file
    if not image:
        raise RecipeError(f"{file}: no column {NAME!r}; it has {listed(found.columns)}")
    texts: dict[str, list[str]] = {}
    classes: dict[str, str | None] = {}
    for entry in found.entries:
        texts.setdefault(entry.image, []).extend(entry.captions)
        classes[entry.image] = entry.label or classes.get(entry.image)
    apart = questions and bool(question or answer)
    images = [entry.image for entry in found.entries] if apart else list(texts)
    columns = {"image": pa.array(images, pa.string())}
    if caption:
        columns["caption"] = pa.array([texts[each] for each in images], pa.list_(pa.string()))
    if label:
        columns["label"] = pa.array([classes[each] for each in images], pa.string())
    if apart and question:
        columns["question"] = question_column(entry.question for entry in found.entries)
    if apart and answer:
        columns["answer"] = answer_column(entry.answer for entry in found.entries)
    has = {name: name for name in columns}
    return Table(
        str(file),
        ArrowRows(columns),
        "image",
        has.get("caption"),
        has.get("label"),
        has.get("question"),
        has.get("answer"),
        file.parent,
        columns=tuple(found.columns),
    )


def _entry(line: int, row: dict[str, Any], meant: list[list[str]]) -> Entry:
    images, captions, labels, questions, answers = meant
    image = next((row[name] for name in images if row.get(name)), "")
    texts = next((found for name in captions if (found := texts_of(row.get(name)))), [])
    label = next((str(row[name]) for name in labels if row.get(name) not in (None, "")), None)
    named = image if isinstance(image, str) else ""
    return Entry(line, named, texts, label, first(row, questions), first(row, answers))


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
