"""A BLIP small enough for many training runs: its recipe, and its gradients in one process or
several."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from forked_processes import free_ports, run_ranks, torchrun_environment
from tiny_runs import ONE_PROCESS
from torch import Tensor, nn

from patchword.data import TextBatch
from patchword.train import loop, parallel, recipe

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
DETERMINISTIC = ["blip.match=0"]  # without the matching loss, whose negatives are random


def write(folder: Path, model: str = MODEL) -> Path:
    """Write a recipe in `folder`. model: its model tables, or "" for a recipe with `init`."""
    file = folder / "blip.toml"
    file.write_text(RECIPE.format(out=folder / "run") + model)
    return file


def run_and_batches(file: Path, *changes: str) -> tuple[loop.Run, list[TextBatch]]:
    """A run and its first batches, in this process."""
    run = loop.Run(recipe.load(file, changes), ONE_PROCESS)
    loop.training_mode(run.network)
    return run, first_batches(run)


def first_batches(run: loop.Run) -> list[TextBatch]:
    """The first batches of this process, on its device."""
    return [run.on_device(batch) for batch in islice(run.batches(0), 3)]


def features(network: nn.Module, batch: TextBatch) -> tuple[np.ndarray, np.ndarray, float]:
    """Unit features of images and texts by the network's public methods, and its scale."""
    with torch.no_grad():
        image = F.normalize(network.encode_image(batch.pixels).double(), dim=-1)
        text = F.normalize(network.encode_text(batch.ids).double(), dim=-1)
    return image.numpy(), text.numpy(), float(network.logit_scale.detach().exp())


def perturb_average(run: loop.Run) -> None:
    """Add noise to the weight average, which would otherwise equal the weights."""
    generator = torch.Generator().manual_seed(3)
    for name, value in run.average.items():
        if value.is_floating_point() and "running" not in name:
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.05)


def gradients(run: loop.Run, batch: TextBatch, step: int) -> dict[str, Tensor]:
    """The loss and the gradient of every parameter, by name. Resets the gradients."""
    loss = run.world.mean(run.backward(run.objective.prepare(batch, step)))
    run.parallel_module.reduce_scalars()
    results = {"loss": loss}
    for name, parameter in run.network.named_parameters():
        if parameter.grad is None:
            results[name] = torch.zeros(parameter.shape)
        else:
            results[name] = parallel.full_tensor(parameter.grad).detach().clone()
    run.optimizer.zero_grad()
    return results


def half_without_questions(batch: TextBatch, world: parallel.World) -> TextBatch:
    """The batch without questions in the second half of all rows, so that one of two processes has
    no question at all."""
    total = len(batch) * world.size
    rows = world.rows(total)
    has_question = torch.arange(rows.start, rows.stop)[:, None] < total // 2
    return replace(batch, has_question=has_question)


CASES = {
    "plain": DETERMINISTIC,
    "half without questions": DETERMINISTIC,
    "momentum": [*DETERMINISTIC, *MOMENTUM],
    "momentum in parts": [*DETERMINISTIC, *MOMENTUM, "micro_batch=3"],
    "captions": [*DETERMINISTIC, "blip.contrast=0", "blip.answer=0"],
    "answers": [*DETERMINISTIC, "blip.contrast=0", "blip.caption=0"],
    "fsdp": [*DETERMINISTIC, "engine.parallel=fsdp"],
}


def case_gradients(file: Path, case: str, world: parallel.World) -> list[dict[str, Tensor]]:
    """`gradients` at three steps of a case, without updates of weights, and then the state of the
    objective, with its queue."""
    run = loop.Run(recipe.load(file, CASES[case]), world)
    loop.training_mode(run.network)
    if case.startswith("momentum"):
        perturb_average(run)
    results = []
    for step, batch in enumerate(first_batches(run)):
        if case == "half without questions":
            batch = half_without_questions(batch, world)
        results.append(gradients(run, batch, step))
    return [*results, run.objective.state()]


def _run_rank(rank: int, size: int, port: int, file: Path, cases: Sequence[str], out: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(torchrun_environment(rank, size, port))
    with parallel.process_group("cpu") as world:
        for case in cases:
            torch.save(case_gradients(file, case, world), out / f"{case} {rank}.pt")


def save_case_gradients(size: int, file: Path, cases: Sequence[str], out: Path) -> None:
    """`case_gradients` in `size` processes. Writes "CASE RANK.pt" in `out` for each."""
    run_ranks(_run_rank, size, size, *free_ports(1), file, cases, out)
