"""The base of all objectives, through which the training loop runs a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from patchword.data import Batch, Collate
from patchword.train.initial_model import InitialModel
from patchword.train.parallel import World
from patchword.train.recipe import Recipe, TeacherConfig

# Metadata of a field of `Work`: how many of its first axes count samples; one by default.
SHARED = {"sample_axes": 0}  # the same for all samples
SQUARE = {"sample_axes": 2}  # each sample with each


@dataclass(frozen=True)
class Work:
    """One process's share of a step, ready for the network. Objectives add the fields that they
    need; the loop uses only this class."""

    pixels: Tensor  # (n, 3, S, S)

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, rows: slice) -> Self:
        """Some of the samples, as a micro-batch."""
        cut: dict[str, Tensor] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Tensor):
                cut[each.name] = value[(rows,) * each.metadata.get("sample_axes", 1)]
        return replace(self, **cut)


BatchT = TypeVar("BatchT", bound=Batch)
WorkT = TypeVar("WorkT", bound=Work)


class Teacher(NamedTuple):
    """A frozen model to learn from, and how."""

    network: Any  # of the kind that the student is
    config: TeacherConfig


class Objective(nn.Module, Generic[BatchT, WorkT]):
    """A network and its loss.

    whole_batch: whether the loss needs the outputs of the whole batch at once. Otherwise it is the
    mean of the micro-batches' losses, each weighted by its samples.
    unused_parameters: whether a step's loss may not depend on some parameters, as a BLIP's.
    """

    whole_batch = False
    average: Mapping[str, Tensor]  # EMA of the weights by name, which the loop updates

    def __init__(self, initial: InitialModel, recipe: Recipe, world: World) -> None:
        super().__init__()
        self.network, self.config = initial.network, initial.config
        self.recipe, self.world = recipe, world
        self.unused_parameters = initial.config.blip is not None

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        """The parts of a sample that are read besides its image: "captions", "labels",
        "questions"."""
        return frozenset()

    def collate(self) -> Collate[BatchT]:
        """The function that makes a batch of samples; it is pickled for worker processes, and uses
        no network."""
        raise NotImplementedError

    def prepare(self, batch: BatchT, step: int) -> WorkT:
        """A batch as the input of this objective's network."""
        raise NotImplementedError

    def forward(self, work: WorkT) -> tuple[Tensor, ...]:
        """The tensors from which `loss` is computed: a row per sample, or scalars."""
        raise NotImplementedError

    def loss(self, work: WorkT, *outputs: Tensor) -> Tensor:
        """The loss of these samples; with several processes, this one's share of it."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Numbers to log beside the loss."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Its state in a checkpoint besides the weights."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""

    @torch.no_grad()
    def in_parts(self, run: Callable[[slice], Sequence[Tensor]], count: int) -> list[Tensor]:
        """The outputs of a network that is not trained, a row for each of `count` samples, of which
        as many are in memory at a time as the recipe wants. run: some of the samples -> theirs."""
        rows = self.recipe.micro_batch or count
        parts = [run(slice(at, at + rows)) for at in range(0, count, rows)]
        return [torch.cat(each) for each in zip(*parts, strict=True)]

    def precision(self) -> AbstractContextManager[Any]:
        """Context in which the network computes in the recipe's precision."""
        half = self.recipe.engine.precision == "bfloat16"
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=half)

    def generator(self, step: int, rank: int) -> torch.Generator:
        """Random numbers of one step, for one process, or the same for all (rank -1)."""
        numbers = np.random.SeedSequence([self.recipe.seed, step, rank + 1])
        return torch.Generator().manual_seed(int(numbers.generate_state(1)[0]))
