"""Webdataset tars. The files of a sample are next to each other, and their names are equal up to
the first dot: 000.jpg, 000.txt, 000.json, 000.cls.

Only headers and small files are read at the start. An image is read from its offset when it is
needed, so nothing is unpacked or copied. The webdataset library (its wids) needs an index that is
made beforehand, and stops at a damaged place without an error. So tars are listed here.
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
from patchword.data.tar_samples import CLASS, READ, SampleReader, TarSample
from patchword.errors import RecipeError

SUFFIXES = (".tar", ".tgz")  # and .tar.gz
IMAGE, CAPTION, LABEL, QUESTION, ANSWER = Columns._fields


class TarRows:
    """The samples of tars. There are columns for captions, labels, questions and answers if any
    sample has them."""

    def __init__(self, tars: Sequence[Path], named: Columns) -> None:
        """named: suffixes, or keys of the samples' .json; "": the usual ones. For the image there
        may be several suffixes, "jpg;png", of which the first that a sample has is used.

        Warns of samples with several images if none is named. Raises RecipeError for a file that is
        not a tar, for a suffix or key that no sample has, for several samples that are read as one
        because of dots in their names, and for files of a sample that are not next to each other.
        """
        self._tars = [Tar(path) for path in tars]
        suffixes = [name.strip().lower() for name in named.image.split(";") if name]
        texts = {name.strip() for names in named[1:] for name in names.lower().split(",") if name}
        reader = SampleReader(suffixes, {*READ, *texts})
        samples: list[TarSample] = []
        for number, tar in enumerate(self._tars):
            samples += reader.samples(number, tar)
        if suffixes and samples and not any(sample.image for sample in samples):
            existing = dict.fromkeys(name for sample in samples for name in sample.pictures)
            raise RecipeError(
                f"{tars[0]}: no sample has an image .{' or .'.join(suffixes)}; they have "
                f"{listed([*existing])}"
            )
        reader.warn([str(path) for path in tars])
        keys = list(dict.fromkeys(key for sample in samples for key in sample.fields))
        for key in (named.label, named.question, named.answer):
            if key and key not in keys:
                raise RecipeError(f"{tars[0]}: no sample has {key!r}; they have {listed(keys)}")
        captions = caption_columns(keys, named.caption, str(tars[0]))
        if not named.caption:
            captions = [["txt"], ["text"], *captions]
        images = [sample.image or Member(sample.key, 0, 0) for sample in samples]
        self._images = ArrowRows(
            {
                "tar": pa.array([sample.tar for sample in samples], pa.int32()),
                "member": pa.array([image.name for image in images], pa.string()),
                "offset": pa.array([image.offset for image in images], pa.int64()),
                "size": pa.array([image.size for image in images], pa.int64()),
                FAULT: pa.array([sample.fault for sample in samples], pa.string()),
            }
        )
        fields = [sample.fields for sample in samples]
        self._texts = ArrowRows(_text_columns(fields, captions, named))
        self._count = len(samples)

    @property
    def columns(self) -> Sequence[str]:
        return [IMAGE, *self._texts.columns]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        member = self._images[index]
        tar = self._tars[member["tar"]]
        image = None
        if member[FAULT] is None:
            image = tar.read(Member(member["member"], member["offset"], member["size"]))
        return {
            NAME: f"{tar.path}/{member['member']}",
            FAULT: member[FAULT],
            IMAGE: image,
            **self._texts[index],
        }

    def column(self, name: str) -> Iterator[Any]:
        return self._texts.column(name)


def _text_columns(
    samples: Sequence[Mapping[str, Any]], captions: Sequence[Sequence[str]], named: Columns
) -> dict[str, pa.Array]:
    """The columns of captions, classes, questions and answers, of those that any sample has. They
    are read from the samples' fields."""

    def select(name: str, usual: Sequence[str]) -> list[Any]:
        names = [name] if name else usual
        return [first_filled(fields, names) for fields in samples]

    questions = select(named.question, QUESTIONS)
    answers = select(named.answer, ANSWERS)
    texts = [captions_of(fields, captions) for fields in samples]
    names = [class_of(value) for value in select(named.label, (CLASS, *LABELS))]
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
