"""The training loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as optimizers
from torch.nn.attention import SDPBackend, sdpa_kernel

from patchword import checkpoints, data
from patchword.bundle import Bundle, make
from patchword.config import to_dict
from patchword.data import Batch
from patchword.engines.pixel_values import look_up
from patchword.errors import ImageError, RecipeError, ScopeWarning, warn
from patchword.images.preprocess import Preprocess
from patchword.models import build
from patchword.nn.transformer import Block
from patchword.train import grad_cache, initial_model, lora, objectives, parallel, state
from patchword.train.malloc import peak_memory
from patchword.train.monitor import Monitor
from patchword.train.objectives.base import BatchT, Work
from patchword.train.optimizer import align, clip_scale, groups, learning_rate, warn_of_warmup
from patchword.train.parallel import World
from patchword.train.recipe import Recipe, check_rows
from patchword.train.signals import stop_requested

Report = Callable[[int, dict[str, float]], None]
# Keys that may change when a run continues: computation and monitoring, not what is learned. The
# keys of how init is read may change too: the fingerprint of its weights must not.
MAY_CHANGE = (
    "out", "until", "micro_batch", "checkpoint_every", "keep", "max_broken", "engine", "monitor",
    "weights", "architecture",
)  # fmt: skip

# Of a compiled block: towers, the last blocks, lengths of texts, with gradients and without. After
# torch's own limit, 8, the others would run as they are, and slower.
VERSIONS = 64


@dataclass(frozen=True)
class Trained:
    """The result of a run."""

    folder: Path  # the finished model, for `load`
    step: int  # how many steps are done
    samples: int  # that it was trained on, since it was started or continued
    broken: list[ImageError] = field(default_factory=list)  # samples that were skipped
    stopped: bool = False  # by SIGTERM or Ctrl-C; the same command continues
    images: int = 0  # in its data
    classes: int = 0  # of a classifier


def train(recipe: Recipe, report: Report = lambda step, metrics: None) -> Trained:
    """Run a recipe, or continue it from its last checkpoint: alone, or with the processes that
    `torchrun` started.

    `report(step, metrics)` is called after every step and every evaluation, in the first process.
    The same recipe and machine give the same weights, interrupted or not. Raises RecipeError for
    data or a model that cannot be used, a loss that is no number, too many broken samples, or a
    full disk.
    """
    with data.workers_told(), parallel.world(recipe.engine.device) as world:
        return Run(recipe, world).run(report)


class Run:
    """Network, optimiser and EMA of the weights of one run, in one of its processes."""

    def __init__(self, recipe: Recipe, world: World) -> None:
        check_rows(recipe, world.size)
        self.recipe, self.world, self.out = recipe, world, Path(recipe.out)
        warn_of_warmup(recipe)
        torch.manual_seed(recipe.seed)
        self.init = initial_model.load_init(recipe)
        config = initial_model.model_config(recipe, self.init)
        reads = objectives.KINDS[recipe.objective].reads(recipe)
        texts = recipe.blip.texts if recipe.objective == "blip" else 1
        seen = initial_model.seen(recipe, config)
        self.sources = data.open_sources(recipe.data, seen, reads, texts)
        self.levels = torch.from_numpy(Preprocess(seen).levels).to(world.device)
        self.initial = initial_model.create(recipe, config, self.init, self.sources)
        self.network = self.initial.network.to(world.device)
        if world.size == 1 or recipe.engine.parallel == "ddp":  # FSDP wants contiguous parameters
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.adapter = None
        if recipe.lora:
            self.adapter = lora.folder_of(recipe, self.init, self.initial.config, self.network)
            lora.add(self.network, recipe.lora)
        initial_model.freeze_others(self.network, recipe)
        if recipe.micro_batch and recipe.micro_batch < recipe.batch // world.size:
            grad_cache.warn_of_batch_norms(self.network)
        clip_scale(self.network, self.initial.config)
        if recipe.engine.compile:
            torch._dynamo.config.recompile_limit = VERSIONS
        for block in (each for each in self.network.modules() if isinstance(each, Block)):
            block.recompute = recipe.engine.gradient_checkpointing
            if recipe.engine.compile:
                block.compile()
        self.objective = objectives.make(self.initial, recipe, world)
        self.parallel_module = parallel.ParallelModule(
            self.objective, recipe.engine.parallel, world, self.objective.unused_parameters
        )
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            groups(self.network, recipe.weight_decay), betas=(0.9, 0.98), fused=True
        )
        self.average = {name: each.clone() for name, each in self.trained_tensors()}
        self.objective.average = self.average
        self.broken: dict[str, ImageError] = {}
        self.last_time = time.perf_counter()

    # --- the whole run

    def run(self, report: Report) -> Trained:
        """Train from the last checkpoint, or the beginning, to the end."""
        recipe = self.recipe
        step = first = self.resume()
        batches, stopped = self.batches(step), False
        training_mode(self.network)
        with self.monitoring(step) as monitor, stop_requested() as requested:
            self.evaluate(step, monitor, report)  # if a killed run did not come to it
            for batch in batches:
                values = self.step(step, batch)
                step += 1
                if monitor:
                    monitor.step(step, values)
                    report(step, values)
                stopped = self.exchange(step, batch, requested(), monitor)
                if stopped or step % recipe.checkpoint_every == 0 or step == recipe.last:
                    self.save(step)
                if stopped:
                    break
                self.evaluate(step, monitor, report)
        folder = self.out / "model"
        model = None if stopped else self.result()
        if model:
            checkpoints.save(model, folder)
            if self.init and self.init.scope:
                warn(
                    f"the trained model does not warn of photos and words unlike its training, as "
                    f"{self.init.name} does",
                    ScopeWarning,
                )
        if self.adapter and not stopped:
            average = parallel.full_tensors(self.average.items())
            self.world.from_first(partial(self.adapter.write, self.out / "adapter", average))
        samples = (step - first) * recipe.batch
        images = sum(len(source) for source in self.sources)
        classes = self.initial.config.classes if recipe.objective == "classification" else 0
        return Trained(folder, step, samples, list(self.broken.values()), stopped, images, classes)

    def batches(self, step: int) -> Iterator[Batch]:
        """The batches of this process from `step` to the last."""
        recipe, world = self.recipe, self.world
        plan = data.Plan(
            [len(source) for source in self.sources],
            [source.share for source in recipe.data],
            recipe.batch,
            recipe.seed,
        )
        return data.batches(
            self.sources,
            plan,
            self.objective.collate(),
            step,
            recipe.last,
            world.rank,
            world.size,
            recipe.engine.workers,
            pinned=world.device.type == "cuda",
        )

    @contextmanager
    def monitoring(self, step: int) -> Iterator[Monitor | None]:
        """What writes metrics and evaluates, in the first process; None in the others."""
        model = self.result()
        if model is None:
            yield None
            return
        monitor = Monitor(self.out, self.recipe.monitor, step, self.recipe.last)
        try:
            monitor.check(model, self.init)
            yield monitor
        finally:
            monitor.close()

    def exchange(self, step: int, batch: Batch, requested: bool, monitor: Monitor | None) -> bool:
        """Share with all processes which samples were broken and whether the run is to stop;
        returns whether it is. Raises RecipeError when too many were broken."""
        stop = False
        for broken, stops in self.world.gather((batch.broken, requested)):
            self.broken.update((error.image, error) for error in broken)
            stop = stop or stops
            if monitor:
                monitor.broken(broken)
        if len(self.broken) > self.recipe.max_broken:
            raise RecipeError(
                f"{len(self.broken)} samples could not be read by step {step}, more than "
                f"max_broken = {self.recipe.max_broken}; {self.out / 'broken.jsonl'} names them, "
                f"the last is {list(self.broken.values())[-1]}"
            )
        return stop

    def evaluate(self, step: int, monitor: Monitor | None, report: Report) -> None:
        """Evaluate the EMA of the weights, if it is due at this step; all processes must call."""
        if any(self.world.gather(monitor is not None and monitor.due(step))):
            model = self.result()
            if monitor and model:
                model.own_network.to(self.world.device)
                report(step, monitor.evaluate(step, model))

    # --- one step

    def seen(self, batch: BatchT) -> BatchT:
        """The batch on this process's device, its pixels float32 as the network takes them. One
        byte a pixel goes to the device."""
        batch = batch.to(self.world.device)
        if batch.pixels.is_floating_point():
            return batch
        return replace(batch, pixels=look_up(batch.pixels, self.levels))

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """One update of the weights; its metrics. Raises RecipeError if the loss or the gradient is
        NaN or infinite."""
        rate = learning_rate(self.recipe, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(int(self.objective.generator(step, self.world.rank).initial_seed()))
        work = self.objective.prepare(self.seen(batch), step)
        loss = self.world.mean(self.backward(work))
        self.parallel_module.reduce_scalars()
        norm = parallel.clip(self.parameters, self.recipe.clip_norm)
        if not torch.isfinite(norm) or not torch.isfinite(loss):
            last = max(state.saved(self.out), default=None)
            kept = "there is no checkpoint" if last is None else f"that of step {last} is good"
            raise RecipeError(
                f"the loss is {loss.item():g}, its gradient {norm.item():g} at step {step + 1}; "
                f"{kept}. Lower learning_rate, or make warmup longer"
            )
        self.optimizer.step()
        clip_scale(self.network, self.initial.config)
        self.optimizer.zero_grad()
        self.update_average(step)
        before, self.last_time = self.last_time, time.perf_counter()
        return {
            "loss": loss.item(),
            "learning_rate": rate,
            "grad_norm": norm.item(),
            "samples_per_s": self.recipe.batch / (self.last_time - before),
            "memory_gb": peak_memory(self.world.device),
            **self.objective.metrics(),
        }

    def backward(self, work: Work) -> Tensor:
        """Accumulate the gradients of this process's samples, in micro-batches if the recipe wants
        them; returns the loss."""
        rows = self.recipe.micro_batch or len(work)
        parts = [work.part(slice(at, at + rows)) for at in range(0, len(work), rows)]
        with attention_kernel(self.world.device, self.recipe.engine.precision):
            if self.objective.whole_batch:
                loss = partial(self.objective.loss, work)
                if len(parts) > 1:
                    return grad_cache.backward(
                        self.forward, parts, loss, self.parallel_module.no_sync
                    )
                value = loss(*self.forward(work))
                value.backward()  # type: ignore[no-untyped-call]
                return value.detach()
            total = torch.zeros((), device=self.world.device)
            for number, part in enumerate(parts, 1):
                with self.parallel_module.no_sync() if number < len(parts) else nullcontext():
                    value = self.objective.loss(part, *self.forward(part)) * len(part) / len(work)
                    value.backward()  # type: ignore[no-untyped-call]
                total += value.detach()
            return total

    def forward(self, work: Work) -> tuple[Tensor, ...]:
        """The objective's outputs, in the run's precision."""
        with self.objective.precision():
            return self.parallel_module(work)  # type: ignore[no-any-return]

    # --- weights, EMA and checkpoints

    def trained_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of what training changes: unfrozen parameters, and buffers."""
        frozen = {name for name, p in self.network.named_parameters() if not p.requires_grad}
        for name, value in self.network.state_dict().items():
            if name not in frozen:
                yield name, value.detach()

    def update_average(self, step: int) -> None:
        """Update the EMA of the weights, with a smaller decay in the first steps, as TensorFlow's
        `num_updates`. `torch.optim.swa_utils.AveragedModel` has one decay for all steps, and copies
        frozen parameters too."""
        decay = min(self.recipe.ema, (1 + step) / (10 + step)) if self.recipe.ema else 0.0
        for name, value in self.trained_tensors():
            ours, theirs = parallel.local(self.average[name]), parallel.local(value)
            if ours.is_floating_point():
                ours.lerp_(theirs, 1 - decay)
            else:
                ours.copy_(theirs)

    def result(self) -> Bundle | None:
        """A model with the EMA of the weights, in the first process; None in the others; all must
        call."""
        values = parallel.full_tensors(self.network.state_dict().items())
        values |= parallel.full_tensors(self.average.items())
        if not self.world.first:
            return None
        network = build(self.initial.config)
        if self.recipe.lora:
            lora.add(network, self.recipe.lora)
        network.load_state_dict(values)
        if self.recipe.lora:
            lora.merge(network)
        return make(network, self.initial.config, self.initial.tokenizer, self.recipe.out)

    def save(self, step: int) -> None:
        """Write a checkpoint, from which the run can continue; all processes must call."""
        options = optimizers.StateDictOptions(full_state_dict=True, cpu_offload=True)
        checkpoint = {
            "format": state.FORMAT,
            "step": step,
            "run": json.dumps(self.identity()),
            "broken": [(error.image, error.reason) for error in self.broken.values()],
            "network": parallel.full_tensors(self.trained_tensors()),
            "average": parallel.full_tensors(self.average.items()),
            "optimizer": optimizers.get_optimizer_state_dict(
                self.network, self.optimizer, options=options
            ),
            "objective": {name: value.cpu() for name, value in self.objective.state().items()},
        }
        self.world.from_first(lambda: state.save(self.out, step, checkpoint, self.recipe.keep))

    def resume(self) -> int:
        """The step to continue at: that of the last checkpoint, or 0 without one. Raises
        RecipeError for the checkpoint of another run, and for a model without one."""
        if not (found := state.saved(self.out)):
            state.check_new(self.out)
            return 0
        path = found[max(found)]
        checkpoint = state.load(path)
        theirs, ours = json.loads(checkpoint["run"]), json.loads(json.dumps(self.identity()))
        different = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        if different:
            raise RecipeError(state.other_run(path, self.out, different))
        options = optimizers.StateDictOptions(full_state_dict=True)
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:  # one without a gradient so far has no optimiser state
                checkpoint["optimizer"]["state"].setdefault(name, {})
        optimizers.set_optimizer_state_dict(
            self.network, self.optimizer, checkpoint["optimizer"], options=options
        )
        align(self.optimizer)
        with torch.no_grad():
            for name, value in self.trained_tensors():
                value.copy_(parallel.shard_like(checkpoint["network"][name], value))
                average = self.average[name]
                average.copy_(parallel.shard_like(checkpoint["average"][name], average))
        self.objective.load_state(checkpoint["objective"])
        self.broken = {image: ImageError(image, reason) for image, reason in checkpoint["broken"]}
        return int(checkpoint["step"])

    def identity(self) -> dict[str, Any]:
        """The values that must be equal for a checkpoint to be of this run."""
        values = {k: v for k, v in to_dict(self.recipe).items() if k not in MAY_CHANGE}
        values["data read"] = [len(source) for source in self.sources]
        values["init's weights"] = self.init.fingerprint if self.init else ""
        return values


def training_mode(network: nn.Module) -> None:
    """Training mode for all modules but those that are frozen, so that the statistics of a frozen
    batch norm do not change."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def attention_kernel(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Context of the attention that trains fastest: on a CPU the backward pass of the fused kernel
    is slow in bfloat16."""
    explicit = device.type == "cpu" and precision == "bfloat16"
    return sdpa_kernel(SDPBackend.MATH) if explicit else nullcontext()
