"""Engines beside each other: speed, and how far each is from torch in float32.

    python benchmarks/engines.py [MODEL] [--photos FOLDER] [--rounds 5] [--only openvino ...]

MODEL: as `patchword.load` takes it; by default CLIP ViT-B/32 of random weights. Images/s of
preprocessed images at batch 1 and 32, texts/s of 64 texts of 9 ids, medians of rounds in turn;
agreement over the photos (by default 64 generated scenes): the least and the mean cosine to torch's
float32 vectors, and how often the nearest other photo is the same one.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before transformers, which imports torchvision
import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel
# isort: on

import patchword
from patchword.images.files import find
from patchword.scenes import scene

WAYS = [
    ("torch", "float32"),
    ("compile", "float32"),
    ("openvino", "float32"),
    ("onnx", "float32"),
    ("torch", "bfloat16"),
    ("compile", "bfloat16"),
    ("openvino", "bfloat16"),
]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def nearest(vectors: np.ndarray) -> np.ndarray:
    """The number of the nearest other row of each."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    return cosines.argmax(axis=1)


def main(source: str, photos: list, rounds: int, only: list[str]) -> None:
    ways = [(engine, dtype) for engine, dtype in WAYS if not only or engine in only]
    models = {way: patchword.load(source, engine=way[0], dtype=way[1]) for way in ways}
    plain = patchword.load(source)
    opened = [plain.open(photo)[0] for photo in photos]
    jobs: dict[str, Callable[[patchword.Model], object]] = {
        "batch 1": lambda model: model.engine.encode_image(opened[:1]),
        "batch 32": lambda model: model.engine.encode_image(opened[:32]),
    }
    counts = {"batch 1": 1, "batch 32": 32}
    if plain.config.text is not None:
        ids = np.random.default_rng(0).integers(5, 500, (64, 9))
        ids[:, -1] = plain.config.text.end_token
        jobs["texts"] = lambda model: model.engine.encode_text(ids)
        counts["texts"] = 64
    times: dict[tuple[str, str, str], list[float]] = {}
    for turn in range(rounds + 2):  # the first two warm up: compile makes two kernels
        for way, model in models.items():
            for job, run in jobs.items():
                spent = seconds(lambda run=run, model=model: run(model))
                if turn > 1:
                    times.setdefault((*way, job), []).append(spent)
    expected = plain.embed_images(photos)
    print(f"{plain.name}, {torch.get_num_threads()} threads, {len(photos)} photos")
    print(
        f"{'':20s}", *(f"{job + ', /s':>12s}" for job in jobs), "least, mean cosine, same nearest"
    )
    for way, model in models.items():
        rates = [counts[job] / statistics.median(times[*way, job]) for job in jobs]
        vectors = model.embed_images(photos)
        cosines = (vectors.astype(np.float64) * expected).sum(axis=1)
        same = (nearest(vectors) == nearest(expected)).mean()
        print(
            f"{' '.join(way):20s}",
            *(f"{rate:12.1f}" for rate in rates),
            f"{cosines.min():.6f}, {cosines.mean():.6f}, {same:.0%}",
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--photos")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.model is None:
            torch.manual_seed(0)
            CLIPModel(CLIPConfig()).save_pretrained(folder)
        if given.photos:
            pictures = [file.path for file in find([given.photos], [])][:200]
        else:
            pictures = [scene(0, index).image for index in range(64)]
        main(given.model or folder, pictures, given.rounds, given.only)
