"""`index --ray` with one worker and with two: images a second.

    chrt -r 1 python benchmarks/ray_index.py [--photos 1200]

Each worker is a raylet with one CPU on this machine. Photos of 640 x 480, the embedded model,
blocks of 32. The rate is that from the first block to the last, when all workers have loaded the
model; the seconds are those of the whole command.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import patchword
from patchword.bundle import Bundle

BLOCK = 32


def photos(folder: Path, count: int) -> None:
    """Write JPEGs of smooth noise, which decode as slowly as photos."""
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = draw.integers(0, 256, (60, 80, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=90)


def measure(folder: Path, into: Path, model: Bundle, workers: int) -> tuple[float, float]:
    """Images a second from the first block to the last, and the seconds of the whole command."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(workers):
        cluster.add_node(num_cpus=1)
    times: list[tuple[float, int]] = []
    start = time.perf_counter()
    try:
        patchword.open_index(into).add(
            folder,
            model,
            lambda done, total: times.append((time.perf_counter(), done)),
            batch=BLOCK,
            ray=cluster.address,
        )
    finally:
        cluster.shutdown()
    (first, done_first), (last, done_last) = times[workers - 1], times[-1]
    return (done_last - done_first) / (last - first), last - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photos", type=int, default=1200)
    count = parser.parse_args().photos
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    os.environ |= {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    os.environ["PYTHONPATH"] = str(Path(patchword.__file__).parents[1])
    model = patchword.load("demo")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        photos(folder, count)
        for workers in (1, 2):
            rate, seconds = measure(folder, Path(name) / f"{workers}.index", model, workers)
            print(f"{workers} workers: {rate:.1f} images/s; {seconds:.1f} s with the start")


if __name__ == "__main__":
    main()
