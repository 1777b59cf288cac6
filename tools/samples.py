"""Draw the samples, and write their captions: all files except the README.

python tools/samples.py FOLDER      (make samples: into samples)

Wafers are scenes `8 * class + n` of seed 2026. Shapes are the first scenes of seed 2027 of each
kind: one shape, each of the eight in another colour; two shapes, one of them clearly to one side of
the other; three shapes. No model took part in the choice.
"""

import argparse
import csv
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from patchword.scenes import WAFER_CLASSES, Scene, scene
from patchword.scenes.captions import caption

SIDE = 256  # pixels
WAFER_SEED, SHAPES_SEED = 2026, 2027
WAFERS = {"perfect": 3, "scratch": 4, "particles": 4, "stain": 4, "edge-chip": 3}  # of each class
SINGLES, PAIRS, TRIPLES = 8, 8, 6
DRAFTS = 400  # captions to generate for each scene, of which one is kept


def wafers() -> Iterator[tuple[str, Scene]]:
    """(file name, scene)."""
    for number, (name, count) in enumerate(WAFERS.items()):
        for n in range(1, count + 1):
            drawn = scene(WAFER_SEED, 8 * number + n, SIDE, label=WAFER_CLASSES[number])
            yield f"wafers/{name}-{n}.jpg", drawn


def shapes() -> Iterator[tuple[str, Scene]]:
    """(file name, scene): the file is named after the scene's label, without articles."""
    missing = {1: SINGLES, 2: PAIRS, 3: TRIPLES}
    used: set[object] = set()  # shapes and colours of scenes with one shape
    for n in itertools.count():
        facts = scene(SHAPES_SEED, n, 32, "shapes").facts
        count = int(facts["count"])
        first_shape = {facts["colour 1"], facts["shape 1"]}
        if not missing[count] or (count == 1 and used & first_shape):
            continue
        if count == 2 and "relation 1 2" not in facts:
            continue
        missing[count] -= 1
        if count == 1:
            used |= first_shape
        drawn = scene(SHAPES_SEED, n, SIDE, "shapes")
        words = re.sub(r"\ban? |,", "", drawn.label)
        yield f"shapes/{words.replace(' ', '-')}.jpg", drawn
        if not any(missing.values()):
            return


def best_caption(drawn: Scene) -> str:
    """A generated caption: the shortest of those that state the most facts."""
    rng = np.random.default_rng(0)
    drafts = [caption(rng, drawn.facts) for _ in range(DRAFTS)]
    return max(drafts, key=lambda draft: (draft[1].count(";"), -len(draft[0])))[0]


def write(folder: Path) -> None:
    """Write the pictures and captions.csv."""
    pictures = sorted([*shapes(), *wafers()], key=lambda picture: picture[0])
    for name, drawn in pictures:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image).save(path, quality=90, optimize=True)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file_name", "caption"))
        table.writerows((name, best_caption(drawn)) for name, drawn in pictures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
