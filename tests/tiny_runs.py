"""Small training runs: recipes, photos to train on, and runs in several processes."""

import json
import os
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torchvision_cpu  # noqa: F401  before transformers, which peft imports

# isort: split
from forked_processes import free_ports, run_ranks, torchrun_environment
from PIL import Image

from patchword.train import loop, monitor, parallel, recipe

ONE_PROCESS = parallel.World(torch.device("cpu"))

TOWERS = """
[model]
embed_dim = 32

[model.preprocess]
size = [32, 32]
resize_to = 32

[model.vision]
image_size = [32, 32]
patch_size = 8
width = 32
depth = 2
heads = 2
mlp_width = 64

[model.text]
vocab_size = 600
context = 32
width = 32
depth = 1
heads = 2
mlp_width = 64
"""

RECIPE = """
out = "{out}"
steps = 12
batch = 12
learning_rate = 2e-3
warmup = 4
ema = 0.9
checkpoint_every = 2

[engine]
device = "cpu"
workers = 0

[[data]]
kind = "scenes"
only = "shapes"
count = 40
{data}
"""

MASKED = """
[model.preprocess]
size = [32, 32]
resize_to = 32

[model.vision]
image_size = [32, 32]
patch_size = 8
positions = "sincos"
width = 32
depth = 2
heads = 2
mlp_width = 64

[model.masked]
width = 32
depth = 1
heads = 2
mlp_width = 64
"""

DENSE = (
    TOWERS
    + """
[model.dense_head]
layers = [0, 1]
size = 32
"""
)

# For each objective the tables of the model, and changes to RECIPE.
OBJECTIVES = {
    "contrastive": (TOWERS, []),
    "sigmoid": (TOWERS, ["objective=sigmoid"]),
    "masked": (MASKED, ["objective=masked"]),
    "classification": (TOWERS, ["objective=classification", "data.0.only=wafer"]),
    "dense": (DENSE, ["objective=dense"]),
}


def write(folder: Path, objective: str = "contrastive", data: str = "") -> Path:
    """Write the recipe of an objective in `folder`. data: further keys of its data source."""
    model, _ = OBJECTIVES[objective]
    file = folder / f"{objective}.toml"
    file.write_text(RECIPE.format(out=folder / "run", data=data) + model)
    return file


def load(file: Path, *changes: str) -> recipe.Recipe:
    """Load a recipe that `write` wrote, with its objective and further changes."""
    return recipe.load(file, [*OBJECTIVES[file.stem][1], *changes])


def run_and_batches(file: Path, *changes: str) -> tuple[loop.Run, list]:
    """A run in this process, and its first batches on its device."""
    run = loop.Run(load(file, *changes), ONE_PROCESS)
    return run, [run.on_device(batch) for batch in islice(run.batches(0), 3)]


def photos(folder: Path) -> Path:
    """Write two classes of twelve photos each, which differ by colour."""
    rng = np.random.default_rng(0)
    for name, colour in (("a-hat", (200, 40, 40)), ("b-shirt", (40, 40, 200))):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(rng.normal(colour, 30, (40, 50, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def curve(folder: Path) -> dict[int, float]:
    """The losses of a run, by step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


Runs = list[tuple[str, list[str]]]  # for each run the recipe's file and changes


def _run_rank(rank: int, world: int, ports: list[int], runs: Runs) -> None:
    torch.set_num_threads(1)
    monitor.curves = lambda path, rows: (
        None
    )  # as in conftest: drawing takes as long as the training
    for port, (file, changes) in zip(ports, runs, strict=True):
        os.environ.update(torchrun_environment(rank, world, port))
        loop.train(load(Path(file), *changes))


def train_in_processes(world: int, runs: Runs) -> None:
    """Train one run after another in `world` processes, as torchrun would start them."""
    run_ranks(_run_rank, world, world, free_ports(len(runs)), runs)
