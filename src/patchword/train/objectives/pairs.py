"""Images and their texts: CLIP's and SigLIP's objective, alone or with a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from patchword import losses
from patchword.data import Collate, PairBatch, collate_pairs, positives
from patchword.models.blip import Blip
from patchword.models.two_tower import TwoTower
from patchword.train import distributed
from patchword.train.initial_model import InitialModel
from patchword.train.objectives.base import SHARED, Objective, Teacher, Work
from patchword.train.objectives.mixing import mixed
from patchword.train.parallel import World
from patchword.train.recipe import Recipe


@dataclass(frozen=True)
class PairWork(Work):
    """Images and texts, and which texts of all processes are true of which images.

    positives  as `losses.contrastive` takes them: None where each text is true of its own image
               alone; (n,) int, equal numbers being true of each other; (n, all) bool, or float for
               mixed images
    """

    ids: Tensor  # (n, L)
    positives: Tensor | None = field(metadata=SHARED)  # the loss reads it, of the whole batch


@dataclass(frozen=True)
class DistilledPairWork(PairWork):
    """`PairWork` with the teacher's features."""

    teacher_image: Tensor  # (n, D), unit
    teacher_text: Tensor  # (n, D), unit
    teacher_scale: Tensor = field(metadata=SHARED)  # ()


WorkT = TypeVar("WorkT", bound=PairWork)


class PairObjective(Objective[PairBatch, WorkT]):
    """The base of both objectives."""

    network: TwoTower | Blip
    whole_batch = True

    def __init__(self, initial: InitialModel, recipe: Recipe, world: World) -> None:
        super().__init__(initial, recipe, world)
        self.tokenizer = initial.reader()

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        return frozenset({"captions"})

    def collate(self) -> Collate[PairBatch]:
        return partial(collate_pairs, self.tokenizer)

    def pairs(self, batch: PairBatch, step: int) -> PairWork:
        """The batch with its positives, mixed where the recipe wants it."""
        work = PairWork(batch.pixels, batch.ids, self._positives(batch))
        return self._mixed(work, batch, step) if self.recipe.mix.wanted else work

    def _positives(self, batch: PairBatch) -> Tensor | None:
        """Of this process's images, see `PairWork`."""
        texts = [each for every in self.world.gather(batch.caption_facts) for each in every]
        rows, device = self.world.rows(len(texts)), batch.pixels.device
        if not all(self.world.gather(batch.caption_facts == batch.image_facts)):
            return torch.from_numpy(positives(texts, batch.image_facts, rows.start)).to(device)
        number: dict[frozenset[str], int] = {}
        groups = [number.setdefault(each, len(number)) for each in texts]
        return torch.tensor(groups[rows], device=device) if len(number) < len(texts) else None

    def _mixed(self, work: PairWork, batch: PairBatch, step: int) -> PairWork:
        """Images mixed, and with them what is true of them."""
        targets, size = work.positives, len(work) * self.world.size
        first = self.world.rows(size).start
        if targets is None:
            targets = torch.eye(size, device=work.pixels.device)[first : first + len(work)]
        elif targets.ndim == 1:
            everyone = torch.cat(self.world.gather(targets.cpu())).to(targets.device)
            targets = targets[:, None] == everyone
        generator = self.generator(step, self.world.rank)
        mix = self.recipe.mix
        pixels, targets = mixed(mix, work.pixels, targets.float(), batch.mix, generator)
        return replace(work, pixels=pixels, positives=targets)

    def forward(self, work: WorkT) -> tuple[Tensor, ...]:
        return self.network.pairs(work.pixels, work.ids)

    def contrast(self, work: PairWork, *outputs: Tensor) -> Tensor:
        """InfoNCE or the sigmoid loss, over the pairs of all processes."""
        room: Any = losses if self.world.size == 1 else distributed
        loss = room.sigmoid if self.recipe.objective == "sigmoid" else room.contrastive
        value: Tensor = loss(*outputs, positives=work.positives)
        return value

    def metrics(self) -> dict[str, float]:
        return {"logit_scale": float(self.network.scale.detach())}


class Pairs(PairObjective[PairWork]):
    """CLIP's InfoNCE (Radford et al. 2021), or SigLIP's sigmoid loss (Zhai et al. 2023)."""

    def prepare(self, batch: PairBatch, step: int) -> PairWork:
        return self.pairs(batch, step)

    def loss(self, work: PairWork, *outputs: Tensor) -> Tensor:
        return self.contrast(work, *outputs)


class DistilledPairs(PairObjective[DistilledPairWork]):
    """`Pairs` with a teacher's features or logits as further targets (CLIP-KD, Yang et al.
    2024)."""

    def __init__(
        self, initial: InitialModel, recipe: Recipe, world: World, teacher: Teacher
    ) -> None:
        super().__init__(initial, recipe, world)
        self.teacher = teacher

    def prepare(self, batch: PairBatch, step: int) -> DistilledPairWork:
        work = self.pairs(batch, step)
        network = self.teacher.network
        image, text = self.in_parts(
            lambda rows: network.pairs(work.pixels[rows], work.ids[rows])[:2], len(work)
        )
        return DistilledPairWork(
            **vars(work),
            teacher_image=image,
            teacher_text=text,
            teacher_scale=network.scale.detach(),
        )

    def loss(self, work: DistilledPairWork, *outputs: Tensor) -> Tensor:
        image, text, scale = outputs[:3]
        value = self.contrast(work, *outputs)
        return value + self.teacher.config.weight * self._distance(work, image, text, scale)

    def _distance(
        self, work: DistilledPairWork, image: Tensor, text: Tensor, scale: Tensor
    ) -> Tensor:
        """From the teacher, over the pairs of all processes."""
        teacher = (work.teacher_image, work.teacher_text)
        if self.teacher.config.kind == "features":
            distance = losses.feature_distillation
            return distance(image, teacher[0]) + distance(text, teacher[1])
        if self.world.size > 1:
            image, text = distributed.gather(image), distributed.gather(text)
            teacher = distributed.gather(teacher[0]), distributed.gather(teacher[1])
        return losses.logit_distillation((image, text, scale), (*teacher, work.teacher_scale))
