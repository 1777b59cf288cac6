"""Small defects on large wafers, with and without `--tiles`: defects found, and false alarms.

    python benchmarks/tiles.py [--each 10] [--size 1500] [--shrink 8]

Perfect wafers, and wafers with a scratch, particles or a stain that is --shrink times smaller than
usual, on photos of --size pixels (the models see 96). demo-blip answers "is there ...?" and matches
"a wafer with ..." (found: a probability of at least 0.5); both models classify with five labels
(found: any defect). False alarms are those on perfect wafers.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import patchword
from patchword.scenes import WAFER_CLASSES
from patchword.scenes.base import finish
from patchword.scenes.wafer import DEFECTS, draw_wafer, paint_wafer

KINDS = {"scratch": "a scratch", "particles": "particles", "stain": "a stain"}
SEED = 7000


def wafer(seed: int, size: int, shrink: float, defect: str | None) -> NDArray[np.uint8]:
    """A wafer (size, size, 3), with a small defect within three quarters of its radius, or with
    none."""
    rng = np.random.default_rng(seed)
    drawn, _ = draw_wafer(rng)
    image, present = paint_wafer(drawn, size)
    if defect:
        angle, out = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.75) * drawn.radius
        centre = drawn.centre[0] + out * np.cos(angle), drawn.centre[1] + out * np.sin(angle)
        small = replace(drawn, radius=drawn.radius / shrink, centre=centre)
        DEFECTS[defect](rng, small, image, present)
    return finish(image, drawn.noise, np.random.default_rng(seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--each", type=int, default=10)
    parser.add_argument("--size", type=int, default=1500)
    parser.add_argument("--shrink", type=float, default=8)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    models = {name: patchword.load(name) for name in ("demo", "demo-blip")}
    blip = models["demo-blip"]
    detected: dict[tuple[str, str, str], list[bool]] = {}
    labels = [label.removeprefix("a ").removeprefix("an ") for label in WAFER_CLASSES]
    questions = ["is there a scratch?", "are there particles?", "is there a stain?"]
    for number, kind in enumerate([None, *KINDS] * options.each):
        photo = wafer(SEED + number, options.size, options.shrink, kind)
        shown = kind or "perfect"
        for how, tiles in (("whole", False), ("tiles", True)):
            answers = blip.ask(photo, questions, tiles=tiles)
            match = blip.match(photo, [f"a wafer with {v}" for v in KINDS.values()], tiles=tiles)
            for name, answer, share in zip(KINDS, answers, match.probabilities[0], strict=True):
                if kind in (None, name):
                    detected.setdefault((how, "ask", shown), []).append(answer.text == "yes")
                    detected.setdefault((how, "match", shown), []).append(bool(share >= 0.5))
            for name, model in models.items():
                best = model.classify(photo, labels, tiles=tiles)[0][0].label
                detected.setdefault((how, f"classify, {name}", shown), []).append(best != labels[0])
    for (how, job, shown), hits in sorted(detected.items(), key=lambda item: item[0][1:]):
        print(f"{job:20} {shown:10} {how}: {sum(hits)} of {len(hits)}")


if __name__ == "__main__":
    main()
