"""Images in folders, laid out as for Hugging Face's imagefolder: one folder per class, or a
metadata file with a row for each image. Read without the `datasets` library."""

from __future__ import annotations

from collections.abc import Sequence
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
# The first of these that exists is evaluated.
TEST = ("test", "testing", "validation", "valid", "val", "dev")


class Classes(NamedTuple):
    """Images of classes."""

    names: tuple[str, ...]  # of the classes, which are the names of their folders, sorted
    images: list[str]
    targets: list[int]  # the class of each image


class Entry(NamedTuple):
    """One row of a metadata file."""

    place: str  # in the file, such as "line 3"
    image: str  # as it is written; "" if there is none
    captions: list[str]
    label: str | None
    question: Any  # the content of its cell; None if it is empty
    answer: Any  # the same


class UsedColumns(NamedTuple):
    """The names of the columns that are read, by their content. If there are several, the first
    that is not empty in a row is used."""

    image: list[str]
    captions: list[list[str]]  # groups of columns; those of one group are read together
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
    """The folders in a folder by name in lower case, if all are splits ("train", ...); else {}."""
    folders = {p.name.lower(): p for p in subfolders(path)} if path.is_dir() else {}
    return folders if set(folders) <= {*TRAIN, *TEST} else {}


def metadata_in(path: Path) -> Path | None:
    """The metadata file in a folder, or None. If there are two, the first of `METADATA`, with a
    warning."""
    files = [path / name for name in METADATA if (path / name).is_file()]
    if len(files) > 1:
        warn(f"{files[0]} is read, and not {files[1].name} beside it")
    return files[0] if files else None


def class_folders(path: Path) -> Classes:
    """The images of a folder with one folder per class. A folder without images is no class; a
    warning names it."""
    names: list[str] = []
    empty: list[str] = []
    images: list[str] = []
    targets: list[int] = []
    skipped = Skipped()
    for folder in subfolders(path):
        files = pictures(folder, skipped)
        if files:
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
    for a folder that cannot be listed, so that no image is left out unnoticed."""
    failed: list[ImageError] = []
    paths = pictures_in(folder, failed, skipped)
    if failed:
        raise PatchwordError(str(failed[0]))
    return paths


def subfolders(path: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and those that drives and file managers
    create. Raises PatchwordError if there is no such folder."""
    if not path.is_dir():
        raise PatchwordError(f"{path}: no such folder")
    return sorted(p for p in path.iterdir() if p.is_dir() and not left_out(p.name))


def metadata(file: Path, named: Columns = USUAL) -> Metadata:
    """The rows of a table of text.

    named: the columns to read; "" for those with a usual name, of which a row may fill any. Raises
    PatchwordError for a row that cannot be read, and for a file without rows or without a named
    column.
    """
    rows = list(records(file))
    columns = list(dict.fromkeys(key for _, row in rows for key in row))
    if not rows:
        raise RecipeError(f"{file}: no rows")
    where = str(file)
    for name in (named.image, *named[2:]):
        find_column(columns, name, (), where)

    def select(name: str, usual: Sequence[str]) -> list[str]:
        return [name] if name else usual_columns(columns, usual)

    used = UsedColumns(
        image=select(named.image, (NAME, *IMAGES)),
        captions=caption_columns(columns, named.caption, where),
        label=select(named.label, LABELS),
        question=select(named.question, QUESTIONS),
        answer=select(named.answer, ANSWERS),
    )
    return Metadata(file, columns, used, [_entry(place, row, used) for place, row in rows])


def as_table(metadata: Metadata, questions: bool = False) -> Table:
    """A metadata file as a table of images, with one row for each image, which has the captions of
    all its rows.

    questions: keep the columns of questions and answers, if there are any. Then each row of the
    file stays a row, with all captions of its image. The captions of an image are paraphrases, of
    which an epoch needs only one; its questions differ, and an epoch should have them all.
    """
    used, file, entries = metadata.used, metadata.file, metadata.entries
    if not used.image:
        raise RecipeError(f"{file}: no column {NAME!r}; it has {listed(metadata.columns)}")
    captions: dict[str, list[str]] = {}
    classes: dict[str, str | None] = {}
    for entry in entries:
        captions.setdefault(entry.image, []).extend(entry.captions)
        label = classes.get(entry.image)
        if entry.image and label and entry.label not in (None, label):
            raise RecipeError(
                f"{file}, {entry.place}: {entry.image} is {entry.label!r}, and {label!r} in a row "
                "before; an image has one class"
            )
        classes[entry.image] = entry.label or label
    per_row = questions and bool(used.question or used.answer)
    images = [entry.image for entry in entries] if per_row else list(captions)
    columns = {"image": pa.array(images, pa.string())}
    if used.captions:
        columns["caption"] = pa.array([captions[name] for name in images], pa.list_(pa.string()))
    if used.label:
        columns["label"] = pa.array([classes[name] for name in images], pa.string())
    if per_row and used.question:
        columns["question"] = question_column(entry.question for entry in entries)
    if per_row and used.answer:
        columns["answer"] = answer_column(entry.answer for entry in entries)
    return Table(
        where=str(file),
        rows=ArrowRows(columns),
        image="image",
        caption="caption" if "caption" in columns else None,
        label="label" if "label" in columns else None,
        question="question" if "question" in columns else None,
        answer="answer" if "answer" in columns else None,
        base=file.parent,
        columns=tuple(metadata.columns),
    )


def _entry(place: str, row: dict[str, Any], used: UsedColumns) -> Entry:
    image = next((row[name] for name in used.image if row.get(name)), "")
    labels = (class_of(row.get(name)) for name in used.label)
    return Entry(
        place=place,
        image=image if isinstance(image, str) else "",
        captions=captions_of(row, used.captions),
        label=next((label for label in labels if label), None),
        question=first_filled(row, used.question),
        answer=first_filled(row, used.answer),
    )
