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

# Metadata of a field of `Inputs`: how many of its first axes count samples, one by default.
SHARED = {"sample_axes": 0}  # the same for all samples
PAIRWISE = {"sample_axes": 2}  # of every two samples


@dataclass(frozen=True)
class Inputs:
    """What an objective computes its loss from: the samples of one process at one step. Objectives
    add the fields that they need; the training loop uses only those of this class."""

    pixels: Tensor  # (n, 3, S, S)

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, rows: slice) -> Self:
        """The micro-batch of these samples."""
        tensors: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                axes = field.metadata.get("sample_axes", 1)
                tensors[field.name] = value[(rows,) * axes]
        return replace(self, **tensors)


BatchT = TypeVar("BatchT", bound=Batch)
InputsT = TypeVar("InputsT", bound=Inputs)


class Teacher(NamedTuple):
    """A frozen model to learn from, and how to learn from it."""

    network: Any  # a network of the student's kind
    config: TeacherConfig


class Objective(nn.Module, Generic[BatchT, InputsT]):
    """A network and its loss.

    whole_batch: whether the loss needs the outputs of the whole batch at once. If not, it is the
    mean of the micro-batches' losses, each weighted by its number of samples.
    unused_parameters: whether there may be steps whose loss does not depend on some parameters, as
    for a BLIP.
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
        """The parts of a sample that are read besides its image: any of "captions", "labels",
        "questions" and "regions"."""
        return frozenset()

    def collate(self) -> Collate[BatchT]:
        """The function that makes a batch of samples. It is pickled for worker processes and does
        not use the network."""
        raise NotImplementedError

    def prepare(self, batch: BatchT, step: int) -> InputsT:
        """The inputs of this objective's network, from a batch that is on its device."""
        raise NotImplementedError

    def forward(self, inputs: InputsT) -> tuple[Tensor, ...]:
        """The tensors from which `loss` is computed: rows, one for each sample, or scalars."""
        raise NotImplementedError

    def loss(self, inputs: InputsT, *outputs: Tensor) -> Tensor:
        """The loss of these samples; with several processes, this process's share of the loss."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Numbers to log beside the loss."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of this objective, besides the weights."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""

    @torch.no_grad()
    def in_parts(self, run: Callable[[slice], Sequence[Tensor]], count: int) -> list[Tensor]:
        """The outputs, rows of `count` samples, of a network that is not trained, computed in
        micro-batches as the recipe sets. run: returns the outputs of a slice of the samples."""
        size = self.recipe.micro_batch or count
        parts = [run(slice(start, start + size)) for start in range(0, count, size)]
        return [torch.cat(rows) for rows in zip(*parts, strict=True)]

    def precision(self) -> AbstractContextManager[Any]:
        """Context in which the network computes in the recipe's precision."""
        half = self.recipe.engine.precision == "bfloat16"
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=half)

    def generator(self, step: int, rank: int) -> torch.Generator:
        """The random numbers of a step: those of one process or, for rank -1, of all processes."""
        seeds = np.random.SeedSequence([self.recipe.seed, step, rank + 1])
        return torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
