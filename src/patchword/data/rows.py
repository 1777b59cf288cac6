"""Rows of tables of images, and what their cells contain."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa  # type: ignore[import-untyped]

from patchword import errors
from patchword.errors import PatchwordError, RecipeError
from patchword.text.lines import text_lines

# Usual names of columns, in lower case. The first that exists is used.
IMAGES = (
    "image", "file_name", "img", "path", "filepath", "file", "filename", "image_path",
    "jpg", "jpeg", "png", "webp",
)  # fmt: skip
CAPTIONS = ("caption", "captions", "text", "texts", "title", "sentence", "sentences", "description")
LABELS = ("label", "class", "class_name", "category", "cls", "target")
SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")  # spreadsheets
LISTED = 30  # columns in an error
QUESTIONS = ("question", "questions")
ANSWERS = ("answer", "answers", "multiple_choice_answer")  # the last: VQAv2's


class Columns(NamedTuple):
    """Columns that a recipe names; "" stands for the usual names."""

    image: str = ""
    caption: str = ""
    label: str = ""
    question: str = ""
    answer: str = ""


USUAL = Columns()


class Rows(Protocol):
    """A table. The image of a row is a path, bytes, or {"bytes", "path"}."""

    @property
    def columns(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def column(self, name: str) -> Iterator[Any]:
        """All values of a column, in order."""


class ArrowRows:
    """Rows in memory as Arrow arrays, which processes share without copies."""

    def __init__(self, columns: Mapping[str, pa.Array]) -> None:
        self._columns = dict(columns)

    @property
    def columns(self) -> Sequence[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {name: values[index].as_py() for name, values in self._columns.items()}

    def column(self, name: str) -> Iterator[Any]:
        for value in self._columns[name]:
            yield value.as_py()


class JoinedColumns:
    """Rows with one more column, which joins the texts of several of their columns as a list."""

    def __init__(self, rows: Rows, name: str, columns: Sequence[str]) -> None:
        self._rows, self.name, self.parts = rows, name, columns

    @property
    def columns(self) -> Sequence[str]:
        return [*self._rows.columns, self.name]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = self._rows[index]
        return {**row, self.name: self._joined(row[name] for name in self.parts)}

    def column(self, name: str) -> Iterator[Any]:
        if name != self.name:
            yield from self._rows.column(name)
            return
        for cells in zip(*map(self._rows.column, self.parts), strict=True):
            yield self._joined(cells)

    @staticmethod
    def _joined(cells: Iterable[Any]) -> list[str]:
        return [text for cell in cells for text in texts_of(cell)]


def recipe_lines(file: Path) -> Iterator[str]:
    """The lines of a text file. Raises RecipeError if it cannot be read."""
    try:
        yield from text_lines(file)
    except PatchwordError as error:
        raise RecipeError(str(error)) from error


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The suffix of a file in lower case, without .gz: .csv of a.csv and of a.csv.gz."""
    name = Path(path).name.lower().removesuffix(".gz")
    return Path(name).suffix


def advice(path: str | os.PathLike[str]) -> str:
    """The end of an error about a file: for a spreadsheet what to do with it, else ""."""
    return ": save its sheet as CSV (UTF-8)" if suffix_of(path) in SHEETS else ""


def caption_columns(columns: Sequence[str], wanted: str, where: str) -> list[list[str]]:
    """The columns of captions, in groups. Those of one group are read together; the next group is
    read if they are empty in a row.

    wanted: the columns, separated by commas; "": those with usual names, of which each has a group
    with its numbered ones: caption, caption_2, caption_3. Raises RecipeError for a missing column.
    """
    if wanted and wanted not in columns and "," in wanted:
        names = [name.strip() for name in wanted.split(",")]
        if "" in names:
            raise RecipeError(f"{where}: an empty name among the columns {wanted!r}")
        for name in names:
            find_column(columns, name, (), where)
        return [names]
    if wanted:
        find_column(columns, wanted, (), where)
        return [[wanted]]
    groups = (
        [name for name in columns if re.fullmatch(rf"{word}[ _.-]?\d*", name, re.IGNORECASE)]
        for word in CAPTIONS
    )
    return [group for group in groups if group]


