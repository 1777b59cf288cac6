"""Webdataset tars: the files of a sample stand one behind the other and share a name up to its
first dot: 000.jpg, 000.txt, 000.json, 000.cls.

Only the tar's headers and the small files are read at the start; an image is read from its place
when it is asked for, so nothing is unpacked or copied.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from patchword.data.rows import (
    ANSWERS,
    CAPTIONS,
    LABELS,
    QUESTIONS,
    ArrowRows,
    Columns,
    answer_column,
    first,
    listed,
    question_column,
    texts_of,
)
from patchword.data.table_source import FAULT, NAME
from patchword.errors import RecipeError
from patchword.images.files import picture_suffixes

TEXTS = ("txt", "text", "caption")  # suffixes of a caption
CLASS = "cls"  # the suffix of a class
SUFFIXES = (".tar", ".tgz")  # and .tar.gz
IMAGE, CAPTION, LABEL, QUESTION, ANSWER = Columns._fields


@dataclass
class _Found:
    """One sample."""

    tar: int
    key: str
    image: tuple[str, int, int] | None = None  # member, offset and size in bytes
    fields: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None


class TarRows:
    """The samples of tars: image, and those of caption, label, question and answer that any has."""

    def __init__(self, tars: Sequence[Path], named: Columns) -> None:
        """named: keys of the samples' .json or suffixes; "": the usual ones. Raises RecipeError
        for a file that is no tar, and for a key that no sample has."""
        self._tars = tars
        found = [each for number, path in enumerate(tars) for each in _samples(number, path)]
        keys = list(dict.fromkeys(key for each in found for key in each.fields))
        for key in named[1:]:
            if key and key not in keys:
                raise RecipeError(f"{tars[0]}: no sample has {key!r}; they have {listed(keys)}")
        self._places = ArrowRows(
            {
                "tar": pa.array([each.tar for each in found], pa.int32()),
                "member": pa.array([(each.image or (each.key,))[0] for each in found], pa.string()),
                "offset": pa.array([each.image and each.image[1] for each in found], pa.int64()),
                "size": pa.array([each.image and each.image[2] for each in found], pa.int64()),
                FAULT: pa.array([each.fault for each in found], pa.string()),
            }
        )
        self._words = ArrowRows(_words([each.fields for each in found], named))
        self._count = len(found)

    @property
    def columns(self) -> Sequence[str]:
        return [IMAGE, *self._words.columns]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        place = self._places[index]
        path = self._tars[place["tar"]]
        name = f"{path}/{place['member']}"
        image = None
        if place["offset"] is not None:
            with path.open("rb") as tar:
                tar.seek(place["offset"])
                image = tar.read(place["size"])
        return {NAME: name, FAULT: place[FAULT], IMAGE: image, **self._words[index]}

    def column(self, name: str) -> Iterator[Any]:
        return self._words.column(name)


def _words(samples: Sequence[Mapping[str, Any]], named: Columns) -> dict[str, pa.Array]:
    """The columns of words that any of the samples has, from their fields."""
    usual = ((*TEXTS, *CAPTIONS), (CLASS, *LABELS), QUESTIONS, ANSWERS)
    captions, classes, questions, answers = (
        [first(fields, (name,) if name else words) for fields in samples]
        for name, words in zip(named[1:], usual, strict=True)
    )
    texts = [texts_of(value) for value in captions]
    names = [_text(value) for value in classes]
    columns: dict[str, pa.Array] = {}
    if any(texts):
        columns[CAPTION] = pa.array(texts, pa.list_(pa.string()))
    if any(name is not None for name in names):
        columns[LABEL] = pa.array(names, pa.string())
    if any(value is not None for value in questions):
        columns[QUESTION] = question_column(questions)
    if any(value is not None for value in answers):
        columns[ANSWER] = answer_column(answers)
    return columns


def _samples(number: int, path: Path) -> Iterator[_Found]:
    """The samples of one tar. A tar that ends too early gives those before, and one at fault."""
    suffixes = picture_suffixes()
    last: _Found | None = None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                if not member.isfile() or not stem or not suffix:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if last is None or last.key != key:
                    if last is not None:
                        yield _judged(last)
                    last = _Found(number, key)
                _add(last, tar, member, suffix.lower(), suffixes)
    except tarfile.TarError as error:
        if last is None:
            raise RecipeError(f"{path}: not an uncompressed tar: {error}") from error
        yield _judged(last)
        yield _Found(number, f"(after {last.key})", fault=f"the tar ends too early: {error}")
        return
    if last is not None:
        yield _judged(last)


def _add(
    found: _Found, tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, pictures: set[str]
) -> None:
    if "." + suffix.rpartition(".")[2] in pictures:
        found.image = found.image or (member.name, member.offset_data, member.size)
        return
    if suffix not in (*TEXTS, CLASS, "json"):
        return
    file = tar.extractfile(member)
    assert file is not None  # of a regular file
    try:
        text = file.read().decode("utf-8-sig")
        values = json.loads(text) if suffix == "json" else {suffix: text.strip()}
    except ValueError as error:
        found.fault = f"its .{suffix} cannot be read: {error}"
        return
    if isinstance(values, dict):
        found.fields |= {key: value for key, value in values.items() if key not in found.fields}


def _judged(found: _Found) -> _Found:
    if found.image is None and found.fault is None:
        found.fault = "no image in this sample"
    return found


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, (str, int)) else None
