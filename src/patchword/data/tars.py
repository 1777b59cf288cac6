"""Webdataset tars: the files of a sample are next to each other and share a name up to its first
dot: 000.jpg, 000.txt, 000.json, 000.cls.

Only the tar's headers and the small files are read at the start; an image is read from its offset
when it is needed, so nothing is unpacked or copied. The webdataset library (its wids) needs an
index made beforehand, and stops at damage in a tar without an error; so tars are listed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from patchword.data.rows import (
    ANSWERS,
    LABELS,
    QUESTIONS,
    ArrowRows,
    Columns,
    answer_column,
    caption_columns,
    captions_of,
    class_of,
    first_filled,
    listed,
    question_column,
)
from patchword.data.table import FAULT, NAME
from patchword.data.tar_files import Member, Tar
from patchword.data.tar_samples import CLASS, READ, SampleReader
from patchword.errors import RecipeError

SUFFIXES = (".tar", ".tgz")  # and .tar.gz
IMAGE, CAPTION, LABEL, QUESTION, ANSWER = Columns._fields


class TarRows:
    """The samples of tars: image, and those of caption, label, question and answer that any has."""

    def __init__(self, tars: Sequence[Path], named: Columns) -> None:
        """named: suffixes, or keys of the samples' .json; "": the usual ones. For the image there
        may be alternatives, of which the first that a sample has is taken: "jpg;png".

        Warns of samples of several images of which none is named. Raises RecipeError for a file
        that is no tar, for a suffix or key that no sample has, for samples that names with dots
        merge, and for files of a sample that are not next to each other.
        """
        self._tars = [Tar(path) for path in tars]
        wanted = [name.strip().lower() for name in named.image.split(";") if name]
        texts = {name.strip() for each in named[1:] for name in each.lower().split(",") if name}
        reader = SampleReader(wanted, {*READ, *texts})
        found = [
            each for number, tar in enumerate(self._tars) for each in reader.samples(number, tar)
        ]
        if wanted and found and not any(each.image for each in found):
            suffixes = dict.fromkeys(suffix for each in found for suffix in each.pictures)
            raise RecipeError(
                f"{tars[0]}: no sample has an image .{' or .'.join(wanted)}; they have "
                f"{listed([*suffixes])}"
            )
        reader.warn([str(path) for path in tars])
        keys = list(dict.fromkeys(key for each in found for key in each.fields))
        for key in (named.label, named.question, named.answer):
            if key and key not in keys:
                raise RecipeError(f"{tars[0]}: no sample has {key!r}; they have {listed(keys)}")
        captions = caption_columns(keys, named.caption, str(tars[0]))
        if not named.caption:
            captions = [["txt"], ["text"], *captions]
        places = [each.image or Member(each.key, 0, 0) for each in found]
        self._places = ArrowRows(
            {
                "tar": pa.array([each.tar for each in found], pa.int32()),
                "member": pa.array([place.name for place in places], pa.string()),
                "offset": pa.array([place.offset for place in places], pa.int64()),
                "size": pa.array([place.size for place in places], pa.int64()),
                FAULT: pa.array([each.fault for each in found], pa.string()),
            }
        )
        self._words = ArrowRows(_words([each.fields for each in found], captions, named))
        self._count = len(found)

    @property
    def columns(self) -> Sequence[str]:
        return [IMAGE, *self._words.columns]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        place = self._places[index]
        tar = self._tars[place["tar"]]
        name = f"{tar.path}/{place['member']}"
        image = None
        if place[FAULT] is None:
            image = tar.read(Member(place["member"], place["offset"], place["size"]))
        return {NAME: name, FAULT: place[FAULT], IMAGE: image, **self._words[index]}

    def column(self, name: str) -> Iterator[Any]:
        return self._words.column(name)


def _words(
    samples: Sequence[Mapping[str, Any]], captions: Sequence[Sequence[str]], named: Columns
) -> dict[str, pa.Array]:
    """The columns of words that any of the samples has, from their fields."""
    usual = ((CLASS, *LABELS), QUESTIONS, ANSWERS)
    classes, questions, answers = (
        [first_filled(fields, (name,) if name else words) for fields in samples]
        for name, words in zip(named[2:], usual, strict=True)
    )
    texts = [captions_of(fields, captions) for fields in samples]
    names = [class_of(value) for value in classes]
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
