"""How well the methods of `inspect` find defects, and whether their false alarm rate is as
requested.

    python benchmarks/defects.py [--model demo] [--test 20] [--good 20] [--false-alarms 600]
    python benchmarks/defects.py --pcb DATA/deeppcb --short-side 448 [--vit-tiny WEIGHTS]

Wafers are generated scenes with masks that were not used in training. DeepPCB (Tang et al. 2019)
has photos of printed circuits, 640 x 640, each with a photo of the same board without defects, and
boxes around the defects, which serve as masks. Half of the test photos are good: the same wafers
without the defect, or the boards without defects. Methods that learn do so from other good wafers
or boards; `reference` compares each photo with the good one of the same object.

Prints AUROC of images; AUROC of pixels, and AUPRO up to a false positive rate of 0.3; how often the
maximum of a bad photo's map lies in its defect; and CPU seconds for each photo (for `mutual`, in a
batch of four). With --false-alarms, prints the share of so many good wafers that `memory` and
`subspace` reject at rates of 1% and 5%, over 20 random choices of held-out wafers.

(This file is not called inspect.py, because that name would hide Python's own module.)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from embedded_model import SEED
from PIL import Image

import patchword
from patchword.errors import UnsupportedError
from patchword.evaluate.inspection import measures
from patchword.inspect.conformal import threshold
from patchword.inspect.methods import METHODS
from patchword.inspect.protocol import Finding, Method, View
from patchword.inspect.reference import Reference
from patchword.scenes import WAFER_CLASSES, scene

SHOWN = ("image_auroc", "pixel_auroc", "aupro")
DRAWS = 20
Pair = tuple[np.ndarray, np.ndarray, np.ndarray]  # good photo, the same with a defect, mask


def boards(folder: Path) -> list[Pair]:
    """The pairs of DeepPCB, sorted by name."""
    pairs = []
    for path in sorted(folder.glob("*_temp.jpg")):
        name = str(path).removesuffix("_temp.jpg")
        good, photo = read_rgb(f"{name}_temp.jpg"), read_rgb(f"{name}_test.jpg")
        mask = np.zeros(photo.shape[:2], bool)
        for line in Path(f"{name}.txt").read_text().splitlines():
            left, top, right, bottom, _ = map(int, line.replace(",", " ").split())
            mask[top:bottom, left:right] = True
        pairs.append((good, photo, mask))
    return pairs


def read_rgb(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def wafers(count: int, first: int) -> list[Pair]:
    """The same wafers without and with a defect, each kind of defect in turn."""
    perfect, *kinds = WAFER_CLASSES
    pairs = []
    for number in range(first, first + count):
        label = kinds[number % len(kinds)]
        good = scene(SEED, number, 224, "wafer", perfect)
        bad = scene(SEED, number, 224, "wafer", label)
        mask = np.any([thing.mask for thing in bad.objects], axis=0)
        pairs.append((good.image, bad.image, mask))
    return pairs


def findings(
    model: patchword.Model, method: Method, good: Sequence[Pair], test: Sequence[Pair]
) -> list[Finding]:
    """Findings in the good photos of the test, then in the bad ones."""
    if isinstance(method, Reference):
        pairs = [
            list(method.score(model, method.fit(model, [own]), [own, photo]))
            for own, photo, _ in test
        ]
        return [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    photos = [own for own, _, _ in test] + [photo for _, photo, _ in test]
    state = method.fit(model, [own for own, _, _ in good])
    return list(method.score(model, state, photos))


def measure(
    model: patchword.Model, method: Method, good: Sequence[Pair], test: Sequence[Pair]
) -> list[float]:
    """The measures of SHOWN, and how often the maximum of a bad photo's map lies in its defect."""
    results = findings(model, method, good, test)
    maps = [result.geometry.to_source(result.grid) for result in results]
    masks = [np.zeros_like(mask) for _, _, mask in test] + [mask for _, _, mask in test]
    scores = np.array([result.score for result in results])
    bad = np.array([mask.any() for mask in masks])
    values, _ = measures(scores, bad, maps, masks)
    inside = [
        mask[np.unravel_index(each.argmax(), each.shape)]
        for each, mask in zip(maps, masks, strict=True)
        if mask.any()
    ]
    return [*(float(values[name] or 0) for name in SHOWN), float(np.mean(inside))]


def cost(
    model: patchword.Model, method: Method, good: Sequence[Pair], test: Sequence[Pair]
) -> float:
    """CPU seconds to score a photo, after fitting."""
    fit_on = test[:1] if isinstance(method, Reference) else good
    state = method.fit(model, [photo for photo, _, _ in fit_on])
    photos = [photo for _, photo, _ in test[:4]]
    start = time.process_time()
    list(method.score(model, state, photos))
    return (time.process_time() - start) / len(photos)


def rejected_shares(scores: np.ndarray, held: int, rate: float) -> tuple[float, float]:
    """Mean and standard deviation of the share of rejected scores, over random choices of `held`
    scores for the threshold."""
    random, shares = np.random.default_rng(0), []
    for _ in range(DRAWS):
        order = random.permutation(len(scores))
        limit = threshold(scores[order[:held]], rate, None)
        shares.append(np.mean(scores[order[held:]] > limit))
    return float(np.mean(shares)), float(np.std(shares))


def false_alarms(model: patchword.Model, method: Method, good: Sequence[Pair], count: int) -> None:
    """Print the requested false alarm rates, and those among `count` other good wafers."""
    state = method.fit(model, [own for own, _, _ in good])
    others = (scene(SEED + 3, i, 224, "wafer", WAFER_CLASSES[0]).image for i in range(count))
    scores = np.array([each.score for each in method.score(model, state, others)])
    for rate, held in ((0.05, 19), (0.05, 99), (0.01, 99), (0.01, 199)):
        if held < count / 2:
            mean, spread = rejected_shares(scores, held, rate)
            share = f"{mean:.2%} (sd {spread:.2%})"
            print(f"{method.name}: requested {rate:.0%}, held out {held}: {share}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--vit-tiny", type=Path, help="timm's ViT-Tiny of these weights instead")
    parser.add_argument("--pcb", type=Path)
    parser.add_argument("--test", type=int, default=20, help="pairs to test")
    parser.add_argument("--good", type=int, default=20, help="other pairs, to learn from")
    parser.add_argument("--short-side", type=int)
    parser.add_argument("--layer", type=int, action="append", default=[])
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--false-alarms", type=int, default=0, help="number of good wafers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = patchword.load(options.model)
    if options.vit_tiny:
        from probe import vit  # which needs scikit-learn

        model = vit(options.vit_tiny)
    pairs = boards(options.pcb) if options.pcb else wafers(options.test + options.good, 0)
    test, good = pairs[: options.test], pairs[options.test : options.test + options.good]
    view = View(tuple(options.layer), options.short_side)
    print(f"{len(test)} pairs to test, {len(good)} others")
    print("method     image AUROC   pixel AUROC   AUPRO   highest place   s/photo")
    for name in options.methods.split(","):
        own = replace(view, layers=()) if name == "winclip" else view
        method = METHODS[name](view=own)  # type: ignore[call-arg]
        try:
            row = measure(model, method, good, test)
            seconds = cost(model, method, good, test)
        except UnsupportedError as error:
            print(f"{name:10} {error}")
            continue
        print(f"{name:10}", *(f"{share:11.1%}" for share in row), f"{seconds:9.3f}", flush=True)
    for name in ("memory", "subspace") if options.false_alarms else ():
        false_alarms(model, METHODS[name](view=view), good, options.false_alarms)  # type: ignore[call-arg]


if __name__ == "__main__":
    main()
