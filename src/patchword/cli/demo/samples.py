"""The demo on the samples: generated shapes and wafers, of which the right answers are known."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from patchword.cli.demo.findings import (
    HITS,
    Answer,
    Findings,
    describe,
    index_path,
    labels_argument,
)
from patchword.cli.program import near

if TYPE_CHECKING:
    from patchword.api import Model

JOBS = 5
# The labels of the wafers, by what their file names begin with.
WAFERS = {
    "perfect": "perfect wafer",
    "scratch": "wafer with a scratch",
    "particles": "wafer with particles",
    "stain": "wafer with a stain",
    "edge-chip": "wafer with an edge chip",
}
SENTENCES = ("a blue wafer with a scratch", "a green heart", "a wafer with a stain")
# Pictures and texts of heatmaps: by a BLIP (MATCHED) and by the model (POINTED). For each kind of
# defect, and for shapes beside others, they are those whose map lies most on the object that the
# text names, or within half a patch of it.
MATCHED = (
    ("wafers/stain-3.jpg", "a wafer with a stain"),
    ("wafers/particles-4.jpg", "a wafer with particles"),
    ("wafers/edge-chip-1.jpg", "a wafer with an edge chip"),
    ("wafers/scratch-1.jpg", "a wafer with a scratch"),
)
POINTED = (
    ("shapes/green-ring-above-black-triangle.jpg", "a black triangle"),
    ("shapes/yellow-circle-above-blue-star.jpg", "a blue star"),
)
COMPARED = {  # pictures and their captions, which are compared with each other
    "shapes/red-ring.jpg": "a red ring",
    "shapes/white-square.jpg": "a white square",
    "shapes/green-ring-above-black-triangle.jpg": "a green ring above a black triangle",
    "shapes/yellow-circle-above-blue-star.jpg": "a yellow circle above a blue star",
    "wafers/perfect-1.jpg": "a perfect wafer",
    "wafers/scratch-1.jpg": "a wafer with a scratch",
    "wafers/stain-1.jpg": "a wafer with a stain",
    "wafers/particles-1.jpg": "a wafer with particles",
}
# For each described picture the questions, and the sentences that it is matched with, of which the
# first is true.
ABOUT = {
    "wafers/scratch-1.jpg": (
        ("what defect does the wafer have?", "what colour is the wafer?"),
        ("a wafer with a scratch", "a wafer with a stain", "a perfect wafer"),
    ),
    "wafers/stain-1.jpg": (
        ("is the wafer perfect?", "where is the stain?"),
        ("a wafer with a stain", "a wafer with particles", "a perfect wafer"),
    ),
    "wafers/particles-1.jpg": (
        ("is there a scratch?", "are there few or many particles?"),
        ("a wafer with particles", "a wafer with a scratch", "a perfect wafer"),
    ),
    "shapes/yellow-circle-above-blue-star.jpg": (
        ("what is above the blue star?",),
        (
            "a yellow circle above a blue star",
            "a blue star above a yellow circle",
            "a yellow star above a blue circle",
        ),
    ),
    "shapes/black-heart-orange-triangle-and-red-crescent.jpg": (
        ("how many shapes are there?", "what colour is the triangle?"),
        (
            "a black heart over a red crescent, and an orange triangle",
            "a red heart over a black crescent, and an orange triangle",
        ),
    ),
}
NOTES = {
    "Where is it?": "The four maps of wafers are a BLIP's, the others the model's. For each kind "
    "of defect, and for shapes, these are the pictures whose map falls most on the object named.",
    "What is there?": "The embedded BLIP knows wafers, coloured shapes and ten kinds of clothing.",
}


def run(model: Model, describer: Model, out: Path, done: Callable[[int], None]) -> Findings:
    """Do every job. describer: a BLIP, which makes the descriptions and the maps of MATCHED. done:
    called with the number of each of the JOBS when it is done."""
    import numpy as np

    from patchword.index import open_index

    root = folder()
    answers = {"shapes": shapes(model, root), "wafers": wafers(model, root)}
    done(1)
    index = index_path(out, model, root)
    store = open_index(index)
    store.add(root, model)
    store.prune()
    hits = {text: store.search(text, HITS, model=model) for text in SENTENCES}
    done(2)
    heatmaps = [
        (name, by.heatmap(root / name, [text]), by.name)
        for by, pairs in ((describer, MATCHED), (model, POINTED))
        for name, text in pairs
    ]
    done(3)
    descriptions = [
        describe(describer, root, name, questions, texts)
        for name, (questions, texts) in ABOUT.items()
    ]
    done(4)
    compared, captions = list(COMPARED), list(COMPARED.values())
    matrix = np.asarray(model.similarity([root / name for name in compared], captions))
    done(5)
    return Findings(
        root=root,
        count=sum(map(len, answers.values())),
        answers=answers,
        classify=commands(root, answers["shapes"], out),
        hits=hits,
        heatmaps=heatmaps,
        descriptions=descriptions,
        describer=describer.name,
        compared=compared,
        captions=captions,
        matrix=matrix,
        index=index,
        notes=NOTES,
    )


def commands(root: Path, shapes: Sequence[Answer], out: Path) -> dict[str, tuple[str, ...]]:
    """The commands that classify the same pictures with the same labels."""
    captions = labels_argument([str(answer.truth) for answer in shapes], out / "shapes.txt")
    return {
        "shapes": ("classify", near(root / "shapes"), "--labels", captions, "--template", "{}"),
        "wafers": ("classify", near(root / "wafers"), "--labels", ",".join(WAFERS.values())),
    }


def folder() -> Path:
    """The folder of the samples in the package."""
    return Path(str(files("patchword"))) / "assets" / "samples"


def shapes(model: Model, root: Path) -> list[Answer]:
    """The picture of each shape, classified with the captions of all shapes as labels."""
    with (root / "captions.csv").open(encoding="utf-8", newline="") as file:
        captions = {row["file_name"]: row["caption"] for row in csv.DictReader(file)}
    truths = {root / name: text for name, text in captions.items() if name.startswith("shapes/")}
    scores = model.classify(list(truths), list(truths.values()), "{}")
    return [Answer(*each) for each in zip(truths, scores, truths.values(), strict=True)]


def wafers(model: Model, root: Path) -> list[Answer]:
    """The picture of each wafer, classified with the five labels."""
    paths = sorted((root / "wafers").glob("*.jpg"))
    scores = model.classify(paths, list(WAFERS.values()))
    truths = [WAFERS[path.stem.rpartition("-")[0]] for path in paths]
    return [Answer(*each) for each in zip(paths, scores, truths, strict=True)]
