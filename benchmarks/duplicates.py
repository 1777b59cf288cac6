"""Near-duplicates: how many copies of photos an index finds, and what it takes for a copy wrongly.

    python benchmarks/duplicates.py FOLDER... [--each 100] [--models demo demo-blip]

The photos are the samples, and the first ones of each FOLDER. For each kind of copy an index is
made of the photos and of their copies; a copy is found if it is in a group with its photo. False
are groups of an index of the photos alone, which are printed: they may be real duplicates.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

import patchword

SAMPLES = Path(patchword.__file__).parent / "assets" / "samples"
QUALITY = 90  # of JPEG copies, where nothing else is said
BRIGHTER = 1.15
ORIGINALS, COPIES = "originals", "copies"  # names of folders


def resized(photo: Image.Image, share: float) -> Image.Image:
    return photo.resize((max(round(photo.width * share), 1), max(round(photo.height * share), 1)))


def cropped(photo: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Without a share of the width and of the height, cut off anywhere."""
    width, height = round(photo.width * (1 - share)), round(photo.height * (1 - share))
    left, top = rng.integers(photo.width - width + 1), rng.integers(photo.height - height + 1)
    return photo.crop((left, top, left + width, top + height))


# How a photo is changed, and the quality of the JPEG.
KINDS: dict[str, tuple[Callable[[Image.Image, np.random.Generator], Image.Image], int]] = {
    "JPEG of quality 30": (lambda photo, _: photo, 30),
    "JPEG of quality 10": (lambda photo, _: photo, 10),
    "half the size": (lambda photo, _: resized(photo, 0.5), QUALITY),
    "a quarter": (lambda photo, _: resized(photo, 0.25), QUALITY),
    "brighter": (lambda photo, _: ImageEnhance.Brightness(photo).enhance(BRIGHTER), QUALITY),
    "5% cropped away": (lambda photo, rng: cropped(photo, 0.05, rng), QUALITY),
    "10% cropped away": (lambda photo, rng: cropped(photo, 0.1, rng), QUALITY),
    "20% cropped away": (lambda photo, rng: cropped(photo, 0.2, rng), QUALITY),
}


def groups(model: patchword.Model, *folders: Path) -> list[set[Path]]:
    """The paths of each group of near-duplicates in an index of folders."""
    with tempfile.TemporaryDirectory() as place:
        index = patchword.open_index(Path(place) / "index")
        for folder in folders:
            index.add(folder, model)
        return [
            {Path(copy.path) for copy in (group.keep, *group.others)}
            for group in index.duplicates()
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--each", type=int, default=100, help="photos of each folder")
    parser.add_argument("--models", nargs="+", default=["demo", "demo-blip"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = patchword.find_images(SAMPLES)
    for folder in options.folders:
        names += patchword.find_images(folder)[: options.each]
    with tempfile.TemporaryDirectory() as place:
        originals = Path(place) / ORIGINALS
        originals.mkdir()
        photos = [Image.fromarray(patchword.images.open(name)) for name in names]
        for number, photo in enumerate(photos):
            photo.save(originals / f"{number}.png")
        for kind, (change, quality) in KINDS.items():
            rng = np.random.default_rng(0)
            folder = Path(place) / kind / COPIES
            folder.mkdir(parents=True)
            for number, photo in enumerate(photos):
                change(photo, rng).save(folder / f"{number}.jpg", quality=quality)
        for name in options.models:
            model = patchword.load(name)
            print(f"{name}: {len(photos)} photos")
            for kind in KINDS:
                found = groups(model, originals, Path(place) / kind / COPIES)
                hits = sum(
                    any(
                        {originals / f"{n}.png", Path(place) / kind / COPIES / f"{n}.jpg"} <= group
                        for group in found
                    )
                    for n in range(len(photos))
                )
                print(f"  {kind}: {hits / len(photos):.1%}", flush=True)
            for group in groups(model, originals):
                print("  copies of each other:", *(names[int(path.stem)] for path in sorted(group)))


if __name__ == "__main__":
    main()
