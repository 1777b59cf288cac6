"""What the demo does: every job once, on the pictures that travel in the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchword.cli.heatmap_attention import measure, peak

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from patchword.api import Model
    from patchword.index import Hit
    from patchword.tasks.classify import Score
    from patchword.where.heatmap import Heatmap

# What the file names of the samples mean, in words.
CLOTHES = {
    "dress": "dress",
    "hat": "hat",
    "longsleeve": "long-sleeve shirt",
    "outwear": "jacket",
    "pants": "pants",
    "shirt": "button-up shirt",
    "shoes": "pair of shoes",
    "shorts": "shorts",
    "skirt": "skirt",
    "t-shirt": "t-shirt",
}
WAFERS = {
    "perfect": "a perfect wafer",
    "scratch": "a wafer with a scratch",
    "particles": "a wafer with particles",
    "stain": "a wafer with a stain",
    "edge-chip": "a wafer with an edge chip",
}
GROUPS = (("clothing", CLOTHES, "a photo of a {}"), ("wafers", WAFERS, "a photo of {}"))
SENTENCES = ("a photo of a hat", "a blue wafer with a scratch", "a pair of shoes")
HITS = 4
JOBS = 5
POINTED = (("clothing/pants-2.jpg", "pants"), ("clothing/pants-1.jpg", "pants"))
DEFECTS = (
    ("wafers/scratch-1.jpg", "a wafer with a scratch"),
    ("wafers/particles-4.jpg", "a wafer with particles"),
    ("wafers/stain-3.jpg", "a wafer with a stain"),
    ("wafers/edge-chip-2.jpg", "a wafer with an edge chip"),
)
COMPARED = (
    *("clothing/hat-2.jpg", "clothing/dress-1.jpg", "clothing/shoes-1.jpg", "clothing/pants-1.jpg"),
    *("wafers/perfect-1.jpg", "wafers/scratch-1.jpg"),
    *("wafers/stain-1.jpg", "wafers/particles-1.jpg"),
)
CAPTIONS = (
    *("a photo of a hat", "a photo of a dress", "a photo of a pair of shoes", "a photo of pants"),
    *(
        "a perfect wafer",
        "a wafer with a scratch",
        "a wafer with a stain",
        "a wafer with particles",
    ),
)
# What is asked about a picture that is described, and which sentences it is matched with.
ABOUT = {
    "wafers/scratch-1.jpg": ("what defect does the wafer have?", "what colour is the wafer?"),
    "wafers/stain-1.jpg": ("is the wafer perfect?", "where is the stain?"),
    "wafers/particles-1.jpg": ("is there a scratch?", "are there few or many particles?"),
    "clothing/shoes-3.jpg": ("what is this?",),
    "clothing/pants-2.jpg": ("what is this?",),
}
MATCHED = ("a wafer with a scratch", "a wafer with a stain", "a photo of shoes")


@dataclass(frozen=True)
class Answer:
    """One sample, the word that its file name stands for, and what the model says."""

    path: Path
    truth: str
    scores: list[Score]

    @property
    def right(self) -> bool:
        return self.scores[0].label == self.truth


@dataclass(frozen=True)
class Told:
    """What a BLIP says of one sample: a caption, answers to questions, how well texts match."""

    name: str
    caption: str
    answers: tuple[tuple[str, str], ...]  # (question, answer)
    matches: tuple[tuple[str, float], ...]  # (text, probability)


@dataclass(frozen=True)
class Findings:
    """Everything that the demo shows."""

    answers: dict[str, list[Answer]]  # by group
    hits: dict[str, list[Hit]]  # by sentence
    heatmaps: list[Heatmap]  # of POINTED, then of DEFECTS
    told: list[Told]
    matrix: NDArray[np.float32]  # (len(COMPARED), len(CAPTIONS)) cosines


def run(model: Model, speaker: Model, out: Path, done: Callable[[int], None]) -> Findings:
    """Do every job, with a BLIP for words and for where defects are; `done(n)` is called after the
    n-th of `JOBS`."""
    import numpy as np

    from patchword.index import open_index

    folder = samples()
    answers = {group: classified(model, folder, group) for group, _, _ in GROUPS}
    done(1)
    store = open_index(index_of(out, model))
    store.add(folder, model)
    store.prune()
    hits = {text: store.search(text, HITS, model=model) for text in SENTENCES}
    done(2)
    maps = [model.heatmap(folder / name, [text]) for name, text in POINTED]
    maps += [speaker.heatmap(folder / name, [text]) for name, text in DEFECTS]
    done(3)
    told = [described(speaker, folder, name) for name in ABOUT]
    done(4)
    matrix = model.similarity([folder / name for name in COMPARED], CAPTIONS)
    done(5)
    return Findings(answers, hits, maps, told, np.asarray(matrix))


def samples() -> Path:
    """The folder of the pictures that travel in the package."""
    return Path(str(files("patchword"))) / "assets" / "samples"


def index_of(out: Path, model: Model) -> Path:
    """Where the samples' index of a model lies; it stays for the next run and for the user."""
    return out / f"samples-{model.fingerprint[:8]}"


def classified(model: Model, folder: Path, group: str) -> list[Answer]:
    """What the model says about each sample of a group."""
    words, template = next((w, t) for name, w, t in GROUPS if name == group)
    paths = sorted((folder / group).glob("*.jpg"))
    scores = model.classify(paths, list(words.values()), template)
    truths = [words[path.stem.rpartition("-")[0]] for path in paths]
    return [Answer(*row) for row in zip(paths, truths, scores, strict=True)]


def described(speaker: Model, folder: Path, name: str) -> Told:
    """What a BLIP says about a sample."""
    path, questions = folder / name, ABOUT[name]
    answers = zip(questions, speaker.ask(path, questions), strict=True)
    chances = speaker.match([path], MATCHED).probabilities[0].tolist()
    return Told(
        name,
        speaker.caption([path])[0].text,
        tuple((question, answer.text) for question, answer in answers),
        tuple(zip(MATCHED, chances, strict=True)),
    )


def records(found: Findings) -> Iterator[dict[str, Any]]:
    """The findings as lines of JSON."""
    for group, answers in found.answers.items():
        for answer in answers:
            name, best = f"{group}/{answer.path.name}", answer.scores[0]
            said = {"label": best.label, "probability": best.probability, "truth": answer.truth}
            yield {"job": "classify", "image": name, **said}
    for sentence, hits in found.hits.items():
        for hit in hits:
            yield {"job": "search", "query": sentence, "path": hit.path, "score": hit.score}
    for (name, text), heat in zip((*POINTED, *DEFECTS), found.heatmaps, strict=True):
        value, x, y = peak(heat.values[0])
        where = {measure(heat): value, "x": x, "y": y}
        yield {"job": "heatmap", "image": name, "text": text, **where}
    for told in found.told:
        yield {"job": "caption", "image": told.name, "caption": told.caption}
        for question, word in told.answers:
            yield {"job": "ask", "image": told.name, "question": question, "answer": word}
        for text, chance in told.matches:
            yield {"job": "match", "image": told.name, "text": text, "probability": chance}
    for name, row in zip(COMPARED, found.matrix.tolist(), strict=True):
        pairs = [{"text": t, "cosine": c} for t, c in zip(CAPTIONS, row, strict=True)]
        yield {"job": "similarity", "image": name, "texts": pairs}
