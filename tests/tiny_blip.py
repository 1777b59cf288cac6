"""A BLIP small enough for many runs: its recipe, and its gradients in one process and in two."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from forked_processes import free_ports, place, ranks
from torch import Tensor, nn

from patchword import data
from patchword.data import TextBatch
from patchword.train import loop, parallel, recipe

ALONE = parallel.World(torch.device("cpu"))

RECIPE = """
out = "{out}"
objective = "blip"
steps = 5
batch = 8
learning_rate = 2e-3
warmup = 2
ema = 0.9
label_smoothing = 0.1
checkpoint_every = 2

[engine]
device = "cpu"
workers = 0

[blip]
answer = 0.5

[[data]]
kind = "scenes"
only = "shapes"
count = 24
"""

MODEL = """
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
vocab_size = 400
context = 32
width = 32
depth = 2
heads = 2
mlp_width = 64
causal = false
post_norm = true
pool = "first"
head_bias = true
cross_width = 32

[model.blip]
writes_captions = true
shared_decoder = true
matching = true

[model.blip.decoder]
vocab_size = 400
context = 32
width = 32
depth = 2
heads = 2
mlp_width = 64
post_norm = true
cross_width = 32
"""

MOMENTUM = ["blip.momentum=true", "blip.queue=12", "blip.soft_targets_warmup=2"]
APART = ["model.blip.shared_decoder=false", "model.blip.answers_questions=true"]
EVEN = ["blip.match=0"]  # a loss in which nothing is drawn


def write(folder: Path, model: str = MODEL) -> Path:
    """A recipe's file in `folder`; without `model`, one for `init`."""
    file = folder / "blip.toml"
    file.write_text(RECIPE.format(out=folder / "run") + model)
    return file


def some_run(file: Path, *changes: str) -> tuple[loop.Run, list[TextBatch]]:
    """A run and its first batches, in this process."""
    run = loop.Run(recipe.load(file, changes), ALONE)
    loop.training_mode(run.network)
    return run, list(first(run))


def first(run: loop.Run, steps: int = 3) -> Iterator[TextBatch]:
    """The first batches of this process."""
    plan = data.Plan([len(s) for s in run.sources], [1.0], run.recipe.batch, run.recipe.seed)
    collate, world = run.objective.collate(), run.world
    batches = data.batches(run.sources, plan, collate, 0, steps, world.rank, world.size)
    return map(run.seen, batches)


def features(network: nn.Module, batch: TextBatch) -> tuple[np.ndarray, np.ndarray, float]:
    """Unit features of images and texts by the network's ways for users, and its scale."""
    with torch.no_grad():
        image = F.normalize(network.encode_image(batch.pixels).double(), dim=-1)
        text = F.normalize(network.encode_text(batch.ids).double(), dim=-1)
    return image.numpy(), text.numpy(), float(network.logit_scale.detach().exp())


def jolt(run: loop.Run) -> None:
    """Move the weight average away from the weights: else it would be the same network."""
    generator = torch.Generator().manual_seed(3)
    for name, value in run.average.items():
        if value.is_floating_point() and "running" not in name:
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.05)


def gradients(run: loop.Run, batch: TextBatch, step: int) -> dict[str, Tensor]:
    """The loss and every parameter's gradient, which are left zero."""
    loss = run.world.mean(run.backward(run.objective.prepare(batch, step)))
    run.parallel_module.reduce_scalars()
    found = {"loss": loss}
    for name, parameter in run.network.named_parameters():
        gradient = parameter.grad
        found[name] = torch.zeros(parameter.shape)
        if gradient is not None:
            found[name] = parallel.full_tensor(gradient).detach().clone()
    run.optimizer.zero_grad()
    return found


def silent(batch: TextBatch, world: parallel.World) -> TextBatch:
    """None of the rows in the second half has a question: one of two processes has none at all."""
    rows = world.rows(len(batch) * world.size)
    asked = torch.arange(rows.start, rows.stop)[:, None] < len(batch) * world.size // 2
    return replace(batch, has_question=asked)


CASES = {
    "plain": EVEN,
    "silent": EVEN,
    "momentum": [*EVEN, *MOMENTUM],
    "momentum in parts": [*EVEN, *MOMENTUM, "micro_batch=3"],
    "captions": [*EVEN, "blip.contrast=0", "blip.answer=0"],
    "answers": [*EVEN, "blip.contrast=0", "blip.caption=0"],
    "fsdp": [*EVEN, "engine.parallel=fsdp"],
}
Found = list[dict[str, Tensor]]


def several(file: Path, case: str, world: parallel.World) -> Found:
    """`gradients` of three steps of a case, without an update; and the queue in the end."""
    run = loop.Run(recipe.load(file, CASES[case]), world)
    loop.training_mode(run.network)
    if case.startswith("momentum"):
        jolt(run)
    batches = [silent(batch, world) if case == "silent" else batch for batch in first(run)]
    found = [gradients(run, batch, step) for step, batch in enumerate(batches)]
    return [*found, run.objective.state()]


def _work(rank: int, size: int, port: int, file: Path, cases: Sequence[str], out: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(place(rank, size, port))
    with parallel.world("cpu") as world:
        for case in cases:
            found = several(file, case, world)
            torch.save(found, out / f"{case} {rank}.pt")


def together(size: int, file: Path, cases: Sequence[str], out: Path) -> None:
    """`several` in that many processes; each case and rank in a file of `out`."""
    ranks(_work, size, size, *free_ports(1), file, cases, out)
