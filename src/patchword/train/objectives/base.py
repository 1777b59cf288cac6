"""What stands between the loop and a network that learns: the base of all objectives."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patchword.data import Batch
from patchword.train.initial_model import Start
from patchword.train.parallel import World
from patchword.train.recipe import Recipe


@dataclass(frozen=True)
class Work:
    """One process's share of a step, ready for the network. Fields of rows, or None."""

    pixels: Tensor  # (n, 3, S, S)
    ids: Tensor | None = None  # (n, L)
    targets: Tensor | None = None  # (n, C): the classes' probabilities
    noise: Tensor | None = None  # (n, patches): which are hidden
    same: Tensor | None = None  # (n,) or (n, all): see `losses.contrastive`; of a whole batch only
    teacher: tuple[Tensor, ...] = ()  # its answers: rows, or scalars
    captions: Tensor | None = None  # (n, K, L): to write, of which ids are the first
    questions: Tensor | None = None  # (n, K, Lq)
    answers: Tensor | None = None  # (n, K, La)
    asked: Tensor | None = None  # (n, K) bool: which of the questions there are
    true: Tensor | None = None  # (n, 2, M) bool: the texts and images that belong to each row
    wrong: Tensor | None = None  # (n, L): texts that are not true
    misled: Tensor | None = None  # (n,) bool: which of them there are
    apart: Tensor | None = None  # (n, n) bool: text j is not true of image i
    known: tuple[Tensor, ...] = ()  # the M images and texts that all rows are compared with
    each: tuple[float, ...] = ()  # per row of the whole batch: see `grounded`

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, rows: slice) -> Work:
        """Some of the rows; what is known of the whole batch alone is left out."""

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[rows]

        return replace(
            self,
            pixels=self.pixels[rows],
            ids=cut(self.ids),
            targets=cut(self.targets),
            noise=cut(self.noise),
            same=None,
            teacher=tuple(x[rows] if x.ndim else x for x in self.teacher),
            captions=cut(self.captions),
            questions=cut(self.questions),
            answers=cut(self.answers),
            asked=cut(self.asked),
            wrong=cut(self.wrong),
            misled=cut(self.misled),
            true=cut(self.true),
            apart=None if self.apart is None else self.apart[rows, rows],
        )


class Objective(nn.Module):
    """A network and what it learns.

    together: whether the loss is of all rows of all processes at once. Otherwise it is the mean of
    its parts' losses, each weighted by its rows.
    spares: whether a step's loss may leave parameters out, as a BLIP's do.
    """

    together = False
    average: Mapping[str, Tensor]  # of the weights, which the loop keeps

    def __init__(self, student: Start, recipe: Recipe, world: World, teacher: Any = None) -> None:
        super().__init__()
        self.network, self.config, self.recipe = student.network, student.config, recipe
        self.world, self.tokenizer = world, student.tokenizer
        self.spares = student.config.blip is not None
        self.teachers = [teacher] if teacher else []  # in a list: no part of the module

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        """What is read of a sample beside its image: "captions", "labels", "questions"."""
        return frozenset()

    def prepare(self, batch: Batch, step: int) -> Work:
        """A batch as this objective's network takes it."""
        raise NotImplementedError

    def forward(self, work: Work) -> tuple[Tensor, ...]:
        """What `loss` is computed from."""
        raise NotImplementedError

    def loss(self, work: Work, *outputs: Tensor) -> Tensor:
        """The loss of these rows; under several processes, this one's share of it."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Numbers to watch beside the loss."""
        return {}

    def kept(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold of it."""
        return {}

    def resume(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from what `kept` gave."""

    def precision(self) -> AbstractContextManager[Any]:
        """Within which the network computes as the recipe says."""
        half = self.recipe.engine.precision == "bfloat16"
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=half)

    def generator(self, step: int, rank: int) -> torch.Generator:
        """Random numbers of one step; of one process, or of all (rank -1)."""
        numbers = np.random.SeedSequence([self.recipe.seed, step, rank + 1])
        return torch.Generator().manual_seed(int(numbers.generate_state(1)[0]))