def find_column(
    columns: Sequence[str], wanted: str, usual: Sequence[str], where: str
) -> str | None:
    """The column `wanted`; for "" the first with a usual name, or None if there is none.

    Raises RecipeError, with the names of the columns, if the wanted one does not exist.
    """
    if wanted and wanted not in columns:
        raise RecipeError(f"{where}: no column {wanted!r}; it has {listed(columns)}")
    if wanted:
        return wanted
    return next(iter(usual_columns(columns, usual)), None)


def usual_columns(columns: Sequence[str], usual: Sequence[str]) -> list[str]:
    """The columns with usual names, in the order of `usual`."""
    return [name for word in usual for name in columns if name.lower() == word]


def listed(columns: Sequence[str]) -> str:
    """The columns in an error; of many the first ones."""
    return errors.listed(columns, LISTED) or "no columns"


def parsed_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError if it is not JSON or is nested too deeply, and
    for an object that has a key twice: one of the values would be lost."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("lists and objects are nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {duplicate!r} twice")
    return value


def class_of(value: Any) -> str | None:
    """The class in a cell, a text or a whole number, as a stripped text; None if there is none. 3.0
    is read as 3: pandas writes 3.0 and NaN for a column of whole numbers and empty cells."""
    if isinstance(value, float):
        return _whole_number(value)
    if isinstance(value, (str, int)):
        return str(value).strip() or None
    return None


def is_number(name: str) -> bool:
    """Whether the name of a class is a whole number, or 3.0 as pandas writes it into a csv."""
    return re.fullmatch(r"-?\d+(\.0+)?", name) is not None


def _whole_number(value: float) -> str | None:
    """A whole number as a text without a fraction; None for other numbers."""
    return str(int(value)) if value.is_integer() else None


def texts_of(value: Any) -> list[str]:
    """The captions in a cell: a text, a list of texts, or nothing."""
    return [text for text in _as_list(value) if isinstance(text, str) and text.strip()]


def captions_of(row: Mapping[str, Any], groups: Sequence[Sequence[str]]) -> list[str]:
    """The captions of the first group of columns that has captions in this row."""
    for group in groups:
        texts = [text for name in group for text in texts_of(row.get(name))]
        if texts:
            return texts
    return []


def first_filled(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of these cells that is not empty; None if all are."""
    for name in names:
        if row.get(name) not in (None, "", []):
            return row[name]
    return None


def questions_of(value: Any) -> list[str]:
    """The questions in a cell, a text or a list of texts; "" for an empty one."""
    return [text if isinstance(text, str) and text.strip() else "" for text in _as_list(value)]


def answers_of(value: Any) -> list[list[str]]:
    """The answers in a cell, for each of its entries. The cell is a text, a number or a list of
    entries. An entry may be a list itself, or VQAv2's {"answer": text, ...}."""
    if isinstance(value, Mapping):
        value = value.get("answer")
    return [_flat(entry) for entry in _as_list(value)]


def question_column(cells: Iterable[Any]) -> pa.Array:
    """A column of questions for `ArrowRows`."""
    return pa.array([questions_of(cell) for cell in cells], pa.list_(pa.string()))


def answer_column(cells: Iterable[Any]) -> pa.Array:
    """A column of answers for `ArrowRows`."""
    return pa.array([answers_of(cell) for cell in cells], pa.list_(pa.list_(pa.string())))


def question_pairs(question: Any, answer: Any) -> list[tuple[str, list[str]]]:
    """The questions in a row, each with its answers. A single question has all answers of the row;
    of several questions each has one entry. Raises ValueError, which says what is missing."""
    questions, answers = questions_of(question), answers_of(answer)
    if len(questions) == 1:
        answers = [[text for texts in answers for text in texts]]
    if len(questions) != len(answers):
        raise ValueError(f"{len(questions)} questions, but {len(answers)} answers")
    pairs = list(zip(questions, answers, strict=True))
    if not all(questions) or not questions:
        raise ValueError("no question")
    for text, texts in pairs:
        if not texts:
            raise ValueError(f"no answer to {text!r}")
    return pairs


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _flat(value: Any) -> list[str]:
    """All texts and numbers in an answer, as texts."""
    if isinstance(value, Mapping):
        value = value.get("answer")
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in _flat(each)]
    if isinstance(value, float) and isfinite(value):
        return [_whole_number(value) or str(value)]
    is_text = isinstance(value, (str, int)) and not isinstance(value, bool)
    return [str(value)] if is_text and str(value).strip() else []
