"""The training loop."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from patchword import checkpoints, data, losses
from patchword.bundle import Bundle, make
from patchword.config import ModelConfig
from patchword.errors import ImageError, RecipeError
from patchword.models import build, initialise
from patchword.tokenizers import Tokenizer
from patchword.train.augment import photometric
from patchword.train.recipe import Recipe

CHECKPOINT = "checkpoint.pt"
Report = Callable[[int, dict[str, float]], None]


@dataclass
class Batch:
    """One step's tensors."""

    pixels: Tensor  # (N, 3, S, S), normalised
    ids: Tensor  # (N, L)
    same: Tensor  # (N, N) bool: caption j is true of photo i


@dataclass(frozen=True)
class Trained:
    """What a run leaves."""

    folder: Path  # the finished model, for `load`
    photos: int  # that were read
    broken: list[ImageError]  # those that could not be, passed over


def train(recipe: Recipe, report: Report = lambda step, metrics: None) -> Trained:
    """Run a recipe, or continue it from its last checkpoint.

    `report(step, metrics)` is called after every step. The same recipe and machine give the same
    weights, interrupted or not. Raises RecipeError for data or a model that cannot be used.
    """
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    size = recipe.model.preprocess.size[0]
    sources = [data.open_source(source, Path(), size) for source in recipe.data]
    run = Run(recipe, sources)
    step = run.resume(out / CHECKPOINT)
    with open(out / "metrics.jsonl", "a", encoding="utf-8") as metrics:
        for batch in run.batches(step):
            values = run.step(step, batch)
            step += 1
            report(step, values)
            print(json.dumps({"step": step, **values}), file=metrics, flush=True)
            if step % recipe.checkpoint_every == 0 or step == run.last:
                run.save(out / CHECKPOINT, step)
    broken = [error for source in sources for error in source.broken]
    return Trained(checkpoints.save(run.result(), out / "model"), sum(map(len, sources)), broken)


class Run:
    """Network, optimiser and weight average of one run."""

    def __init__(self, recipe: Recipe, sources: list[data.Source]) -> None:
        self.recipe = recipe
        self.sources = sources
        self.last = recipe.until or recipe.steps
        torch.manual_seed(recipe.seed)
        start = checkpoints.load(recipe.init) if recipe.init else None
        self.tokenizer = start.reader() if start else train_tokenizer(recipe, sources)
        self.config = fitted(recipe.model, self.tokenizer)
        self.network = build(self.config)
        initialise(self.network)
        if start:
            if (start.config.vision, start.config.text) != (self.config.vision, self.config.text):
                raise RecipeError(f"{recipe.init} has other towers than the recipe's [model]")
            self.network.load_state_dict(start.network.state_dict())
        self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        parameters = groups(self.network, recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98))
        self.mean = torch.tensor(recipe.model.preprocess.mean).view(3, 1, 1)
        self.std = torch.tensor(recipe.model.preprocess.std).view(3, 1, 1)

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches from step `start` to the end, the next one made while this one trains."""
        with ThreadPoolExecutor(1) as worker:
            ahead = worker.submit(self.batch, start)
            for step in range(start, self.last):
                batch = ahead.result()
                if step + 1 < self.last:
                    ahead = worker.submit(self.batch, step + 1)
                yield batch

    def batch(self, step: int) -> Batch:
        """Batch number `step`."""
        recipe, size = self.recipe, self.recipe.model.preprocess.size[0]
        shares = [source.share for source in recipe.data]
        pairs = data.batch_at(self.sources, shares, recipe.batch, size, recipe.seed, step)
        raw = torch.from_numpy(np.stack([pair.image for pair in pairs]))
        pixels = raw.permute(0, 3, 1, 2).float() / 255
        chosen = torch.tensor([pair.augment for pair in pairs])
        pixels = photometric(pixels, chosen, torch.Generator().manual_seed(recipe.seed + step))
        return Batch(
            ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last),
            torch.from_numpy(self.tokenizer([pair.caption for pair in pairs])),
            torch.from_numpy(data.positives(pairs)),
        )

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """One update; its metrics."""
        started = time.perf_counter()
        rate = learning_rate(self.recipe, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        half = torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bfloat16")
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU the fused kernel's backward is slower
            with half:
                image, text, scale = self.network(batch.pixels, batch.ids)
            loss = losses.contrastive(image, text, scale, batch.same)
            loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        if not torch.isfinite(norm):
            raise RecipeError(f"the loss is {loss.item()} at step {step}; lower learning_rate")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.follow(step)
        seconds = time.perf_counter() - started
        return {"loss": loss.item(), "rate": rate, "samples_per_s": len(batch.ids) / seconds}

    def follow(self, step: int) -> None:
        """Move the weight average one step; young averages follow faster."""
        decay = min(self.recipe.ema, (1 + step) / (10 + step)) if self.recipe.ema else 0.0
        ours, theirs = self.average.state_dict(), self.network.state_dict()
        for name, value in ours.items():
            if value.is_floating_point():
                value.lerp_(theirs[name], 1 - decay)
            else:
                value.copy_(theirs[name])

    def save(self, path: Path, step: int) -> None:
        """Write everything the run needs to continue; never leaves half a file."""
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state | {"step": step}, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def resume(self, path: Path) -> int:
        """The step to continue at: that of the checkpoint at `path`, or 0 without one."""
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def result(self) -> Bundle:
        """The weight average as a model."""
        network = self.average.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        return make(network, self.config, self.tokenizer, self.recipe.out)


def train_tokenizer(recipe: Recipe, sources: list[data.Source]) -> Tokenizer:
    """A byte-pair tokenizer of the model's vocabulary size, from the captions of the data."""
    text, rng = recipe.model.text, np.random.default_rng(recipe.seed)
    if text is None:
        raise RecipeError("this recipe trains two towers: the model needs [model.text]")
    size = recipe.model.preprocess.size[0]
    captions = [
        source.pair(index, size, rng).caption for source in sources for index in range(len(source))
    ]
    return Tokenizer.train(captions, text.vocab_size, text.context)


def fitted(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The model's config with the vocabulary that its tokenizer has in the end."""
    if config.text is None:
        raise RecipeError("this recipe trains two towers: the model needs [model.text]")
    text = replace(config.text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end_token)
    return replace(config, text=text)


def groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters with weight decay (matrices and convolutions) and without."""
    named = list(network.named_parameters())
    plain = [p for name, p in named if p.ndim < 2 or "embed" in name or "token" in name]
    skip = {id(p) for p in plain}
    return [
        {"params": [p for _, p in named if id(p) not in skip], "weight_decay": decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2017, eq. 5)."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (1 + math.cos(math.pi * done)) / 2
