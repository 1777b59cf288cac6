"""What the embedded model can do, on images it never saw.

    python benchmarks/embedded_model.py [--clothing CLOTHING/validation] [--model demo]

Wafer classes from words, clothing classes from words (one subfolder per class), and the pointing
game (Zhang et al. 2018): how often a heatmap's maximum lies in the named object's mask, beside the
chance of a random point. Scenes have a seed that training did not use.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

import patchword
from patchword.scenes import WAFER_CLASSES, Scene, scene
from patchword.tasks.heatmap import METHODS

SEED = 99


def wafers(model: patchword.Model, count: int) -> None:
    """Accuracy over `count` wafers of each class."""
    labels = [label.removeprefix("a ") for label in WAFER_CLASSES]
    right = defaultdict(float)
    for label in WAFER_CLASSES:
        images = [scene(SEED, i, 256, label=label).image for i in range(count)]
        scores = model.classify(images, labels)
        right[label] = float(np.mean([s[0].label == label.removeprefix("a ") for s in scores]))
    each = ", ".join(f"{label.removeprefix('a ')} {value:.1%}" for label, value in right.items())
    print(f"wafers, 5 classes x {count}: top-1 {np.mean(list(right.values())):.1%} ({each})")


def clothing(model: patchword.Model, folder: Path) -> None:
    """Accuracy over a folder of photos, one subfolder per class."""
    files = sorted(folder.glob("*/*.jpg"))
    scores = model.classify(files, sorted({file.parent.name for file in files}))
    right: dict[str, list[bool]] = defaultdict(list)
    for file, ranked in zip(files, scores, strict=True):
        right[file.parent.name].append(ranked[0].label == file.parent.name)
    total = np.mean([value for values in right.values() for value in values])
    mean = np.mean([np.mean(values) for values in right.values()])
    each = ", ".join(f"{name} {np.mean(values):.0%}" for name, values in sorted(right.items()))
    print(f"clothing, {len(files)} photos: top-1 {total:.1%}, mean per class {mean:.1%} ({each})")


def pointing(model: patchword.Model, kind: str, count: int) -> None:
    """The pointing game over the objects of `count` scenes, per method."""
    hits: dict[str, list[bool]] = defaultdict(list)
    chance = []
    for seen in (scene(SEED, i, kind=kind) for i in range(count)):
        for method in METHODS if seen.objects else ():
            hits[method] += points(model, seen, method)
        chance += [thing.mask.mean() for thing in seen.objects]
    rates = ", ".join(f"{method} {np.mean(found):.1%}" for method, found in hits.items())
    print(f"pointing game, {kind}, {len(chance)} objects: {rates}, chance {np.mean(chance):.1%}")


def points(model: patchword.Model, seen: Scene, method: str) -> list[bool]:
    """For each object whether the maximum of its map lies in its mask."""
    names = [thing.name for thing in seen.objects]
    values = model.heatmap(seen.image, names, method).values
    best = np.nanargmax(values.reshape(len(values), -1), axis=1)
    masks = [thing.mask for thing in seen.objects]
    return [bool(mask.flat[at]) for mask, at in zip(masks, best, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clothing", type=Path)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    model = patchword.load(options.model)
    wafers(model, options.count)
    if options.clothing:
        clothing(model, options.clothing)
    for kind in ("wafer", "shapes"):
        pointing(model, kind, options.count)


if __name__ == "__main__":
    main()
