"""How well the methods of `inspect` find defects.

    python benchmarks/defects.py --pcb DATA/deeppcb [--boards 6]
    python benchmarks/defects.py [--model demo] [--wafers 20]

DeepPCB (Tang et al. 2019): photos of printed circuits, 640 x 640, each with a template of the same
board without defects, and boxes around its defects, which stand for masks. Methods that learn do so
from the templates of other boards; `reference` looks at each photo beside its own template. Wafers
are scenes that no training saw, with their masks; `reference` has the same wafer before its defect.

Half of the test is good: templates, and wafers without defects. Of images AUROC, of pixels AUROC
and AUPRO up to a false positive rate of 0.3; and seconds of one core's time for each photo, of
`mutual` in a batch of four.

(This file is not called inspect.py: Python's own module of that name is imported from here.)
"""

from __future__ import annotations

import argparse
import tempfile
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
from patchword.evaluate.inspection import Inspecting, category, measures
from patchword.inspect.methods import METHODS
from patchword.inspect.protocol import Method, View
from patchword.inspect.reference import Reference
from patchword.scenes import WAFER_CLASSES, scene

SHOWN = ("image_auroc", "pixel_auroc", "aupro")
Pair = tuple[np.ndarray, np.ndarray, np.ndarray]  # golden photo, photo with a defect, mask


def boards(folder: Path) -> list[Pair]:
    """The pairs of DeepPCB, by name."""
    found = []
    for path in sorted(folder.glob("*_temp.jpg")):
        name = str(path).removesuffix("_temp.jpg")
        golden, photo = (opened(f"{name}{end}") for end in ("_temp.jpg", "_test.jpg"))
        mask = np.zeros(photo.shape[:2], bool)
        for line in Path(f"{name}.txt").read_text().splitlines():
            left, top, right, bottom, _ = map(int, line.replace(",", " ").split())
            mask[top:bottom, left:right] = True
        found.append((golden, photo, mask))
    return found


def opened(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def wafers(count: int, first: int) -> list[Pair]:
    """The same wafers without and with a defect, each kind in turn."""
    perfect, *kinds = WAFER_CLASSES
    found = []
    for number in range(first, first + count):
        label = kinds[number % len(kinds)]
        golden = scene(SEED, number, 224, "wafer", perfect)
        bad = scene(SEED, number, 224, "wafer", label)
        found.append((golden.image, bad.image, np.any([o.mask for o in bad.objects], axis=0)))
    return found


def written(root: Path, good: Sequence[Pair], test: Sequence[Pair]) -> Path:
    """The layout of MVTec AD."""
    places = [(f"train/good/{n:03}", pair[0]) for n, pair in enumerate(good)]
    for number, (golden, photo, mask) in enumerate(test):
        places += [(f"test/good/{number:03}", golden), (f"test/bad/{number:03}", photo)]
        places.append((f"ground_truth/bad/{number:03}", mask))
    for name, values in places:
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    return root


def beside(model: patchword.Model, method: Method, test: Sequence[Pair]) -> list[float | None]:
    """Of each pair the golden photo and the other one, beside the golden one."""
    scores, maps, masks = [], [], []
    for golden, photo, mask in test:
        found = method.score(model, method.fit(model, [golden]), [golden, photo])
        for finding, own in zip(found, (mask & False, mask), strict=True):
            scores.append(finding.score)
            maps.append(finding.geometry.to_source(finding.grid))
            masks.append(own)
    bad = np.array([mask.any() for mask in masks])
    values, _ = measures(np.array(scores), bad, maps, masks)
    return [values[name] for name in SHOWN]


def cost(
    model: patchword.Model, method: Method, good: Sequence[Pair], test: Sequence[Pair]
) -> float:
    """Seconds of one core's time to score a photo, after learning."""
    learned = test[:1] if isinstance(method, Reference) else good
    state = method.fit(model, [golden for golden, _, _ in learned])
    photos = [photo for _, photo, _ in test[:4]]
    begun = time.process_time()
    list(method.score(model, state, photos))
    return (time.process_time() - begun) / len(photos)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--pcb", type=Path)
    parser.add_argument("--boards", type=int, default=6, help="to test; 4 more to learn from")
    parser.add_argument("--wafers", type=int, default=20, help="to test; as many to learn from")
    parser.add_argument("--short-side", type=int)
    parser.add_argument("--layer", type=int, action="append", default=[])
    parser.add_argument("--methods", default=",".join(METHODS))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model = patchword.load(chosen.model)
    if chosen.pcb:
        pairs = boards(chosen.pcb)
        test, good = pairs[: chosen.boards], pairs[chosen.boards : chosen.boards + 4]
    else:
        test, good = wafers(chosen.wafers, 0), wafers(chosen.wafers, chosen.wafers)
    view = View(tuple(chosen.layer), chosen.short_side)
    print("method     image AUROC   pixel AUROC   AUPRO   s/photo")
    with tempfile.TemporaryDirectory() as folder:
        found = category(written(Path(folder), good, test))
        for name in chosen.methods.split(","):
            own = replace(view, layers=()) if name == "winclip" else view
            method = METHODS[name](view=own)  # type: ignore[call-arg]
            try:
                if isinstance(method, Reference):
                    row = beside(model, method, test)
                else:
                    measured = Inspecting(model).measure(found, method)
                    row = [measured.values[shown] for shown in SHOWN]
                seconds = cost(model, method, good, test)
            except UnsupportedError as error:
                print(f"{name:10} {error}")
                continue
            shares = (f"{share:11.1%}" for share in row)
            print(f"{name:10}", *shares, f"{seconds:9.2f}", flush=True)


if __name__ == "__main__":
    main()
