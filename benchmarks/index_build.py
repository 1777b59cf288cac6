"""Build an index: time, memory and disk, from vectors, from photos with damage and kills, and
beside the machine's limit.

    python benchmarks/index_build.py vectors [--rows 1000000] [--dim 512]
    python benchmarks/index_build.py photos [--photos 10000] [--kills 5]
    python benchmarks/index_build.py limit [--photos 20000]

vectors: `Index.put` of random unit vectors in float16, mapped from a file, into a new index in one
commit; then 10,000 more; then two of these changed.

photos: generated JPEGs of 640 x 480, 5% of them damaged in four ways. `patchword index` with the
embedded model is killed at random moments and run again; then one run to the end, and one more that
finds nothing to do.

limit: photos without damage, in one `patchword index`; beside the least that the machine must do
for them: decode each, resize it and make its thumbnail, by Pillow on every core, and then run the
network on all cores.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import patchword
from patchword.images.files import File
from patchword.images.reading import thumbnail
from patchword.index import open_index, putting
from patchword.index.schema import id_of

BLOCK = 100_000  # rows generated at a time
BAD = 20  # every 20th photo is damaged
SIDE = 96  # pixels that the embedded model sees
FEW = 640  # photos to measure the limit with


def measure(what: str, function: Callable[..., object], *arguments: object) -> None:
    """Call a function, and print wall-clock and CPU seconds and the peak of memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    function(*arguments)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"  {what:<44}{seconds:8.1f} s {cpu:8.1f} s CPU   peak {after.ru_maxrss / 2**20:5.2f} GiB"
    )


def size_of(folder: Path) -> float:
    """MB of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def files_of(paths: list[str]) -> list[File]:
    """Files of unknown size and time, because they do not exist."""
    return [File(path, 0, 0) for path in paths]


def vectors(folder: Path, rows: int, dim: int) -> None:
    """Measure `Index.put` and further operations on vectors."""
    rng = np.random.default_rng(0)
    file = folder / "v.npy"
    stored = np.lib.format.open_memmap(file, "w+", np.float16, (rows, dim))
    for start in range(0, rows, BLOCK):
        block = rng.standard_normal((min(BLOCK, rows - start), dim), np.float32)
        stored[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    stored.flush()
    del stored
    paths = [f"/photos/{i // 1000:05d}/{i:07d}.jpg" for i in range(rows)]
    index = open_index(folder / "index")
    model = {"model": "random", "fingerprint": "0", "options": {}}
    print(f"{rows} x {dim} float16 vectors, {size_of(folder):.0f} MB")
    mapped = np.load(file, mmap_mode="r")
    measure("put all", putting.put, index._store, files_of(paths), mapped, None, model)
    print(f"  on disk {size_of(folder / 'index'):.0f} MB")
    more = [f"/more/{i}.jpg" for i in range(10_000)]
    measure(
        "put 10,000 more", putting.put, index._store, files_of(more), mapped[:10_000], None, model
    )
    measure(
        "replace 10,000", putting.put, index._store, files_of(more), mapped[5:10_005], None, model
    )
    measure("one column for 10,000", index.fill, more, {"price": list(range(10_000))})
    measure("paths, sizes and times of all", index.paths)
    ids = [id_of(path) for path in paths[::50_000]]
    measure("20 rows by id, first", index.rows, ids)
    measure("20 rows by id, again", index.rows, ids)
    print(f"  {len(index)} rows, {size_of(folder / 'index'):.0f} MB")


def make_photos(folder: Path, count: int, damage: bool = True) -> int:
    """Write photos, and damage one in BAD. Returns how many are damaged."""
    rng = np.random.default_rng(0)
    bad = 0
    for i in range(count):
        place = folder / f"{i // 1000:02d}" / f"{i:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(place, quality=85)
        if damage and i % BAD == 7:
            content = place.read_bytes()
            kinds = (b"", content[: len(content) // 2], b"no photo", content[:200] + bytes(2000))
            place.write_bytes(kinds[i // BAD % 4])
            bad += 1
    return bad


def run(folder: Path, kill: random.Random | None = None) -> tuple[float, dict[str, Any]]:
    """Run `patchword index`. Returns its seconds, and the counts that it prints, or {} if it was
    killed. kill: draws a random moment after the first commit at which to kill it."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "patchword", "index", str(folder / "photos"), "--into",
         str(folder / "index"), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    index = open_index(folder / "index")
    before = len(index)
    while kill and process.poll() is None and len(index) == before:
        time.sleep(0.1)
    if kill and process.poll() is None:
        time.sleep(kill.uniform(0, 3))
        os.kill(process.pid, signal.SIGKILL)
    out, _ = process.communicate()
    counts = {} if process.returncode < 0 else json.loads(out.splitlines()[-1])
    return time.perf_counter() - start, counts


