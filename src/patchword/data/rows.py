"""Tables of images by row, whatever they were read from."""

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
from patchword.errors import RecipeError

# Usual names of columns, of which the first that exists is taken; compared in lower case.
IMAGES = (
    "image", "file_name", "img", "path", "filepath", "file", "filename", "image_path",
    "jpg", "jpeg", "png", "webp",
)  # fmt: skip
CAPTIONS = ("caption", "captions", "text", "texts", "title", "sentence", "sentences", "description")
LABELS = ("label", "class", "class_name", "category", "cls", "target")
SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")  # spreadsheets
LISTED = 30  # columns in a message
QUESTIONS = ("question", "questions")
ANSWERS = ("answer", "answers", "multiple_choice_answer")  # the last: VQAv2's


class Columns(NamedTuple):
    """Columns as a recipe names them; "": by their usual names."""

    image: str = ""
    caption: str = ""
    label: str = ""
    question: str = ""
    answer: str = ""


USUAL = Columns()


class Rows(Protocol):
    """A table: an image in each row, as a path, bytes, or {"bytes", "path"}."""

    @property
    def columns(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def column(self, name: str) -> Iterator[Any]:
        """All values of a column, in order."""


class ArrowRows:
    """Rows in memory, as Arrow: processes share them without copies."""

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


class Together:
    """Rows with one column more: several of their columns as one of lists."""

    def __init__(self, rows: Rows, name: str, columns: Sequence[str]) -> None:
        self._rows, self.name, self.parts = rows, name, columns

    @property
    def columns(self) -> Sequence[str]:
        return [*self._rows.columns, self.name]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = self._rows[index]
        return {**row, self.name: [t for name in self.parts for t in texts_of(row[name])]}

    def column(self, name: str) -> Iterator[Any]:
        if name != self.name:
            yield from self._rows.column(name)
            return
        for cells in zip(*map(self._rows.column, self.parts), strict=True):
            yield [text for cell in cells for text in texts_of(cell)]


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The suffix that says what is in a file, lower case: .csv of a.csv and of a.csv.gz."""
    whole = Path(path)
    suffix = whole.suffix.lower()
    return Path(whole.stem).suffix.lower() if suffix == ".gz" else suffix


def advice(path: str | os.PathLike[str]) -> str:
    """What to do with a spreadsheet, at the end of a message; of any other file nothing."""
    return ": save its sheet as CSV (UTF-8)" if suffix_of(path) in SHEETS else ""


def caption_columns(columns: Sequence[str], wanted: str, where: str) -> list[list[str]]:
    """The columns of captions: those `wanted`, with commas between several; or those of usual
    names, in that order, each with those that are numbered: caption, caption_2, caption_3.

    Those of one list are captions of one image together, and the next list is read where they are
    empty. Raises RecipeError for a column that is not there.
    """
    if wanted and wanted not in columns and "," in wanted:
        names = [name.strip() for name in wanted.split(",")]
        if "" in names:
            raise RecipeError(f"{where}: an empty name among the columns {wanted!r}")
        for name in names:
            find(columns, name, (), where)
        return [names]
    if wanted:
        find(columns, wanted, (), where)
        return [[wanted]]
    groups = (
        [name for name in columns if re.fullmatch(rf"{word}[ _.-]?\d*", name, re.IGNORECASE)]
        for word in CAPTIONS
    )
    return [group for group in groups if group]


def find(columns: Sequence[str], wanted: str, usual: Sequence[str], where: str) -> str | None:
    """The column `wanted`, or "" for that of a usual name; None where there is none of those.

    Raises RecipeError, with the names of the columns, where the one wanted does not exist.
    """
    if wanted and wanted not in columns:
        raise RecipeError(f"{where}: no column {wanted!r}; it has {listed(columns)}")
    if wanted:
        return wanted
    return next(iter(called(columns, usual)), None)


def called(columns: Sequence[str], usual: Sequence[str]) -> list[str]:
    """The columns that have one of the usual names, in the order of those."""
    return [name for word in usual for name in columns if name.lower() == word]


def listed(columns: Sequence[str]) -> str:
    """Columns in words, the first of many."""
    return errors.listed(columns, LISTED) or "no columns"


def parsed_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for none, for one that is nested too deeply, and
    for a key twice in one object, of which one value would be lost."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("lists and objects are nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return value


def class_of(value: Any) -> str | None:
    """The class in one cell, a text or a whole number, as a text without the spaces around it;
    None for neither. 3.0 is 3: of numbers and empty cells pandas makes 3.0 and NaN."""
    if isinstance(value, float):
        return _number(value)
    return (str(value).strip() or None) if isinstance(value, (str, int)) else None


def is_number(name: str) -> bool:
    """Whether the name of a class is a whole number; 3.0 too, as pandas writes it into a csv."""
    return re.fullmatch(r"-?\d+(\.0+)?", name) is not None


def _number(value: float) -> str | None:
    """A number that is whole, as a text without a fraction; None for another."""
    return str(int(value)) if value.is_integer() else None


def texts_of(value: Any) -> list[str]:
    """The captions in one cell: a text, a list of texts, or nothing."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return [text for text in several if isinstance(text, str) and text.strip()]


def captions_of(row: Mapping[str, Any], groups: Sequence[Sequence[str]]) -> list[str]:
    """The captions of the first group of cells that has some."""
    for group in groups:
        if texts := [text for name in group for text in texts_of(row.get(name))]:
            return texts
    return []


def first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of these cells that is not empty; None where all are."""
    return next((row[name] for name in names if row.get(name) not in (None, "", [])), None)


def questions_of(value: Any) -> list[str]:
    """The questions in one cell, a text or a list of texts; "" for one that is empty."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return [text if isinstance(text, str) and text.strip() else "" for text in several]


def answers_of(value: Any) -> list[list[str]]:
    """The answers in one cell, a text, a number or a list of such: those of each of its entries.

    An entry may be a list itself, or VQAv2's {"answer": text, ...}.
    """
    if isinstance(value, Mapping):
        value = value.get("answer")
    several = value if isinstance(value, (list, tuple)) else [value]
    return [_flat(each) for each in several]


def question_column(cells: Iterable[Any]) -> pa.Array:
    """Cells of questions for `ArrowRows`."""
    return pa.array([questions_of(cell) for cell in cells], pa.list_(pa.string()))


def answer_column(cells: Iterable[Any]) -> pa.Array:
    """Cells of answers for `ArrowRows`."""
    return pa.array([answers_of(cell) for cell in cells], pa.list_(pa.list_(pa.string())))


def question_pairs(question: Any, answer: Any) -> list[tuple[str, list[str]]]:
    """The questions in a row, each with its answers: of one question all answers of the row, of
    several one entry each. Raises ValueError, with what is missing."""
    questions, answers = questions_of(question), answers_of(answer)
    if len(questions) == 1:
        answers = [[text for texts in answers for text in texts]]
    if len(questions) != len(answers):
        raise ValueError(f"{len(questions)} questions, but {len(answers)} answers")
    pairs = list(zip(questions, answers, strict=True))
    if not all(questions) or not questions:
        raise ValueError("no question")
    if unanswered := [text for text, texts in pairs if not texts]:
        raise ValueError(f"no answer to {unanswered[0]!r}")
    return pairs


def _flat(value: Any) -> list[str]:
    """All texts and numbers in an answer, as texts."""
    if isinstance(value, Mapping):
        value = value.get("answer")
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in _flat(each)]
    if isinstance(value, float) and isfinite(value):
        return [_number(value) or str(value)]
    is_text = isinstance(value, (str, int)) and not isinstance(value, bool)
    return [str(value)] if is_text and str(value).strip() else []
