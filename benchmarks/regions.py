"""How accurately `segment` and `locate` find the requested objects.

    python benchmarks/regions.py [--model demo] [--scenes 60] [--seed 99] [--methods auto surgery]

On unseen scenes with masks, of coloured shapes and of wafers; each is searched for the objects that
it shows and for two that it does not. segment: the mean intersection over union (IoU) of the
objects' pixels; for each defect on a line of its own. locate: the same for all regions of a text
together; the share of objects whose largest region has a box with an IoU of at least 0.5 with the
object's box; and the shares of the objects, and of the absent texts, for which something was found.

No training used the default seed.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict

import numpy as np
import torch
from embedded_model import SEED
from numpy.typing import NDArray

import patchword
from patchword.scenes import Scene, scene
from patchword.where.locate import Box

ABSENT = 2  # texts without an object in the scene
BOX_IOU = 0.5  # from which a box counts as found

Mask = NDArray[np.bool_]


def overlap(result: Mask, right: Mask) -> float:
    """Intersection over union."""
    return float((result & right).sum() / max((result | right).sum(), 1))


def box_overlap(box: Box, mask: Mask) -> float:
    """Intersection over union of a box with the bounding box of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    result, right = np.zeros_like(mask), np.zeros_like(mask)
    result[box[1] : box[3], box[0] : box[2]] = True
    right[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return overlap(result, right)


def search_texts(seen: Scene, names: list[str], rng: np.random.Generator) -> list[str]:
    """The names of the scene's objects, and some other names."""
    there = [thing.name for thing in seen.objects]
    others = [name for name in names if name not in there]
    return [*there, *rng.permutation(others)[:ABSENT].tolist()]


def measure(
    model: patchword.Model, method: str, kind: str, seed: int, count: int
) -> tuple[list[float], dict[str, float]]:
    """The five measures: of segments, of masks, of boxes, of objects, and of absent texts; and that
    of segments for each name."""
    rng = np.random.default_rng(0)
    scenes = [scene(seed, index, kind=kind) for index in range(count)]
    names = sorted({thing.name for seen in scenes for thing in seen.objects})
    segments: dict[str, list[float]] = defaultdict(list)
    masks, boxes, found, wrong = [], [], [], []
    for seen in scenes:
        texts = search_texts(seen, names, rng)
        segmented = model.segment(seen.image, texts, method=method, templates="{}")
        located = model.locate(seen.image, texts, method=method)
        wrong += [text not in located.missing for text in texts[len(seen.objects) :]]
        for number, thing in enumerate(seen.objects, start=1):
            own = [region for region in located.regions if region.text == thing.name]
            union = np.zeros_like(thing.mask)
            for region in own:
                union |= located.mask(region)
            segments[thing.name].append(overlap(segmented.map == number, thing.mask))
            masks.append(overlap(union, thing.mask))
            boxes.append(bool(own) and box_overlap(own[0].box, thing.mask) >= BOX_IOU)
            found.append(bool(own))
    every = [share for shares in segments.values() for share in shares]
    measures = [float(np.mean(each)) for each in (every, masks, boxes, found, wrong)]
    return measures, {name: float(np.mean(shares)) for name, shares in sorted(segments.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--methods", nargs="+", default=["auto", "surgery"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = patchword.load(options.model)
    print("method     scenes  segment IoU  locate IoU  box recall       found  absent found")
    for method in options.methods:
        for kind in ("shapes", "wafer"):
            measures, by_name = measure(model, method, kind, options.seed, options.scenes)
            print(f"{method:10} {kind:6} {'  '.join(f'{share:10.1%}' for share in measures)}")
            if kind == "wafer":
                print(
                    "  segment IoU:", ", ".join(f"{n} {share:.1%}" for n, share in by_name.items())
                )


if __name__ == "__main__":
    main()
