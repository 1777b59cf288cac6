"""How much each layer's class token attends to objects.

    python benchmarks/class_attention.py MODEL IMAGES MASKS

MODEL is any image tower with attention between all tokens. MASKS is a folder of PNGs with the names
of the images, whose pixels are COCO category numbers: 1 to 90 are objects; others are ground,
walls, sky. Each photo is resized to a square without cropping. For each layer, averaged over heads,
and for the rollout over all layers, prints three numbers: the share of attention on objects, to
compare with their share of pixels; how often the maximum lies on an object; and the average
precision of the map as a score of object pixels.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import patchword
from patchword.evaluate.anomaly_metrics import average_precision

OBJECTS = range(1, 91)  # COCO's category numbers of things


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", patchword.ScopeWarning)
    model = patchword.load(options.model).opening(squash=True)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    areas = []
    for path in sorted(options.masks.glob("*.png")):
        image = next(options.images.glob(f"{path.stem}.*"))
        mask = np.isin(np.asarray(Image.open(path)), list(OBJECTS))
        if not mask.any() or mask.all():
            continue
        areas.append(mask.mean())
        layers = model.attention(image, all_layers=True)
        rolled = model.attention(image, rollout=True)
        titles = [*(f"layer {n}" for n in range(len(layers.maps))), "rollout"]
        for title, values in zip(titles, [*layers.maps, rolled.maps[0]], strict=True):
            top = bool(mask.flat[int(values.argmax())])
            share = float(values[mask].sum() / values.sum())
            precision = average_precision(values.ravel(), mask.ravel())
            rows.setdefault(title, []).append((share, top, precision))
    print(f"{len(areas)} photos, {np.mean(areas):.1%} of their pixels are objects")
    print("             attention on objects   highest on one   average precision")
    for title, values in rows.items():
        share, top, precision = np.mean(values, axis=0)
        print(f"{title:10} {share:19.1%} {top:18.1%} {precision:15.3f}")


if __name__ == "__main__":
    main()