def photos(folder: Path, count: int, kills: int) -> None:
    """Index photos with damage and kills, and check the index."""
    bad = make_photos(folder / "photos", count)
    draw = random.Random(0)
    index = open_index(folder / "index")
    killed, last = 0, 0
    for _ in range(kills):
        seconds, counts = run(folder, draw)
        if not counts:
            killed += 1
        now = len(index)
        assert now >= last, "rows were lost"
        print(f"  {'done' if counts else 'killed'} after {seconds:5.1f} s: {now} rows")
        last = now
    seconds, counts = run(folder)
    print(f"  the rest, in {seconds:.1f} s: {counts}")
    print(f"  that is {counts['added'] / seconds:.0f} images a second with start and end")
    seconds, counts = run(folder)
    print(f"  once more, nothing to do, in {seconds:.1f} s: {counts}")
    paths = index.paths()
    assert len(paths) == len(set(paths)) == count - bad, (len(paths), count - bad)
    assert len(index.errors()) == bad
    print(
        f"  {len(paths)} rows of {count} photos, {bad} damaged and all named, {killed} kills; "
        f"on disk {size_of(folder / 'index'):.0f} MB"
    )


def by_pillow(file: Path) -> None:
    """Decode a photo, resize it for the embedded model, and make its thumbnail."""
    with Image.open(file) as picture:
        picture.draft("RGB", (2 * SIDE, 2 * SIDE))
        photo = picture.convert("RGB")
    scale = SIDE / min(photo.size)
    photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.BICUBIC)
    thumbnail(photo)


def time_share(folder: str, first: int, step: int) -> float:
    """Seconds of `by_pillow` for each `step`-th photo of a folder, from the `first` on."""
    files = sorted(Path(folder).rglob("*.jpg"))[first::step]
    start = time.perf_counter()
    for file in files:
        by_pillow(file)
    return time.perf_counter() - start


def limit(folder: Path, count: int) -> None:
    """Compare `patchword index` with Pillow and the network alone."""
    make_photos(folder / "photos", count, damage=False)
    few = folder / "few"
    make_photos(few, FEW, damage=False)
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        list(
            pool.map(time_share, [str(few)] * cores, range(cores), [cores] * cores)
        )  # starts the processes
        times = list(pool.map(time_share, [str(few)] * cores, range(cores), [cores] * cores))
    opened = FEW / max(times)
    model = patchword.load("demo")
    pixels = [model.preprocess(np.zeros((SIDE, SIDE, 3), np.uint8))[0]] * 32
    model.engine.encode_image(pixels)
    start = time.perf_counter()
    for _ in range(FEW // 32):
        model.engine.encode_image(pixels)
    network = FEW // 32 * 32 / (time.perf_counter() - start)
    possible = 1 / (1 / opened + 1 / network)
    print(
        f"  opened alone, on {cores} cores: {opened:.0f} photos/s; the network alone {network:.0f}"
    )
    seconds, counts = run(folder)
    assert counts["added"] == count, counts
    rate = count / seconds
    print(
        f"  {count} photos indexed in {seconds:.0f} s with start and end, {rate:.0f} a second, "
        f"{rate / possible:.2f} of the {possible:.0f} that opening and network take together; "
        f"on disk {size_of(folder / 'index'):.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("vectors", "photos", "limit"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--photos", type=int, help="10,000; of the limit 20,000")
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.what == "vectors":
            vectors(folder, options.rows, options.dim)
        elif options.what == "photos":
            photos(folder, options.photos or 10_000, options.kills)
        else:
            limit(folder, options.photos or 20_000)


if __name__ == "__main__":
    main()
