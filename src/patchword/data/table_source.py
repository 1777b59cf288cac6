"""Images of a table with their captions, classes and questions, as training data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchword.data.augment import Transform
from patchword.data.rows import (
    answers_of,
    class_of,
    is_number,
    listed,
    question_pairs,
    questions_of,
    texts_of,
)
from patchword.data.sample import Facts, Region, Sample, Texts, fact
from patchword.data.table import FAULT, Table
from patchword.errors import ImageError, RecipeError, counted
from patchword.images import pages
from patchword.images.urls import is_url
from patchword.text.templates import filled

CHECKED = 64  # rows of which at least one must name a file that exists


class TableSource:
    """The images of a table, each with `texts` captions that are sampled in every epoch: from the
    table's captions or, without these, from templates around a word for the class.

    Questions with answers are sampled in the same way, if they are read. With `class_questions`,
    these are the questions, and the answers are words for the class.
    """

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
        self._templated = "captions" in reads and table.caption is None
        self._class_numbers: dict[str, int] = {}
        self.labels: tuple[str, ...] = ()
        self._class_questions = tuple(class_questions) if "questions" in reads else ()
        self._with_questions = bool(self._class_questions) or self._has_questions()
        self._needs_class = "labels" in reads or self._templated or bool(self._class_questions)
        if self._needs_class or table.names:
            if table.label is None:
                needs = "class names"
                if self._templated and "labels" not in reads:
                    needs = "captions or class names"
                raise RecipeError(f"{table.where}: {_without_classes(table, needs)}")
            self.labels, self._class_numbers = table.classes()
        if "captions" in reads and table.caption is not None:
            self._require_texts(table.caption)
        _check_texts(templates, class_questions)
        self._templates = templates
        self._words = self._class_words(words)
        if self.labels and words and all(map(is_number, self.labels)):
            self.labels = tuple(names[0] for names in self._words)
        self._check_images_exist()

    def __len__(self) -> int:
        return len(self.table.rows)

    def name(self, index: int) -> str:
        return self.table.read_row(index)[0]

    def captions(self) -> Iterator[str]:
        table = self.table
        if not self._templated:
            if table.caption is not None:
                for value in table.rows.column(table.caption):
                    yield from texts_of(value)
            return
        assert table.label is not None
        sentences = [cycle(of_class) for of_class in self._sentences]
        for value in table.rows.column(table.label):
            number = self._number(value)
            if number >= 0:
                yield next(sentences[number])

    def _require_texts(self, column: str) -> None:
        """Raise RecipeError for a column of captions without a text in any row."""
        if next(self.captions(), None) is None:
            values = (value for value in self.table.rows.column(column) if value is not None)
            value = next(values, None)
            has = "" if value is None else f" (the first value is {value!r})"
            raise RecipeError(
                f"{self.table.where}: the column of captions, {column!r}, has no text in any row"
                f"{has}; set caption to another column"
            )

    def questions_and_answers(self) -> Iterator[str]:
        if self._class_questions:
            assert self.table.label is not None
            questions = cycle(self._class_questions)
            answers = [cycle(words) for words in self._words]
            for value in self.table.rows.column(self.table.label):
                number = self._number(value)
                if number >= 0:
                    yield next(questions)
                    yield next(answers[number])
        elif self._with_questions:
            assert self.table.question is not None
            for value in self.table.rows.column(self.table.question):
                yield from filter(None, questions_of(value))
            yield from self._answers()

    def answers(self) -> Iterator[str]:
        """All answers as facts (see `fact`); those that name classes once each."""
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
        """The facts of all captions; those that name classes once each."""
        if self._templated:
            yield from (frozenset([words[0]]) for words in self._words)
        else:
            yield from (frozenset([fact(caption)]) for caption in self.captions())

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        name, image, row = self.table.read_row(index)
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
        if self._templated:
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
        """The number of the class in a cell; -1 for none."""
        return self._class_numbers.get(class_of(value) or "", -1)

    def _caption(
        self, name: str, row: Mapping[str, Any], label: int, rng: np.random.Generator
    ) -> tuple[str, Facts, Facts]:
        """(caption, its facts, all facts that are true of the image)."""
        if self._templated:
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
        """(question, answer), sampled from all. An answer that three people gave is sampled three
        times as often: the expected loss is BLIP's, which weights answers by their shares."""
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
            except ValueError as error:  # an image may be in several rows
                raise ImageError(name, f"{error} in row {index + 1}") from error
        question, answers = pairs[int(rng.integers(len(pairs)))]
        return question, answers[int(rng.integers(len(answers)))]

    def _has_questions(self) -> bool:
        """Whether questions are read and the table has questions. Raises RecipeError if it has none
        and no captions are read either, and for questions without answers or vice versa."""
        table = self.table
        if "questions" not in self._reads:
            return False
        if table.question and table.answer:
            return True
        if table.question or table.answer:
            missing = "answer" if table.question else "question"
            raise RecipeError(
                f"{table.where}: column {table.question or table.answer!r}, but no column of "
                f"{missing}s; it has {self._columns}; set {missing}"
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
        return [
            [filled(template, word) for template in self._templates for word in words]
            for words in self._words
        ]

    def _class_words(self, words: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
        """The words for each class: those given, else its name."""
        if not words:
            return [(name.replace("_", " "),) for name in self.labels]
        if self.labels and (len(words) != len(self.labels) or not all(words)):
            raise RecipeError(
                f"{self.table.where}: {len(self.labels)} classes, but {len(words)} names for them; "
                f"give one or more for each, in this order: {', '.join(self.labels)}"
            )
        return words

    def _check_images_exist(self) -> None:
        """Raise RecipeError if none of `CHECKED` rows names a file that exists. URLs and images in
        the table count as existing."""
        rows = np.unique(np.linspace(0, len(self) - 1, CHECKED).astype(int)).tolist()
        for index in rows:
            image = self.table.read_row(index)[1]
            if isinstance(image, bytes) or is_url(image) or os.path.exists(pages.split(image)[0]):
                return
        base = self.table.base
        hint = f"; relative paths start at {base}" if base else "; give whole paths"
        raise RecipeError(
            f"{self.table.where}: none of {len(rows)} images looked for exists, such as "
            f"{self.name(rows[0])}{hint}"
        )


def _check_texts(templates: Sequence[str], class_questions: Sequence[str]) -> None:
    for template in templates:
        if "{}" not in template:
            raise RecipeError(f"template {template!r} has no {{}} where the class goes")
    if not templates:
        raise RecipeError("templates is empty; give one or more, with {} for the class")
    if not all(question.strip() for question in class_questions):
        raise RecipeError("one of class_questions is empty; leave it out")


def _without_classes(table: Table, needs: str) -> str:
    """The error for a table without classes; for a folder it says how to lay it out."""
    if not Path(table.where).is_dir():
        return f"no column of {needs}; it has {listed(table.columns or ())}"
    return (
        f"{counted(len(table.rows), 'image')} and no folders of classes; wanted is one folder per "
        "class, PHOTOS/cat/1.jpg, PHOTOS/dog/2.jpg, ..., or a metadata.csv with a column of "
        f"{needs}"
    )
