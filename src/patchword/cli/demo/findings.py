"""The results of the demo, and what computes them for any pictures."""

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
MAX_INLINE = 5  # labels that a command lists; more are in a file
PLAIN = re.compile(r"[\w -]+")  # labels that a command can list


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


def labels_argument(labels: Sequence[str], file: Path) -> str:
    """Labels as an argument of a command: separated by commas, or "@FILE" after writing them to a
    file."""
    if len(labels) <= MAX_INLINE and all(map(PLAIN.fullmatch, labels)):
        return ",".join(labels)
    atomic_write.write(file, "".join(f"{label}\n" for label in labels))
    return f"@{file}"


def index_path(out: Path, model: Model, root: Path) -> Path:
    """The index of a folder by a model. The next run and the user find it there."""
    key = model.fingerprint.encode() + os.fsencode(os.path.realpath(root))
    return out / f"index-{hashlib.blake2b(key, digest_size=4).hexdigest()}"


def relative_name(path: str | Path, root: Path) -> str:
    """A picture's name: its path from the root."""
    return Path(os.path.relpath(path, root)).as_posix()


def describe(
    model: Model, root: Path, name: str, questions: Sequence[str], texts: Sequence[str]
) -> Description:
    """The results of a BLIP for a picture; those that the model cannot give stay empty."""
    path, config = root / name, model.config
    caption = model.caption([path])[0].text if config.writes_captions else ""
    answers: tuple[tuple[str, str], ...] = ()
    matches: tuple[tuple[str, float], ...] = ()
    if config.answers_questions and questions:
        answer_texts = (answer.text for answer in model.ask(path, questions))
        answers = tuple(zip(questions, answer_texts, strict=True))
    if config.matching:
        probabilities = model.match([path], texts).probabilities[0].tolist()
        matches = tuple(zip(texts, probabilities, strict=True))
    return Description(name, caption, answers, matches)


def records(findings: Findings) -> Iterator[dict[str, Any]]:
    """The findings as JSON records."""
    for answers in findings.answers.values():
        for answer in answers:
            best = answer.scores[0]
            record = {
                "job": "classify", "image": relative_name(answer.path, findings.root),
                "label": best.label, "probability": best.probability,
            }  # fmt: skip
            if answer.truth is not None:
                record["truth"] = answer.truth
            yield record
    for query, hits in findings.hits.items():
        for hit in hits:
            yield {"job": "search", "query": query, "image": hit.path, "cosine": hit.score}
    for name, heatmap, _ in findings.heatmaps:
        [(value, x, y)] = heatmap.peaks()
        peak = {unit(heatmap): value, "x": x, "y": y}
        yield {"job": "heatmap", "image": name, "text": heatmap.texts[0], **peak}
    for each in findings.descriptions:
        if each.caption:
            yield {"job": "caption", "image": each.name, "caption": each.caption}
        for question, text in each.answers:
            yield {"job": "ask", "image": each.name, "question": question, "answer": text}
        for text, probability in each.matches:
            yield {"job": "match", "image": each.name, "text": text, "probability": probability}
    for name, row in zip(findings.compared, findings.matrix.tolist(), strict=True):
        pairs = [{"text": t, "cosine": c} for t, c in zip(findings.captions, row, strict=True)]
        yield {"job": "similarity", "image": name, "texts": pairs}
