"""The results of the demo on any pictures, and the tasks that compute them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchword import atomic_write
from patchword.cli.heatmap import unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from patchword.api import Model
    from patchword.errors import ImageError
    from patchword.index import Hit
    from patchword.tasks.classify import Score
    from patchword.where.heatmap import Heatmap

HITS = 4  # of each search
INLINE = 5  # labels in a command; more are in a file
PLAIN = re.compile(r"[\w -]+")  # a label that needs no file


@dataclass(frozen=True)
class Answer:
    """The predictions for one picture, and its true label; None where that is unknown."""

    path: Path
    scores: list[Score]
    truth: str | None = None

    @property
    def right(self) -> bool:
        return self.scores[0].label == self.truth


@dataclass(frozen=True)
class Description:
    """The results of a BLIP for one picture: a caption, "" where it generates none, answers to
    questions, and how well texts match."""

    name: str
    caption: str
    answers: tuple[tuple[str, str], ...]  # (question, answer)
    matches: tuple[tuple[str, float], ...]  # (text, probability)


@dataclass(frozen=True)
class Findings:
    """All results of the demo. A picture's name is its path from `root`."""

    root: Path
    count: int  # pictures that could be read
    answers: dict[str, list[Answer]]  # by group
    classify: dict[str, tuple[str, ...]]  # by group, the command that gives them
    hits: dict[str, list[Hit]]  # by sentence
    heatmaps: list[tuple[str, Heatmap, str]]  # (name, map of one text, the model that made it)
    descriptions: list[Description]
    describer: str  # the name of the BLIP that made them
    compared: Sequence[str]  # names
    captions: Sequence[str]
    matrix: NDArray[np.float32]  # (compared, captions) cosines
    index: Path
    notes: Mapping[str, str] = field(default_factory=dict)  # remarks, by the title of a section
    failed: Sequence[ImageError] = ()


def listed(words: Sequence[str], file: Path) -> str:
    """Words as an argument of a command: by commas, or the name of a file that they are written
    to, one a line."""
    if len(words) <= INLINE and all(map(PLAIN.fullmatch, words)):
        return ",".join(words)
    atomic_write.write(file, "".join(f"{word}\n" for word in words))
    return f"@{file}"


def index_of(out: Path, model: Model, root: Path) -> Path:
    """The path of the index of a folder by a model; it is kept for the next run and the user."""
    both = model.fingerprint.encode() + os.fsencode(os.path.realpath(root))
    return out / f"index-{hashlib.blake2b(both, digest_size=4).hexdigest()}"


def named(path: str | Path, root: Path) -> str:
    """A picture's name: its path from the root."""
    return Path(os.path.relpath(path, root)).as_posix()


def described(
    model: Model, root: Path, name: str, questions: Sequence[str], texts: Sequence[str]
) -> Description:
    """The results of a BLIP for a picture: some models caption, some answer, some match."""
    path, config = root / name, model.config
    caption = model.caption([path])[0].text if config.writes_captions else ""
    answers: tuple[tuple[str, str], ...] = ()
    matches: tuple[tuple[str, float], ...] = ()
    if config.answers_questions and questions:
        said = (answer.text for answer in model.ask(path, questions))
        answers = tuple(zip(questions, said, strict=True))
    if config.matching:
        chances = model.match([path], texts).probabilities[0].tolist()
        matches = tuple(zip(texts, chances, strict=True))
    return Description(
        name,
        caption,
        answers,
        matches,
    )


def records(found: Findings) -> Iterator[dict[str, Any]]:
    """The findings as lines of JSON."""
    for answers in found.answers.values():
        for answer in answers:
            name, best = named(answer.path, found.root), answer.scores[0]
            said = {"label": best.label, "probability": best.probability}
            truth = {} if answer.truth is None else {"truth": answer.truth}
            yield {"job": "classify", "image": name, **said, **truth}
    for sentence, hits in found.hits.items():
        for hit in hits:
            yield {"job": "search", "query": sentence, "image": hit.path, "cosine": hit.score}
    for name, heat, _ in found.heatmaps:
        ((value, x, y),) = heat.peaks()
        where = {unit(heat): value, "x": x, "y": y}
        yield {"job": "heatmap", "image": name, "text": heat.texts[0], **where}
    for each in found.descriptions:
        if each.caption:
            yield {"job": "caption", "image": each.name, "caption": each.caption}
        for question, word in each.answers:
            yield {"job": "ask", "image": each.name, "question": question, "answer": word}
        for text, chance in each.matches:
            yield {"job": "match", "image": each.name, "text": text, "probability": chance}
    for name, row in zip(found.compared, found.matrix.tolist(), strict=True):
        pairs = [{"text": t, "cosine": c} for t, c in zip(found.captions, row, strict=True)]
        yield {"job": "similarity", "image": name, "texts": pairs}
