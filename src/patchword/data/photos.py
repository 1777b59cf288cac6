"""Images of a table with their captions and classes, as training data."""

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

from patchword import images
from patchword.data.augment import Look
from patchword.data.rows import CAPTIONS, IMAGES, LABELS, Rows, find, listed, texts_of
from patchword.data.sample import Facts, Sample, stated
from patchword.errors import ImageError, RecipeError

LOOKED_AT = 64  # rows of which one must name a file that is there
NAME = "__name__"  # column of what to call a row; without it, its path or number
FAULT = "__fault__"  # column of what is wrong with a row as it was read


@dataclass(frozen=True)
class Table:
    """Rows, what their columns mean, and where relative paths in them start."""

    where: str  # for messages
    rows: Rows
    image: str
    caption: str | None = None
    label: str | None = None
    base: Path | None = None
    names: tuple[str, ...] = ()  # of the classes, where label holds their numbers
    columns: tuple[str, ...] = ()  # all there were, for messages

    def opened(self, index: int) -> tuple[str, str | bytes, Mapping[str, Any]]:
        """(name, what to open, row) of a row; "" where there is nothing to open."""
        row = self.rows[index]
        value = row[self.image]
        pair = value if isinstance(value, Mapping) else {"bytes": value, "path": value}
        path = pair["path"] if isinstance(pair.get("path"), str) else ""
        content = pair["bytes"] if isinstance(pair.get("bytes"), bytes) else ""
        if path and not content:
            whole = self._path(path)
            return whole, whole, row
        note = f" ({path})" if path else ""
        return row.get(NAME) or f"{self.where}, row {index + 1}{note}", content, row

    def classes(self) -> tuple[tuple[str, ...], dict[Any, int]]:
        """The names of its classes, and the number of each value of its label column: in the order
        of numbers where all are, else of the alphabet."""
        if self.names:
            return self.names, {number: number for number in range(len(self.names))}
        assert self.label is not None
        found = {value for value in self.rows.column(self.label) if _is_class(value)}
        if not found:
            raise RecipeError(f"{self.where}: no classes in column {self.label!r}")
        ordered = sorted(found, key=int if all(_is_number(v) for v in found) else str)
        return tuple(map(str, ordered)), {value: n for n, value in enumerate(ordered)}

    def _path(self, path: str) -> str:
        if os.path.isabs(path) or "://" in path or self.base is None:
            return path
        return str(self.base / path)


def meant(
    where: str,
    rows: Rows,
    asked: tuple[str, str, str] = ("", "", ""),
    base: Path | None = None,
    pictures: Sequence[str] = (),
) -> Table:
    """A table with the columns that are meant by image, caption and label: as `asked`, "" being by
    their usual names.

    pictures: columns that are known to hold images. Raises RecipeError for a table without rows or
    images, and for a column that is not there.
    """
    if not len(rows):
        raise RecipeError(f"{where}: no rows")
    columns = tuple(rows.columns)
    image = find(columns, asked[0], IMAGES, where)
    if not asked[0] and pictures and image not in pictures:
        image = pictures[0]
    if image is None:
        raise RecipeError(f"{where}: no column of images; it has {listed(columns)}; set image")
    others = [name for name in columns if name != image]
    caption = find(others, asked[1], CAPTIONS, where)
    label = find(others, asked[2], LABELS, where)
    return Table(where, rows, image, caption, label, base, columns=columns)


class PhotosSource:
    """The images of a table. Captions are the table's, one of several drawn at each visit; without
    them, templates around a word for the class."""

    def __init__(
        self,
        table: Table,
        look: Look,
        reads: frozenset[str],
        templates: Sequence[str] = ("{}",),
        words: Sequence[Sequence[str]] = (),
    ) -> None:
        self.table = table
        self._look = look
        self._reads = reads
        self._made = "captions" in reads and table.caption is None
        self._numbers: dict[Any, int] = {}
        self.labels: tuple[str, ...] = ()
        self._needs_class = "labels" in reads or self._made
        if self._needs_class or table.names:
            if table.label is None:
                needs = "class names" if "labels" in reads else "captions or class names"
                found = listed(table.columns or table.rows.columns)
                raise RecipeError(f"{table.where}: no column of {needs}; it has {found}")
            self.labels, self._numbers = table.classes()
        if bad := [template for template in templates if "{}" not in template]:
            raise RecipeError(f"template {bad[0]!r} has no {{}} where the class goes")
        if not templates:
            raise RecipeError("templates is empty; give one or more, with {} for the class")
        self._templates = templates
        self._words = self._checked(words)
        if self.labels and words and all(_is_number(name) for name in self.labels):
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
            if value in self._numbers:
                yield next(turns[self._numbers[value]])

    def facts(self) -> Iterator[Facts]:
        """What its captions say; of classes, each once."""
        if self._made:
            yield from (frozenset([words[0]]) for words in self._words)
        else:
            yield from (frozenset([stated(caption)]) for caption in self.captions())

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        name, image, row = self.table.opened(index)
        if row.get(FAULT) or not image:
            raise ImageError(name, row.get(FAULT) or "no image in this row")
        label = self._label(name, row)
        caption, says, true = self._caption(name, row, label, rng)
        pixels = self._look(self._decoded(name, image), rng)
        return Sample(pixels, caption, label, says, true, self._look.mix)

    def _decoded(self, name: str, image: str | bytes) -> NDArray[np.uint8]:
        try:
            return images.open(image, at_least=self._look.at_least)
        except ImageError as error:
            raise ImageError(name, error.reason) from error

    def _label(self, name: str, row: Mapping[str, Any]) -> int:
        if not self.labels:
            return -1
        assert self.table.label is not None
        value = row[self.table.label]
        if value not in self._numbers and self._needs_class:
            raise ImageError(name, "no class in this row")
        return self._numbers.get(value, -1)

    def _caption(
        self, name: str, row: Mapping[str, Any], label: int, rng: np.random.Generator
    ) -> tuple[str, Facts, Facts]:
        """(caption, what it says, what is true of the image)."""
        if self._made:
            words = self._words[label]
            template = self._templates[int(rng.integers(len(self._templates)))]
            facts = frozenset([words[0]])
            return template.format(words[int(rng.integers(len(words)))]), facts, facts
        if "captions" not in self._reads or self.table.caption is None:
            return "", frozenset(), frozenset()
        texts = texts_of(row[self.table.caption])
        if not texts:
            raise ImageError(name, "no caption in this row")
        caption = texts[int(rng.integers(len(texts)))]
        return caption, frozenset([stated(caption)]), frozenset(map(stated, texts))

    @cached_property
    def _sentences(self) -> list[list[str]]:
        """All captions of each class."""
        return [[t.format(word) for t in self._templates for word in each] for each in self._words]

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
        """Raise RecipeError where none of some rows names a file that is there."""
        rows = np.unique(np.linspace(0, len(self) - 1, LOOKED_AT).astype(int)).tolist()
        for index in rows:
            image = self.table.opened(index)[1]
            if isinstance(image, bytes) or os.path.exists(image):
                return
        base = self.table.base
        hint = f"; relative paths start at {base}" if base else "; give whole paths"
        raise RecipeError(
            f"{self.table.where}: none of {len(rows)} images looked for is there, such as "
            f"{self.name(rows[0])}{hint}"
        )


def _is_class(value: Any) -> bool:
    """Whether a cell names a class."""
    return isinstance(value, (str, int)) and str(value).strip() != ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.isdecimal())
