"""Images in folders, as Hugging Face's imagefolder lays them out: one folder per class, or a
metadata file with a row for each. Read without the `datasets` library."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]

from patchword.data.rows import (
    ANSWERS,
    IMAGES,
    LABELS,
    QUESTIONS,
    USUAL,
    ArrowRows,
    Columns,
    answer_column,
    caption_columns,
    captions_of,
    class_of,
    find_column,
    first_filled,
    listed,
    question_column,
    usual_columns,
)
from patchword.data.table import Table
from patchword.data.text_tables import records
from patchword.errors import ImageError, PatchwordError, RecipeError, warn
from patchword.images.files import Skipped, left_out, pictures_in, shown, warn_of

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

    place: str  # in the file: "line 3"
    image: str  # as it is written; "" without one
    captions: list[str]
    label: str | None
    question: Any  # its cell; None without one
    answer: Any


class UsedColumns(NamedTuple):
    """Names of the columns that are read, by their content; of several, in each row the first
    that is not empty."""

    image: list[str]
    captions: list[list[str]]  # those of one list are read together
    label: list[str]
    question: list[str]
    answer: list[str]


class Metadata(NamedTuple):
    """The content of a metadata file."""

    file: Path
    columns: list[str]
    used: UsedColumns
    entries: list[Entry]


def splits(path: Path) -> dict[str, Path]:
    """The folders of a folder by name, lower case, where all are splits ("train", ...); else {}."""
    folders = {p.name.lower(): p for p in subfolders(path)} if path.is_dir() else {}
    return folders if set(folders) <= {*TRAIN, *TEST} else {}


def metadata_in(path: Path) -> Path | None:
    """The metadata file in a folder, the first of `METADATA` and a warning where there are both;
    None where there is none."""
    found = [path / name for name in METADATA if (path / name).is_file()]
    if len(found) > 1:
        read, other = found
        warn(f"{read} is read, and not {other.name} beside it")
    return found[0] if found else None


def class_folders(path: Path) -> Classes:
    """The images of a folder with one folder per class; one without images is no class, and a
    warning says so."""
    names: list[str] = []
    empty: list[str] = []
    images: list[str] = []
    targets: list[int] = []
    skipped = Skipped()
    for folder in subfolders(path):
        if files := pictures(folder, skipped):
            targets += [len(names)] * len(files)
            names.append(shown(folder.name))
            images += files
        else:
            empty.append(shown(folder.name))
    warn_of(skipped)
    if names and empty:
        warn(f"{path}: no images in {listed(empty)}: a folder without images is no class")
    return Classes(tuple(names), images, targets)


def pictures(folder: Path, skipped: Skipped | None = None) -> list[str]:
    """The images in a folder at any depth, see `images.files.pictures_in`. Raises PatchwordError
    where one cannot be listed, so that no image is left out unnoticed."""
    failed: list[ImageError] = []
    found = pictures_in(folder, failed, skipped)
    if failed:
        raise PatchwordError(str(failed[0]))
    return found


def subfolders(path: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and those of `LEFT_OUT`, which drives
    and file managers leave. Raises PatchwordError for no folder."""
    if not path.is_dir():
        raise PatchwordError(f"{path}: no such folder")
    return sorted(p for p in path.iterdir() if p.is_dir() and not left_out(p.name))


def metadata(file: Path, named: Columns = USUAL) -> Metadata:
    """The rows of a table of text. named: the columns to read; "" for those with a usual name, of
    which each row may fill another one. Raises PatchwordError for a row that cannot be read, and
    for a file without rows or without a column that is named."""
    read = list(records(file))
    columns = list(dict.fromkeys(key for _, row in read for key in row))
    if not read:
        raise RecipeError(f"{file}: no rows")
    where = str(file)
    for name in (named.image, *named[2:]):
        find_column(columns, name, (), where)
    usual = ((NAME, *IMAGES), LABELS, QUESTIONS, ANSWERS)
    image, label, question, answer = (
        [name] if name else usual_columns(columns, words)
        for name, words in zip((named.image, *named[2:]), usual, strict=True)
    )
    captions = caption_columns(columns, named.caption, where)
    used = UsedColumns(image, captions, label, question, answer)
    return Metadata(file, columns, used, [_entry(place, row, used) for place, row in read])


def as_table(found: Metadata, questions: bool = False) -> Table:
    """A metadata file as a table of images. The captions of rows with the same image are put
    together.

    questions: keep the columns of questions and answers, where there are any. Then each row is a
    sample of its own, with all captions of its image: captions of an image are paraphrases, of
    which one per epoch is enough, but its questions differ, and every epoch should have them all.
    """
    (image, caption, label, question, answer), file = found.used, found.file
    if not image:
        raise RecipeError(f"{file}: no column {NAME!r}; it has {listed(found.columns)}")
    texts: dict[str, list[str]] = {}
    classes: dict[str, str | None] = {}
    for entry in found.entries:
        texts.setdefault(entry.image, []).extend(entry.captions)
        known = classes.get(entry.image)
        if entry.image and known and entry.label not in (None, known):
            raise RecipeError(
                f"{file}, {entry.place}: {entry.image} is {entry.label!r}, and {known!r} in a row "
                "before; an image has one class"
            )
        classes[entry.image] = entry.label or known
    per_row = questions and bool(question or answer)
    images = [entry.image for entry in found.entries] if per_row else list(texts)
    columns = {"image": pa.array(images, pa.string())}
    if caption:
        columns["caption"] = pa.array([texts[each] for each in images], pa.list_(pa.string()))
    if label:
        columns["label"] = pa.array([classes[each] for each in images], pa.string())
    if per_row and question:
        columns["question"] = question_column(entry.question for entry in found.entries)
    if per_row and answer:
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


def _entry(place: str, row: dict[str, Any], used: UsedColumns) -> Entry:
    image = next((row[name] for name in used.image if row.get(name)), "")
    texts = captions_of(row, used.captions)
    label = next(filter(None, (class_of(row.get(name)) for name in used.label)), None)
    named = image if isinstance(image, str) else ""
    return Entry(
        place, named, texts, label, first_filled(row, used.question), first_filled(row, used.answer)
    )
