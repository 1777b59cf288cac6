"""Images of a table with their captions, classes and questions, as training data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.data.augment import Transform
from patchword.data.rows import (
    ANSWERS,
    IMAGES,
    LABELS,
    QUESTIONS,
    USUAL,
    Columns,
    Rows,
    Together,
    answers_of,
    caption_columns,
    class_of,
    find,
    is_number,
    listed,
    question_pairs,
    questions_of,
    texts_of,
)
from patchword.data.sample import Facts, Region, Sample, Texts, fact
from patchword.errors import ImageError, RecipeError, counted
from patchword.images import pages
from patchword.images.urls import is_url
from patchword.text.templates import filled

CHECKED = 64  # rows, of which at least one must name a file that exists
NAME = "__name__"  # column of names for messages; without it, a row's path or number
FAULT = "__fault__"  # column of errors found in reading a row


@dataclass(frozen=True)
class Table:
    """Rows, the names of their columns by content, and the base folder of relative paths."""

    where: str  # for messages
    rows: Rows
    image: str
    caption: str | None = None
    label: str | None = None
    question: str | None = None
    answer: str | None = None
    base: Path | None = None
    names: tuple[str, ...] = ()  # of the classes, where label holds their numbers
    columns: tuple[str, ...] = ()  # all there were, for messages

    def opened(self, index: int) -> tuple[str, str | bytes, Mapping[str, Any]]:
        """(name, image, row) of a row; image: a path, the content of a file, or "" for none."""
        row = self.rows[index]
        value = row[self.image]
        pair = value if isinstance(value, Mapping) else {"bytes": value, "path": value}
        path = pair["path"] if isinstance(pair.get("path"), str) else ""
        content = pair["bytes"] if isinstance(pair.get("bytes"), bytes) else ""
        if path and not content:
            whole = located(path, self.base)
            return whole, whole, row
        note = f" ({path})" if path else ""
        return row.get(NAME) or f"{self.where}, row {index + 1}{note}", content, row

    def classes(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """The names of its classes, and the number of each class in its label column as `class_of`
        reads it: sorted as numbers where all are numbers, else as texts."""
        if self.names:
            return self.names, {str(number): number for number in range(len(self.names))}
        assert self.label is not None
        found = set(filter(None, map(class_of, self.rows.column(self.label))))
        if not found:
            raise RecipeError(f"{self.where}: no classes in column {self.label!r}")
        numbers = all(map(is_number, found))
        ordered = sorted(found, key=lambda name: (float(name) if numbers else 0, name))
        return tuple(ordered), {name: n for n, name in enumerate(ordered)}


def located(path: str, base: Path | None) -> str:
    """A path of a table's cell: from the folder `base`, unless it is whole or an address."""
    whole = os.path.isabs(path) or "://" in path or base is None
    return path if whole else os.path.join(base or "", path)


def table_of(
    where: str,
    rows: Rows,
    named: Columns = USUAL,
    base: Path | None = None,
    pictures: Sequence[str] = (),
) -> Table:
    """The table of these rows. named: its columns by content; "" for those with a usual name.

    pictures: columns that are known to contain images. Raises RecipeError for a table without rows
    or images, and for a column that does not exist.
    """
    if not len(rows):
        raise RecipeError(f"{where}: no rows")
    columns = tuple(rows.columns)
    image = find(columns, named.image, IMAGES, where)
    if not named.image and pictures and image not in pictures:
        image = pictures[0]
    if image is None:
        raise RecipeError(
            f"{where}: no column of images; it has {listed(columns)}; call the one of images "
            'image, or name it in a recipe, data.0.image="..."'
        )
    others = [name for name in columns if name != image]
    label, question, answer = (
        find(others, name, usual, where)
        for name, usual in zip(named[2:], (LABELS, QUESTIONS, ANSWERS), strict=True)
    )
    captions = next(iter(caption_columns(others, named.caption, where)), [])
    caption = " + ".join(captions) or None
    if len(captions) > 1:
        rows = Together(rows, " + ".join(captions), captions)
    return Table(where, rows, image, caption, label, question, answer, base, columns=columns)


