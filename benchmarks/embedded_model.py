"""What the embedded model can do, on images it never saw.

    python benchmarks/embedded_model.py [--clothing CLOTHING/validation] [--model demo]

Wafer classes from words, clothing classes from words (one subfolder per class), retrieval among
scenes whose captions are true of no other of them, and the pointing game (Zhang et al. 2018): how
often a heatmap's maximum lies in the named object's mask, beside the chance of a random point.
Scenes have a seed that training did not use.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

import patchword
from patchword.scenes import WAFER_CLASSES, Scene, holds, scene
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


def retrieval(model: patchword.Model, count: int = 500) -> None:
    """Recall@1 both ways among `count` scenes of both kinds, each with the generator's caption."""
    kept: list[Scene] = []
    drawn = 0
    while len(kept) < count:
        new = scene(SEED, drawn, 128)
        drawn += 1
        if not any(holds(new.meaning, s.facts) or holds(s.meaning, new.facts) for s in kept):
            kept.append(new)
    cosines = model.similarity([s.image for s in kept], [s.caption for s in kept])
    own = np.arange(count)
    to_text, to_image = (np.mean(cosines.argmax(axis=axis) == own) for axis in (1, 0))
    wafer = sum(s.kind == "wafer" for s in kept)
    print(
        f"scene retrieval, {count} ({wafer} wafers) of {drawn}: recall@1 image to text "
        f"{to_text:.1%}, text to image {to_image:.1%}"
    )


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
    retrieval(model)
    for kind in ("wafer", "shapes"):
        pointing(model, kind, options.count)


if __name__ == "__main__":
    main()
