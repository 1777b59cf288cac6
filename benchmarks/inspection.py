"""How well defects are found from good photos, and whether the false-alarm rate is what was asked.

    python benchmarks/inspection.py [--model demo] [--pcb FOLDER] [--good 40] [--test 40]

For each method image AUROC, pixel AUROC, AUPRO (up to a false positive rate of 0.3) and how often
the highest place of a map lies in the defect, after learning from good wafer scenes; with --pcb of
circuit boards (DeepPCB: NAME_temp.jpg is good, NAME_test.jpg is not, NAME.txt has boxes). And the
share of good photos that is rejected at 1% and 5%, over 20 draws of the photos that are held out.

Scenes have seeds that training did not use.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from embedded_model import SEED

import patchword
from patchword.evaluate.anomaly_metrics import aupro, auroc, pooled
from patchword.images import open as open_image
from patchword.inspect.conformal import threshold
from patchword.inspect.methods import chosen
from patchword.scenes import WAFER_CLASSES, scene

PERFECT = "a perfect wafer"
DRAWS = 20


@dataclass
class Photos:
    """Photos with masks of their defects; of good ones an empty one."""

    images: list[np.ndarray]
    masks: list[np.ndarray]

    @property
    def bad(self) -> np.ndarray:
        return np.array([mask.any() for mask in self.masks])


def wafers(seed: int, count: int, label: str | None = None) -> Photos:
    """Perfect ones, or without a label all kinds of defects in turn."""
    kinds = [kind for kind in WAFER_CLASSES if kind != PERFECT]
    seen = [scene(seed, i, kind="wafer", label=label or kinds[i % 4]) for i in range(count)]
    masks = [
        each.objects[0].mask if each.objects else np.zeros(each.image.shape[:2], bool)
        for each in seen
    ]
    return Photos([each.image for each in seen], masks)


def boards(folder: Path) -> tuple[Photos, Photos]:
    """Clean boards and defective ones."""
    good, bad = Photos([], []), Photos([], [])
    for path in sorted(folder.glob("*_temp.jpg")):
        image = open_image(path)
        good.images.append(image)
        good.masks.append(np.zeros(image.shape[:2], bool))
        bad.images.append(open_image(str(path).replace("_temp", "_test")))
        mask = np.zeros(image.shape[:2], bool)
        text = Path(str(path).replace("_temp.jpg", ".txt")).read_text()
        for x1, y1, x2, y2, _ in (map(int, line.split()) for line in text.splitlines()):
            mask[y1:y2, x1:x2] = True
        bad.masks.append(mask)
    return good, bad


def measured(model: patchword.Model, name: str, good: Photos, test: Photos, **how: object) -> None:
    """One line of a method's measures."""
    method, start = chosen(name, how), time.perf_counter()
    state = method.fit(model, good.images)
    found = list(method.score(model, state, test.images))
    took = time.perf_counter() - start
    maps = [each.geometry.to_source(each.grid) for each in found]
    scores = np.array([each.score for each in found])
    peaks = [
        mask[np.unravel_index(each.argmax(), each.shape)]
        for each, mask in zip(maps, test.masks, strict=True)
        if mask.any()
    ]
    pixels = auroc(*pooled(maps, test.masks))
    print(
        f"{name} {how or ''}: image AUROC {auroc(scores, test.bad):.3f}, pixel AUROC {pixels:.3f}, "
        f"AUPRO {aupro(maps, test.masks):.3f}, highest place in the defect {np.mean(peaks):.0%}, "
        f"{took:.0f} s",
        flush=True,
    )


def rates(scores: np.ndarray, held: int, rate: float) -> tuple[float, float]:
    """Mean and standard deviation, over draws of `held` scores, of the share of the others that is
    rejected."""
    random, got = np.random.default_rng(0), []
    for _ in range(DRAWS):
        order = random.permutation(len(scores))
        limit = threshold(scores[order[:held]], rate, None)
        got.append(np.mean(scores[order[held:]] > limit))
    return float(np.mean(got)), float(np.std(got))


def asked_and_got(model: patchword.Model, name: str, good: Photos, others: Photos) -> None:
    method = chosen(name, {})
    state = method.fit(model, good.images)
    scores = np.array([each.score for each in method.score(model, state, others.images)])
    for rate, held in ((0.05, 19), (0.05, 99), (0.01, 99), (0.01, 199)):
        if held < len(scores) / 2:
            mean, spread = rates(scores, held, rate)
            print(
                f"{name}: asked {rate:.0%}, held out {held}: got {mean:.2%} (sd {spread:.2%}) of "
                f"{len(scores) - held} others, {DRAWS} draws",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--pcb", type=Path)
    parser.add_argument("--good", type=int, default=40)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--others", type=int, default=600)
    given = parser.parse_args()
    model = patchword.load(given.model)
    if given.pcb:
        good, bad = boards(given.pcb)
        half = len(good.images) // 2
        learned = Photos(good.images[:half], good.masks[:half])
        test = Photos(good.images[half:] + bad.images, good.masks[half:] + bad.masks)
        for name in ("memory", "subspace"):
            measured(model, name, learned, test, short_side=448)
        return
    good = wafers(SEED + 1, given.good, PERFECT)
    bad, fine = wafers(SEED, given.test), wafers(SEED + 2, given.test, PERFECT)
    test = Photos(fine.images + bad.images, fine.masks + bad.masks)
    for name in ("memory", "subspace"):
        measured(model, name, good, test)
    depth = len(model.image_tower.layer_names)
    for layer in (depth // 2 - 1, depth - 1):
        measured(model, "memory", good, test, layers=(layer,))
    if given.others:
        others = wafers(SEED + 3, given.others, PERFECT)
        for name in ("memory", "subspace"):
            asked_and_got(model, name, good, others)


if __name__ == "__main__":
    main()
