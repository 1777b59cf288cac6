"""The demo on the samples: generated shapes and wafers, of which the right answers are known."""

from __future__ import annotations

import csv
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from patchword.cli.demo.findings import HITS, Answer, Findings, described, index_of

if TYPE_CHECKING:
    from patchword.api import Model

JOBS = 5
# What the file names of the wafers mean, in words.
WAFERS = {
    "perfect": "perfect wafer",
    "scratch": "wafer with a scratch",
    "particles": "wafer with particles",
    "stain": "wafer with a stain",
    "edge-chip": "wafer with an edge chip",
}
SENTENCES = ("a blue wafer with a scratch", "a green heart", "a wafer with a stain")
# Maps of the model, and those that are a BLIP's.
POINTED = (
    ("shapes/yellow-heart-left-of-purple-square.jpg", "a purple square"),
    ("shapes/yellow-circle-above-blue-star.jpg", "a blue star"),
)
JUDGED = (
    ("wafers/scratch-1.jpg", "a wafer with a scratch"),
    ("wafers/particles-4.jpg", "a wafer with particles"),
    ("wafers/stain-3.jpg", "a wafer with a stain"),
    ("shapes/black-heart-orange-triangle-and-red-crescent.jpg", "a red crescent"),
)
COMPARED = {  # with a caption of each
    "shapes/red-ring.jpg": "a red ring",
    "shapes/white-square.jpg": "a white square",
    "shapes/green-ring-above-black-triangle.jpg": "a green ring above a black triangle",
    "shapes/yellow-circle-above-blue-star.jpg": "a yellow circle above a blue star",
    "wafers/perfect-1.jpg": "a perfect wafer",
    "wafers/scratch-1.jpg": "a wafer with a scratch",
    "wafers/stain-1.jpg": "a wafer with a stain",
    "wafers/particles-1.jpg": "a wafer with particles",
}
# What is asked about a picture that is described, and which sentences it is matched with.
ABOUT = {
    "wafers/scratch-1.jpg": ("what defect does the wafer have?", "what colour is the wafer?"),
    "wafers/stain-1.jpg": ("is the wafer perfect?", "where is the stain?"),
    "wafers/particles-1.jpg": ("is there a scratch?", "are there few or many particles?"),
    "shapes/yellow-circle-above-blue-star.jpg": ("what is above the blue star?",),
    "shapes/black-heart-orange-triangle-and-red-crescent.jpg": (
        "how many shapes are there?",
        "what colour is the triangle?",
    ),
}
MATCHED = (
    "a wafer with a scratch",
    "a wafer with a stain",
    "a yellow circle above a blue star",
    "a blue star above a yellow circle",
)
NOTES = {
    "Where is it?": "The first two maps are the model's; the others are a BLIP's, and show what "
    "its judgement of the sentence hangs on. These pictures were chosen because their maps are "
    "good.",
    "What is there?": "The embedded BLIP knows wafers, coloured shapes and ten kinds of clothing.",
}


def run(model: Model, speaker: Model, out: Path, done: Callable[[int], None]) -> Findings:
    """Do every job, with a BLIP for words and for the maps of JUDGED; `done(n)` is called after the
    n-th of `JOBS`."""
    import numpy as np

    from patchword.index import open_index

    root = folder()
    answers = {"shapes": shapes(model, root), "wafers": wafers(model, root)}
    done(1)
    index = index_of(out, model, root)
    store = open_index(index)
    store.add(root, model)
    store.prune()
    hits = {text: store.search(text, HITS, model=model) for text in SENTENCES}
    done(2)
    maps = [(name, model.heatmap(root / name, [text])) for name, text in POINTED]
    maps += [(name, speaker.heatmap(root / name, [text])) for name, text in JUDGED]
    done(3)
    told = [described(speaker, root, name, asked, MATCHED) for name, asked in ABOUT.items()]
    done(4)
    compared, captions = list(COMPARED), list(COMPARED.values())
    matrix = np.asarray(model.similarity([root / name for name in compared], captions))
    done(5)
    return Findings(
        root,
        sum(map(len, answers.values())),
        answers,
        hits,
        maps,
        told,
        speaker.name,
        compared,
        captions,
        matrix,
        index,
        NOTES,
    )


def folder() -> Path:
    """The folder of the pictures that travel in the package."""
    return Path(str(files("patchword"))) / "assets" / "samples"


def shapes(model: Model, root: Path) -> list[Answer]:
    """Which of the captions of all shapes fits each picture of shapes."""
    with (root / "captions.csv").open(encoding="utf-8", newline="") as file:
        captions = {row["file_name"]: row["caption"] for row in csv.DictReader(file)}
    truths = {root / name: text for name, text in captions.items() if name.startswith("shapes/")}
    scores = model.classify(list(truths), list(truths.values()), "{}")
    return [Answer(*each) for each in zip(truths, scores, truths.values(), strict=True)]


def wafers(model: Model, root: Path) -> list[Answer]:
    """Which of the five classes each wafer is of."""
    paths = sorted((root / "wafers").glob("*.jpg"))
    scores = model.classify(paths, list(WAFERS.values()))
    truths = [WAFERS[path.stem.rpartition("-")[0]] for path in paths]
    return [Answer(*each) for each in zip(paths, scores, truths, strict=True)]
