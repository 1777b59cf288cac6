"""From files to tensors and to vectors: images a second, beside transformers with a DataLoader.

    python benchmarks/pipeline.py [--photos 96] [--large 16] [--real FOLDER]

Peers, as users write them: transformers' processor in a torch DataLoader, with one process and with
one worker for each core, also with Pillow's `draft`; then transformers' ViT-B/32. Limits: decoding
and resizing by Pillow alone, on one core times the number of cores, and with one process for each
core; and the slower of our decoding and our network, each alone. --real: prints the cosines between
vectors with and without `exact` for a folder of real photos.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before transformers, which imports torchvision
import numpy as np
import torch
from decode import SAMPLES, enlarged
from PIL import Image
from rows import Rows, option_parser, median_seconds, rates
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
# isort: on

import patchword

CORES = len(os.sched_getaffinity(0))
SIDE, BATCH = 224, 32
DRAFT = {False: "transformers, a worker a core", True: "transformers with draft, a worker a core"}


class Photos(Dataset):
    """A dataset as users write it: open, convert, process."""

    def __init__(self, files: list[str], draft: bool) -> None:
        self.files, self.draft, self.processor = files, draft, CLIPImageProcessorPil()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        with Image.open(self.files[number]) as picture:
            if self.draft:
                picture.draft("RGB", (2 * SIDE, 2 * SIDE))
            inputs = self.processor(picture.convert("RGB"), return_tensors="pt")
        return inputs["pixel_values"][0]


def decode_and_resize(file: str, draft: bool) -> None:
    """Only decode and resize a photo, by Pillow."""
    with Image.open(file) as picture:
        if draft:
            picture.draft("RGB", (2 * SIDE, 2 * SIDE))
        scale = SIDE / min(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def write_photos(folder: Path, count: int, side: int | None) -> list[str]:
    """Write JPEGs of `side` pixels, or of 12 megapixels if it is None."""
    paths = []
    samples = sorted(SAMPLES.rglob("*.jpg"))
    for number in range(count):
        path = folder / f"{side or 'large'}-{number}.jpg"
        if number >= 4:  # only four different photos, which decode as slowly as others
            path.write_bytes(Path(paths[number % 4]).read_bytes())
        elif side is None:
            path.write_bytes(enlarged(samples[number % len(samples)]))
        else:
            coarse = np.random.default_rng(number).integers(0, 256, (75, 100, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize(
                (side, side * 3 // 4), Image.Resampling.BICUBIC
            )
            picture.save(path, quality=90)
        paths.append(str(path))
    return paths


def networks(
    folder: Path, config: CLIPConfig, device: str = "cpu", dtype: str = "float32"
) -> tuple[patchword.Model, CLIPModel]:
    """The same CLIP with random weights in patchword and in transformers."""
    torch.manual_seed(0)
    theirs = CLIPModel(config).eval()
    theirs.save_pretrained(folder / "clip")
    CLIPImageProcessorPil().save_pretrained(folder / "clip")
    ours = patchword.load(folder / "clip", device=device, dtype=dtype)
    return ours, theirs.to(device, getattr(torch, dtype))


def read(files: list[str], workers: int, draft: bool, network: CLIPModel | None = None) -> None:
    """Read photos with transformers, to tensors or through its network."""
    like = next(network.parameters()) if network else torch.empty(0)
    with torch.inference_mode():
        for batch in DataLoader(Photos(files, draft), BATCH, num_workers=workers):
            if network:
                network.get_image_features(pixel_values=batch.to(like)).pooler_output.cpu()


def to_tensors(
    model: patchword.Model, files: list[str], large: bool, rounds: int, rows: Rows, pool: Pool
) -> float:
    """Add rows from files to tensors. pool: a process for each core. Returns our images/s."""

    def ours(exact: bool = False) -> None:
        for _ in model.run_each(files, lambda batch: batch[:, 0, 0, :1], BATCH, exact):
            pass

    one_process = "transformers, one process"
    alone = "Pillow alone"
    in_processes = "Pillow decoding and resizing alone, a process a core"
    functions: dict[str, Callable[[], object]] = {
        alone: lambda: [decode_and_resize(file, large) for file in files],
        in_processes: lambda: pool.map(
            partial(decode_and_resize, draft=large), files, chunksize=BATCH // 4
        ),
        one_process: lambda: read(files, 0, False),
        **{name: lambda d=draft: read(files, CORES, d) for draft, name in DRAFT.items()},
        "patchword, exact": lambda: ours(True),
        "patchword": ours,
    }
    speed = rates(len(files), median_seconds(functions, rounds))
    what, mine = f"{kind(large)} to tensors", ("patchword", speed["patchword"])
    for name in DRAFT.values():
        rows.add(what, "images/s", (name, speed[name]), mine, limit=1.0)
    rows.add(what, "images/s", (one_process, speed[one_process]), mine, limit=0.0 if large else 5.0)
    exact = ("patchword, exact", speed["patchword, exact"])
    rows.add(what, "images/s", (DRAFT[False], speed[DRAFT[False]]), exact, limit=1.0)
    bound = ("Pillow decoding and resizing alone, times the cores", CORES * speed[alone])
    rows.add(what, "images/s", bound, mine, limit=0.85 if large else 0.8)
    rows.add(what, "images/s", (in_processes, speed[in_processes]), mine)
    return speed["patchword"]


def to_vectors(
    model: patchword.Model, theirs: CLIPModel, files: list[str], large: bool, rounds: int,
    rows: Rows, tensors: float = 0.0,
) -> None:  # fmt: skip
    """Add rows from files to vectors. tensors: our images/s without the network; 0 if not known, so
    that there is no row for this limit."""
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 3, SIDE, SIDE), dtype=np.uint8)
    alone = "patchword, network alone"
    functions: dict[str, Callable[[], object]] = {
        **{name: lambda d=draft: read(files, CORES, d, theirs) for draft, name in DRAFT.items()},
        alone: lambda: [
            model.engine.encode_image(list(pixels[: len(files) - start]))
            for start in range(0, len(files), BATCH)
        ],
        "patchword": lambda: model.embed_images(files),
    }
    speed = rates(len(files), median_seconds(functions, rounds))
    what, mine = f"{kind(large)} to vectors, ViT-B/32", ("patchword", speed["patchword"])
    for name in DRAFT.values():
        rows.add(what, "images/s", (name, speed[name]), mine, limit=1.0)
    if tensors:
        slower = min(("decoding alone", tensors), (alone, speed[alone]), key=lambda limit: limit[1])
        rows.add(what, "images/s", (f"the slower, {slower[0]}", slower[1]), mine, limit=1 / 1.1)


def kind(large: bool) -> str:
    return "JPEGs of 12 megapixels" if large else "JPEGs of 400 px"


def print_cosines(folder: Path, vit: Path | None) -> None:
    """Print the distribution of cosines between vectors with and without `exact`."""
    files = sorted(str(path) for path in folder.rglob("*.jpg"))[:200]
    for name in ["demo", *([str(vit)] if vit else [])]:
        model = patchword.load(name)
        vectors = []
        for exact in (False, True):
            results = model.run_each(files, model.network.encode_image, BATCH, exact)
            rows = np.stack([row for _, row in results])
            vectors.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        cosines = (vectors[0] * vectors[1]).sum(axis=1)
        marks = np.percentile(cosines, [0, 1, 10, 50])
        print(f"{name}, {len(files)} real photos, cosine of fast with exact: least {marks[0]:.4f}, "
              f"1% {marks[1]:.4f}, 10% {marks[2]:.4f}, median {marks[3]:.4f}")  # fmt: skip


def main() -> None:
    parser = option_parser(__doc__)
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--large", type=int, default=16)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--vit", type=Path, help="a classifier to measure, too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # about photos that are cropped
    if options.real:
        print_cosines(options.real, options.vit)
    rows = Rows(options.results)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place, spawn.Pool(CORES) as pool:
        model, theirs = networks(Path(place), CLIPConfig())
        small = write_photos(Path(place), options.photos, 400)
        for large in (False, True):
            files = write_photos(Path(place), options.large, None) if large else small
            # Many photos, so that the start of workers counts little.
            many = files * (2 if large else 16)
            tensors = to_tensors(model, many, large, options.rounds, rows, pool)
            to_vectors(model, theirs, files, large, options.rounds, rows, tensors)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        more = small * (2000 // len(small))
        for _ in model.run_each(more, lambda batch: batch[:, 0, 0, :1]):
            pass
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"peak memory over {len(more)} more images: +{grown:.0f} MB")


if __name__ == "__main__":
    main()
