"""From files to tensors and to vectors: images a second, ours beside transformers and a DataLoader.

    python benchmarks/pipeline.py [--photos 96] [--large 16] [--real FOLDER]

Peers, as a user would write them: transformers' processor in a torch DataLoader, by one process and
by as many workers as cores, and the same with Pillow's `draft`; then its ViT-B/32. Limits: decoding
and resizing alone, by Pillow, times the cores. --real: a folder of real photos, of which the cosine
of vectors with and without `exact` is printed as a distribution.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before transformers, which imports torchvision
import numpy as np
import torch
from decode import SAMPLES, enlarged
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
# isort: on

import patchword

CORES = len(os.sched_getaffinity(0))
SIDE, ROUNDS, BATCH = 224, 3, 32


class Photos(Dataset):
    """What a user writes: open, convert, process."""

    def __init__(self, files: list[str], draft: bool) -> None:
        self.files, self.draft, self.processor = files, draft, CLIPImageProcessorPil()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        with Image.open(self.files[number]) as picture:
            if self.draft:
                picture.draft("RGB", (2 * SIDE, 2 * SIDE))
            found = self.processor(picture.convert("RGB"), return_tensors="pt")
        return found["pixel_values"][0]


def in_c(file: str, draft: bool) -> None:
    """Decoding and resizing alone."""
    with Image.open(file) as picture:
        if draft:
            picture.draft("RGB", (2 * SIDE, 2 * SIDE))
        scale = SIDE / min(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def written(folder: Path, count: int, side: int | None) -> list[str]:
    """So many JPEGs: of 400 pixels, or of 12 megapixels."""
    made = []
    samples = sorted(SAMPLES.rglob("*.jpg"))
    for number in range(count):
        path = folder / f"{side or 'large'}-{number}.jpg"
        if number >= 4:  # the same content under another name: decoding takes as long
            path.write_bytes(Path(made[number % 4]).read_bytes())
        elif side is None:
            path.write_bytes(enlarged(samples[number % len(samples)]))
        else:
            large = np.random.default_rng(number).integers(0, 256, (75, 100, 3), dtype=np.uint8)
            picture = Image.fromarray(large).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
            picture.save(path, quality=90)
        made.append(str(path))
    return made


def networks(folder: Path) -> tuple[patchword.Model, CLIPModel]:
    """ViT-B/32 with random weights, ours and theirs."""
    torch.manual_seed(0)
    theirs = CLIPModel(CLIPConfig()).eval()
    theirs.save_pretrained(folder / "clip")
    CLIPImageProcessorPil().save_pretrained(folder / "clip")
    return patchword.load(folder / "clip"), theirs


def seconds(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median of each, all in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def target(name: str, value: float, limit: float, least: bool = True) -> None:
    met = value >= limit if least else value <= limit
    sign = ">=" if least else "<="
    print(f"  {'met ' if met else 'MISS'}  {name}: {value:.2f} (target {sign} {limit})")


def compared(model: patchword.Model, theirs: CLIPModel, files: list[str], large: bool) -> None:
    """files go through the whole, and `many` to tensors, so that starting workers counts little."""
    many = files * (2 if large else 16)

    def peer(workers: int, draft: bool, run: bool) -> None:
        loader = DataLoader(Photos(files if run else many, draft), BATCH, num_workers=workers)
        with torch.inference_mode():
            for batch in loader:
                if run:
                    theirs.get_image_features(pixel_values=batch)

    def ours(exact: bool = False) -> None:
        for _ in model.run_each(many, lambda batch: batch[:, 0, 0, :1], BATCH, exact):
            pass

    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 3, SIDE, SIDE), dtype=np.uint8)
    network = range(0, len(files), BATCH)
    alone = {"Pillow alone, one core": lambda: [in_c(file, large) for file in many]}
    to_tensor = {
        "transformers, one process": lambda: peer(0, False, False),
        f"transformers, {CORES} workers": lambda: peer(CORES, False, False),
        f"transformers, draft, {CORES} workers": lambda: peer(CORES, True, False),
        "patchword, exact": lambda: ours(True),
        "patchword": ours,
    }
    whole = {
        f"transformers, {CORES} workers, model": lambda: peer(CORES, False, True),
        f"transformers, draft, {CORES} workers, model": lambda: peer(CORES, True, True),
        "patchword, model alone": lambda: [
            model.engine.encode_image(list(pixels[: len(files) - start])) for start in network
        ],
        "patchword, model": lambda: model.embed_images(files),
    }
    found = seconds(alone | to_tensor | whole)
    kind = "12 megapixels" if large else "400 px"
    print(f"{len(files)} JPEGs of {kind}, {CORES} cores, images/s")
    for name, each in found.items():
        count = len(files if name in whole else many)
        print(f"  {name:<44}{count / each:8.1f}")
    bound = found["Pillow alone, one core"] / CORES
    if not large:
        faster = found["transformers, one process"] / found["patchword"]
        target("to tensors, times transformers' one process", faster, 5)
    target(
        "to tensors, of cores x decoding alone", bound / found["patchword"], 0.85 if large else 0.8
    )
    most = max(found["patchword"] * len(files) / len(many), found["patchword, model alone"])
    target("whole, times max(decoding, model)", found["patchword, model"] / most, 1.1, least=False)
    best = min(each for name, each in found.items() if name in whole and "transformers" in name)
    target("whole, times the best peer", best / found["patchword, model"], 1)


def nearness(folder: Path, vit: Path | None) -> None:
    """Cosines of vectors with and without `exact`."""
    files = sorted(str(path) for path in folder.rglob("*.jpg"))[:200]
    for name in ["demo", *([str(vit)] if vit else [])]:
        model = patchword.load(name)
        rows = []
        for exact in (False, True):
            found = model.run_each(files, model.network.encode_image, BATCH, exact)
            rows.append(np.stack([row for _, row in found]))
        fast, whole = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in rows)
        cosines = (fast * whole).sum(axis=1)
        marks = np.percentile(cosines, [0, 1, 10, 50])
        print(f"{name}, {len(files)} real photos, cosine of fast with exact: least {marks[0]:.4f}, "
              f"1% {marks[1]:.4f}, 10% {marks[2]:.4f}, median {marks[3]:.4f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--large", type=int, default=16)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--vit", type=Path, help="of a classifier, beside the embedded model")
    given = parser.parse_args()
    if given.real:
        nearness(given.real, given.vit)
    with tempfile.TemporaryDirectory() as place:
        model, theirs = networks(Path(place))
        small = written(Path(place), given.photos, 400)
        compared(model, theirs, small, large=False)
        compared(model, theirs, written(Path(place), given.large, None), large=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in model.run_each(small * (2000 // len(small)), lambda batch: batch[:, 0, 0, :1]):
            pass
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"peak memory over {2000 // len(small) * len(small)} more images: +{grown:.0f} MB")


if __name__ == "__main__":
    main()
