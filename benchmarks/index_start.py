"""Start of an index of generated vectors: time and memory from the start of a process to its first
answer.

    python benchmarks/index_start.py --folder F [--rows 1000000] [--rounds 5] [--cold]

Four processes in turn; medians of rounds, after one that fills the disk cache. Python that only
imports torch and LanceDB; Python that opens the index and searches by a vector; Python that opens
the index and its model, a CLIP ViT-B/32 with random weights, and searches by a text; and `patchword
search INDEX TEXT`. --cold: the index's files are not in memory. Memory is that at the end of the
process: resident; the part that is no page of a file; and the largest resident. The folder keeps
the table for another run.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from index import World, store_of, vectors_of
from serve import named

import patchword

MEMORY = """
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*(int(fields[name].split()[0]) // 1024 for name in ("VmRSS", "RssAnon", "VmHWM")))
"""
VECTOR = """
import sys
import numpy as np
from patchword.index.nearest import Nearest
from patchword.index.table import Store
store = Store(sys.argv[1])
query = np.ones(int(store.required_metadata()["dim"]))
search = Nearest(store)
search.find(query[None] / np.linalg.norm(query), 10)
"""
TEXT = """
import sys
import patchword
index = patchword.open_index(sys.argv[1])
index.search("a red ring")
"""


def run(command: list[str]) -> tuple[float, float, str]:
    """Run a command. Returns wall-clock seconds, CPU seconds, and the last line of its output."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(command, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == 0, process.stderr
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, (process.stdout.splitlines() or [""])[-1]


def forget(folder: Path) -> None:
    """Remove the files of a folder from the disk cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(exist_ok=True)
    model_folder = folder / "clip-b32"
    if not model_folder.exists():
        with named("clip-b32") as original:
            patchword.save(patchword.load(original), model_folder)
    model = patchword.load(model_folder)
    vectors = vectors_of(folder, World(model.dim), options.rows, model.dim)
    store_folder = folder / "of-clip"
    store_folder.mkdir(exist_ok=True)
    store = Path(store_of(store_folder, vectors, str(model_folder), model.fingerprint).path)
    python = [sys.executable, "-c"]
    commands = {
        "torch and LanceDB alone": [*python, "import torch, lancedb" + MEMORY],
        "Python, a vector": [*python, VECTOR + MEMORY, str(store)],
        "Python, a text": [*python, TEXT + MEMORY, str(store)],
        "patchword search": [sys.executable, "-m", "patchword", "search", str(store), "a red ring"],
    }
    results: dict[str, list[tuple[float, float, str]]] = {name: [] for name in commands}
    for number in range(options.rounds + 1):
        for name, command in commands.items():
            if options.cold:
                forget(store)
            measured = run(command)
            if number:  # the first round warms up
                results[name].append(measured)
    for name, runs in results.items():
        wall, cpu = (statistics.median(run[i] for run in runs) for i in (0, 1))
        memory = "" if name == "patchword search" else f"; MiB {runs[-1][2]}"
        print(f"{name}: {wall:.2f} s, {cpu:.2f} s of CPU{memory}", flush=True)


if __name__ == "__main__":
    main()