class TableSource:
    """The images of a table. Captions are the table's, `texts` of several sampled each time;
    without them, templates around a word for the class. So are questions and answers, where they
    are read; with `class_questions`, those are the questions, and the answer is a word for the
    class."""

    def __init__(
        self,
        table: Table,
        transform: Transform,
        reads: frozenset[str],
        templates: Sequence[str] = ("{}",),
        words: Sequence[Sequence[str]] = (),
        class_questions: Sequence[str] = (),
        texts: int = 1,
    ) -> None:
        self.table = table
        self._transform = transform
        self._reads = reads
        self._texts = texts
        self._made = "captions" in reads and table.caption is None
        self._numbers: dict[str, int] = {}
        self.labels: tuple[str, ...] = ()
        self._class_questions = tuple(class_questions) if "questions" in reads else ()
        self._with_questions = bool(self._class_questions) or self._has_questions()
        self._needs_class = "labels" in reads or self._made or bool(self._class_questions)
        if self._needs_class or table.names:
            if table.label is None:
                named = "labels" in reads or not self._made
                needs = "class names" if named else "captions or class names"
                raise RecipeError(f"{table.where}: {_unclassed(table, needs)}")
            self.labels, self._numbers = table.classes()
        if "captions" in reads and table.caption is not None:
            self._require_texts(table.caption)
        _check(templates, class_questions)
        self._templates = templates
        self._words = self._checked(words)
        if self.labels and words and all(map(is_number, self.labels)):
            self.labels = tuple(each[0] for each in self._words)
        self._find_one()

    def __len__(self) -> int:
        return len(self.table.rows)

    def name(self, index: int) -> str:
        return self.table.opened(index)[0]

    def captions(self) -> Iterator[str]:
        table = self.table
        if not self._made:
            if table.caption is not None:
                for value in table.rows.column(table.caption):
                    yield from texts_of(value)
            return
        assert table.label is not None
        turns = [cycle(each) for each in self._sentences]
        for value in table.rows.column(table.label):
            if (number := self._number(value)) >= 0:
                yield next(turns[number])

    def _require_texts(self, column: str) -> None:
        """Raise RecipeError for a column of captions without a text in any row."""
        if next(self.captions(), None) is None:
            values = (value for value in self.table.rows.column(column) if value is not None)
            found = next(values, None)
            has = "" if found is None else f" (the first value is {found!r})"
            raise RecipeError(
                f"{self.table.where}: the column of captions, {column!r}, has no text in any row"
                f"{has}; set caption to another column"
            )

    def questions_and_answers(self) -> Iterator[str]:
        if self._class_questions:
            assert self.table.label is not None
            questions, turns = cycle(self._class_questions), [cycle(each) for each in self._words]
            for value in self.table.rows.column(self.table.label):
                if (number := self._number(value)) >= 0:
                    yield next(questions)
                    yield next(turns[number])
        elif self._with_questions:
            assert self.table.question is not None
            for value in self.table.rows.column(self.table.question):
                yield from filter(None, questions_of(value))
            yield from self._answers()

    def answers(self) -> Iterator[str]:
        """Its answers, as facts (see `fact`); of classes, each once."""
        if self._class_questions:
            yield from (fact(words[0]) for words in self._words)
        elif self._with_questions:
            yield from map(fact, self._answers())

    def _answers(self) -> Iterator[str]:
        assert self.table.answer is not None
        for value in self.table.rows.column(self.table.answer):
            for texts in answers_of(value):
                yield from texts

    def facts(self) -> Iterator[Facts]:
        """The facts of its captions; of classes, each once."""
        if self._made:
            yield from (frozenset([words[0]]) for words in self._words)
        else:
            yield from (frozenset([fact(caption)]) for caption in self.captions())

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        name, image, row = self.table.opened(index)
        if row.get(FAULT) or not image:
            raise ImageError(name, row.get(FAULT) or "no image in this row")
        label = self._label(name, row)
        caption, caption_facts, image_facts = self._caption(name, row, label, rng)
        first = Texts(caption, *self._question(name, index, row, label, rng))
        pixels = self._transform(self._decoded(name, image), rng)
        more = [
            Texts(
                self._caption(name, row, label, rng)[0],
                *self._question(name, index, row, label, rng),
            )
            for _ in range(self._texts - 1)
        ]
        regions: tuple[Region, ...] = ()
        if "regions" in self._reads:
            regions = (Region(self._phrases(row, label), caption, None),)
        mix = self._transform.mix
        return Sample(
            pixels, (first, *more), label, caption_facts, image_facts, mix, regions=regions
        )

    def _phrases(self, row: Mapping[str, Any], label: int) -> tuple[str, ...]:
        """All captions of an image."""
        if self._made:
            return tuple(self._sentences[label])
        assert self.table.caption is not None
        return tuple(texts_of(row[self.table.caption]))

    def _decoded(self, name: str, image: str | bytes) -> NDArray[np.uint8]:
        try:
            return self._transform.open(image)
        except ImageError as error:
            raise ImageError(name, error.reason) from error

    def _label(self, name: str, row: Mapping[str, Any]) -> int:
        if not self.labels:
            return -1
        assert self.table.label is not None
        number = self._number(row[self.table.label])
        if number < 0 and self._needs_class:
            raise ImageError(name, "no class in this row")
        return number

    def _number(self, value: Any) -> int:
        """Of the class in a cell; -1 for none."""
        return self._numbers.get(class_of(value) or "", -1)

    def _caption(
        self, name: str, row: Mapping[str, Any], label: int, rng: np.random.Generator
    ) -> tuple[str, Facts, Facts]:
        """(caption, its facts, all facts that are true of the image)."""
        if self._made:
            words = self._words[label]
            template = self._templates[int(rng.integers(len(self._templates)))]
            facts = frozenset([words[0]])
            return filled(template, words[int(rng.integers(len(words)))]), facts, facts
        if "captions" not in self._reads or self.table.caption is None:
            return "", frozenset(), frozenset()
        texts = texts_of(row[self.table.caption])
        if not texts:
            raise ImageError(name, "no caption in this row")
        caption = texts[int(rng.integers(len(texts)))]
        return caption, frozenset([fact(caption)]), frozenset(map(fact, texts))

    def _question(
        self, name: str, index: int, row: Mapping[str, Any], label: int, rng: np.random.Generator
    ) -> tuple[str, str]:
        """(question, answer), sampled from all. An answer that several people gave is sampled that
        many times as often: the expected loss is BLIP's, which weights answers by their shares."""
        if not self._with_questions:
            return "", ""
        table = self.table
        pairs: Sequence[tuple[str, Sequence[str]]]
        if self._class_questions:
            pairs = [(question, self._words[label]) for question in self._class_questions]
        else:
            assert table.question
            assert table.answer
            try:
                pairs = question_pairs(row[table.question], row[table.answer])
            except ValueError as error:  # an image may be in several rows: say which
                raise ImageError(name, f"{error} in row {index + 1}") from error
        question, answers = pairs[int(rng.integers(len(pairs)))]
        return question, answers[int(rng.integers(len(answers)))]

    def _has_questions(self) -> bool:
        """Whether questions are read and the table has some. Raises RecipeError where it has none
        and nothing else is read, and for questions without answers, or the other way round."""
        table = self.table
        if "questions" not in self._reads:
            return False
        if table.question and table.answer:
            return True
        if there := table.question or table.answer:
            lacks = "answer" if table.question else "question"
            raise RecipeError(
                f"{table.where}: column {there!r}, but no column of {lacks}s; it has "
                f"{self._columns}; set {lacks}"
            )
        if "captions" in self._reads:
            return False
        raise RecipeError(
            f"{table.where}: no columns of questions and answers; it has {self._columns}; set "
            "question and answer, or class_questions"
        )

    @property
    def _columns(self) -> str:
        columns = self.table.columns or self.table.rows.columns
        return listed([name for name in columns if name != FAULT])

    @cached_property
    def _sentences(self) -> list[list[str]]:
        """All captions of each class."""
        return [[filled(t, word) for t in self._templates for word in each] for each in self._words]

    def _checked(self, words: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
        """Words for each class: as given, else its name."""
        if not words:
            return [(name.replace("_", " "),) for name in self.labels]
        if self.labels and (len(words) != len(self.labels) or not all(words)):
            raise RecipeError(
                f"{self.table.where}: {len(self.labels)} classes, but {len(words)} names for them; "
                f"give one or more for each, in this order: {', '.join(self.labels)}"
            )
        return words

    def _find_one(self) -> None:
        """Raise RecipeError if none of `CHECKED` rows names a file that exists."""
        rows = np.unique(np.linspace(0, len(self) - 1, CHECKED).astype(int)).tolist()
        for index in rows:
            image = self.table.opened(index)[1]
            if isinstance(image, bytes) or is_url(image) or os.path.exists(pages.split(image)[0]):
                return
        base = self.table.base
        hint = f"; relative paths start at {base}" if base else "; give whole paths"
        raise RecipeError(
            f"{self.table.where}: none of {len(rows)} images looked for exists, such as "
            f"{self.name(rows[0])}{hint}"
        )


def _check(templates: Sequence[str], class_questions: Sequence[str]) -> None:
    if bad := [template for template in templates if "{}" not in template]:
        raise RecipeError(f"template {bad[0]!r} has no {{}} where the class goes")
    if not templates:
        raise RecipeError("templates is empty; give one or more, with {} for the class")
    if not all(question.strip() for question in class_questions):
        raise RecipeError("one of class_questions is empty; leave it out")


def _unclassed(table: Table, needs: str) -> str:
    """What is wrong with a table without classes: of a folder, how it should be laid out."""
    if not Path(table.where).is_dir():
        return f"no column of {needs}; it has {listed(table.columns or ())}"
    return (
        f"{counted(len(table.rows), 'image')} and no folders of classes; wanted is one folder per "
        "class, PHOTOS/cat/1.jpg, PHOTOS/dog/2.jpg, ..., or a metadata.csv with a column of "
        f"{needs}"
    )
