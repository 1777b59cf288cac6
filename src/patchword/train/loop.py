"""The training loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from patchword import checkpoints, data
from patchword.bundle import Bundle, make
from patchword.config import to_dict
from patchword.data import Batch
from patchword.engines.pixel_values import look_up
from patchword.errors import ImageError, RecipeError, ScopeWarning, warn
from patchword.images.preprocess import Preprocess
from patchword.models import build
from patchword.train import grad_cache, initial_model, lora, objectives, parallel, state
from patchword.train.computation import attention_kernel, prepare_blocks, training_mode
from patchword.train.malloc import peak_memory
from patchword.train.monitor import Monitor
from patchword.train.objectives.base import BatchT, Inputs
from patchword.train.optimizer import (
    clip_scale,
    learning_rate,
    match_memory_format,
    parameter_groups,
    warn_of_warmup,
)
from patchword.train.parallel import World
from patchword.train.recipe import Recipe, check_batch
from patchword.train.signals import stop_requested

Report = Callable[[int, dict[str, float]], None]
# Keys that may change when a run continues. They change how it is computed and monitored, but not
# what is learned. `weights` and `architecture` may change because the fingerprint of the weights of
# `init` is compared.
MAY_CHANGE = (
    "out", "until", "micro_batch", "checkpoint_every", "keep", "max_broken", "engine", "monitor",
    "weights", "architecture",
)  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """The result of a run."""

    folder: Path  # the finished model, for `load`
    step: int  # number of steps that are done
    samples: int  # number of samples since the run was started or continued
    broken: list[ImageError] = field(default_factory=list)  # samples that were skipped
    stopped: bool = False  # by SIGTERM or Ctrl-C; the same command continues the run
    images: int = 0  # number of images in the data
    classes: int = 0  # number of classes, of a classifier


def train(recipe: Recipe, report: Report = lambda step, metrics: None) -> Trained:
    """Run a recipe, or continue it from its last checkpoint, in this process or in those that
    `torchrun` started.

    `report(step, metrics)` is called after every step and every evaluation, in the first process.
    The same recipe gives the same weights on the same machine, interrupted or not. Raises
    RecipeError for data or a model that cannot be used, a loss that is NaN or infinite, too many
    broken samples, or a full disk.
    """
    with data.explain_worker_errors(), parallel.process_group(recipe.engine.device) as world:
        return Run(recipe, world).run(report)


class Run:
    """One run: the network, the optimiser and the EMA of the weights, in one of its processes."""

    def __init__(self, recipe: Recipe, world: World) -> None:
        check_batch(recipe, world.size)
        self.recipe, self.world, self.out = recipe, world, Path(recipe.out)
        warn_of_warmup(recipe)
        torch.manual_seed(recipe.seed)
        self.init = initial_model.load_init(recipe)
        config = initial_model.model_config(recipe, self.init)
        reads = objectives.KINDS[recipe.objective].reads(recipe)
        texts = recipe.blip.texts if recipe.objective == "blip" else 1
        preprocess = initial_model.training_preprocess(recipe, config)
        self.sources = data.open_sources(recipe.data, preprocess, reads, texts)
        self.levels = torch.from_numpy(Preprocess(preprocess).levels).to(world.device)
        self.initial = initial_model.create(recipe, config, self.init, self.sources)
        self.network = self.initial.network.to(world.device)
        if world.size == 1 or recipe.engine.parallel == "ddp":  # FSDP wants contiguous parameters
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.adapter = None
        if recipe.lora:
            self.adapter = lora.adapter_writer(recipe, self.init, self.initial.config, self.network)
            lora.add(self.network, recipe.lora)
        initial_model.freeze_others(self.network, recipe)
        if recipe.micro_batch and recipe.micro_batch < recipe.batch // world.size:
            grad_cache.warn_of_batch_norms(self.network)
        clip_scale(self.network, self.initial.config)
        prepare_blocks(self.network, recipe.engine)
        self.objective = objectives.make(self.initial, recipe, world)
        self.parallel_module = parallel.ParallelModule(
            self.objective, recipe.engine.parallel, world, self.objective.unused_parameters
        )
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.network, recipe.weight_decay), betas=(0.9, 0.98), fused=True
        )
        self.average = {name: value.clone() for name, value in self.trained_tensors()}
        self.objective.average = self.average
        self.broken: dict[str, ImageError] = {}
        self.last_time = time.perf_counter()

    # --- the whole run

    def run(self, report: Report) -> Trained:
        """Train from the last checkpoint, or from the beginning, to the last step."""
        recipe = self.recipe
        first = self.resume()
        step, stopped = first, False
        batches = self.batches(first)
        training_mode(self.network)
        with self.monitoring(first) as monitor, stop_requested() as requested:
            self.evaluate(step, monitor, report)  # a killed run may not have done it
            for batch in batches:
                values = self.step(step, batch)
                step += 1
                if monitor:
                    monitor.step(step, values)
                    report(step, values)
                stopped = self.share_status(step, batch, requested(), monitor)
                if stopped or step % recipe.checkpoint_every == 0 or step == recipe.last:
                    self.save(step)
                if stopped:
                    break
                self.evaluate(step, monitor, report)
        if not stopped:
            self.save_model()
        return Trained(
            folder=self.out / "model",
            step=step,
            samples=(step - first) * recipe.batch,
            broken=list(self.broken.values()),
            stopped=stopped,
            images=sum(len(source) for source in self.sources),
            classes=self.initial.config.classes if recipe.objective == "classification" else 0,
        )

    def save_model(self) -> None:
        """Write the finished model and, with LoRA, its adapter. All processes must call it."""
        model = self.result()
        if model:
            checkpoints.save(model, self.out / "model")
            if self.init and self.init.scope:
                warn(
                    f"the trained model does not warn of photos and words unlike its training, as "
                    f"{self.init.name} does",
                    ScopeWarning,
                )
        if self.adapter:
            average = parallel.full_tensors(self.average.items())
            self.world.from_first(partial(self.adapter.write, self.out / "adapter", average))

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
        """Context of the monitor, which writes metrics and evaluates: in the first process alone,
        None in the others."""
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

    def share_status(
        self, step: int, batch: Batch, requested: bool, monitor: Monitor | None
    ) -> bool:
        """Tell all processes which samples were broken, and whether this process was asked to stop.
        Returns whether any process was. Raises RecipeError when too many samples were broken."""
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
        """Evaluate the EMA of the weights if that is due at this step. All processes must call
        it."""
        if any(self.world.gather(monitor is not None and monitor.due(step))):
            model = self.result()
            if monitor and model:
                model.own_network.to(self.world.device)
                report(step, monitor.evaluate(step, model))

    # --- one step

    def on_device(self, batch: BatchT) -> BatchT:
        """The batch on this process's device, with pixels as float32 inputs of the network. They
        are uint8 until they are on the device: fewer bytes are copied."""
        batch = batch.to(self.world.device)
        if batch.pixels.is_floating_point():
            return batch
        return replace(batch, pixels=look_up(batch.pixels, self.levels))

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """Update the weights once; returns the metrics. Raises RecipeError if the loss or the
        gradient is NaN or infinite."""
        rate = learning_rate(self.recipe, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(int(self.objective.generator(step, self.world.rank).initial_seed()))
        inputs = self.objective.prepare(self.on_device(batch), step)
        loss = self.world.mean(self.backward(inputs))
        self.parallel_module.reduce_scalars()
        norm = parallel.clip_gradients(self.parameters, self.recipe.clip_norm)
        if not torch.isfinite(norm) or not torch.isfinite(loss):
            last = max(state.saved(self.out), default=None)
            checkpoint = "there is no checkpoint"
            if last is not None:
                checkpoint = f"that of step {last} is good"
            raise RecipeError(
                f"the loss is {loss.item():g}, its gradient {norm.item():g} at step {step + 1}; "
                f"{checkpoint}. Lower learning_rate, or make warmup longer"
            )
        self.optimizer.step()
        clip_scale(self.network, self.initial.config)
        self.optimizer.zero_grad()
        self.update_average(step)
        now = time.perf_counter()
        seconds, self.last_time = now - self.last_time, now
        return {
            "loss": loss.item(),
            "learning_rate": rate,
            "grad_norm": norm.item(),
            "samples_per_s": self.recipe.batch / seconds,
            "memory_gb": peak_memory(self.world.device),
            **self.objective.metrics(),
        }

    def backward(self, inputs: Inputs) -> Tensor:
        """Accumulate the gradients of this process's samples, in micro-batches if the recipe sets
        them; returns the loss."""
        size = self.recipe.micro_batch or len(inputs)
        parts = [inputs.part(slice(start, start + size)) for start in range(0, len(inputs), size)]
        with attention_kernel(self.world.device, self.recipe.engine.precision):
            if self.objective.whole_batch:
                loss = partial(self.objective.loss, inputs)
                if len(parts) > 1:
                    return grad_cache.backward(
                        self.forward, parts, loss, self.parallel_module.no_sync
                    )
                value = loss(*self.forward(inputs))
                value.backward()  # type: ignore[no-untyped-call]
                return value.detach()
            total = torch.zeros((), device=self.world.device)
            for number, part in enumerate(parts, 1):
                with self.parallel_module.no_sync() if number < len(parts) else nullcontext():
                    value = self.objective.loss(part, *self.forward(part)) * len(part) / len(inputs)
                    value.backward()  # type: ignore[no-untyped-call]
                total += value.detach()
            return total

    def forward(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """The objective's outputs, in the run's precision."""
        with self.objective.precision():
            return self.parallel_module(inputs)  # type: ignore[no-any-return]

    # --- weights, EMA and checkpoints

    def trained_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of the tensors that training changes: trained parameters, and
        buffers."""
        frozen = {name for name, p in self.network.named_parameters() if not p.requires_grad}
        for name, value in self.network.state_dict().items():
            if name not in frozen:
                yield name, value.detach()

    def update_average(self, step: int) -> None:
        """Update the EMA of the weights, with a smaller decay in the first steps, like TensorFlow's
        `num_updates`. `torch.optim.swa_utils.AveragedModel` has one decay for all steps, and copies
        frozen parameters too."""
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        for name, value in self.trained_tensors():
            average, current = parallel.local_shard(self.average[name]), parallel.local_shard(value)
            if average.is_floating_point():
                average.lerp_(current, 1 - decay)
            else:
                average.copy_(current)

    def result(self) -> Bundle | None:
        """A model with the EMA of the weights, in the first process; None in the others. All
        processes must call it."""
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
        """Write a checkpoint, from which the run can continue. All processes must call it."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        checkpoint = {
            "format": state.FORMAT,
            "step": step,
            "run": json.dumps(self.identity()),
            "broken": [(error.image, error.reason) for error in self.broken.values()],
            "network": parallel.full_tensors(self.trained_tensors()),
            "average": parallel.full_tensors(self.average.items()),
            "optimizer": get_optimizer_state_dict(self.network, self.optimizer, options=options),
            "objective": {name: value.cpu() for name, value in self.objective.state().items()},
        }
        self.world.from_first(lambda: state.save(self.out, step, checkpoint, self.recipe.keep))

    def resume(self) -> int:
        """Restore the last checkpoint. Returns its step, or 0 without a checkpoint. Raises
        RecipeError for the checkpoint of another run, and for a model without a checkpoint."""
        saved = state.saved(self.out)
        if not saved:
            state.check_no_model(self.out)
            return 0
        path = saved[max(saved)]
        checkpoint = state.load(path)
        before, now = json.loads(checkpoint["run"]), json.loads(json.dumps(self.identity()))
        different = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if different:
            raise RecipeError(state.other_run_message(path, self.out, different))
        options = StateDictOptions(full_state_dict=True)
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:  # without a gradient so far, it has no optimiser state
                checkpoint["optimizer"]["state"].setdefault(name, {})
        set_optimizer_state_dict(
            self.network, self.optimizer, checkpoint["optimizer"], options=options
        )
        match_memory_format(self.optimizer)
        with torch.no_grad():
            for name, value in self.trained_tensors():
                value.copy_(parallel.shard_like(checkpoint["network"][name], value))
                average = self.average[name]
                average.copy_(parallel.shard_like(checkpoint["average"][name], average))
        self.objective.load_state(checkpoint["objective"])
        self.broken = {image: ImageError(image, reason) for image, reason in checkpoint["broken"]}
        return int(checkpoint["step"])

    def identity(self) -> dict[str, Any]:
        """The values that must be equal to those of a checkpoint, or it is of another run."""
        values = {k: v for k, v in to_dict(self.recipe).items() if k not in MAY_CHANGE}
        values["data read"] = [len(source) for source in self.sources]
        values["init's weights"] = self.init.fingerprint if self.init else ""
        return values
