"""Images and their classes: cross-entropy, alone or with a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from patchword import losses
from patchword.data import ClassBatch, Collate, collate_classes
from patchword.models.towers import ImageModel
from patchword.train.initial_model import InitialModel
from patchword.train.objectives.base import Objective, Teacher, Work
from patchword.train.objectives.mixing import mixed
from patchword.train.parallel import World
from patchword.train.recipe import Recipe


@dataclass(frozen=True)
class ClassWork(Work):
    """Images and how probable each class is."""

    targets: Tensor  # (n, C)


@dataclass(frozen=True)
class DistilledClassWork(ClassWork):
    """`ClassWork` with the teacher's answers."""

    teacher_logits: Tensor  # (n, C)


WorkT = TypeVar("WorkT", bound=ClassWork)


class ClassObjective(Objective[ClassBatch, WorkT]):
    """The base of both objectives."""

    network: ImageModel
    right = 0.0

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        return frozenset({"labels"})

    def collate(self) -> Collate[ClassBatch]:
        return collate_classes

    def targets(self, batch: ClassBatch, step: int) -> ClassWork:
        """One-hot targets, or those of mixed images."""
        pixels, mix = batch.pixels, self.recipe.mix
        targets = nn.functional.one_hot(batch.labels, self.config.classes).float()
        if mix.wanted:
            generator = self.generator(step, self.world.rank)
            pixels, targets = mixed(mix, pixels, targets, batch.mix, generator)
        return ClassWork(pixels, targets)

    def forward(self, work: WorkT) -> tuple[Tensor, ...]:
        return self.network.heads(work.pixels)

    def note(self, work: WorkT, logits: Tensor) -> None:
        """Count the images of which the largest logit is that of their class."""
        right = logits.detach().argmax(dim=1) == work.targets.argmax(dim=1)
        self.right = right.float().mean().item()

    def metrics(self) -> dict[str, float]:
        """The accuracy on this process's last micro-batch, of mixed images for the larger part."""
        return {"accuracy": self.right}


class Classification(ClassObjective[ClassWork]):
    """Cross-entropy, with mixup and CutMix; the mean over both heads of a model that has a
    distillation token."""

    def prepare(self, batch: ClassBatch, step: int) -> ClassWork:
        return self.targets(batch, step)

    def loss(self, work: ClassWork, *outputs: Tensor) -> Tensor:
        logits, distilled = outputs
        self.note(work, logits)
        smoothing = self.recipe.label_smoothing
        value = losses.classification(logits, work.targets, smoothing)
        if distilled is logits:
            return value
        return (value + losses.classification(distilled, work.targets, smoothing)) / 2


class DistilledClassification(ClassObjective[DistilledClassWork]):
    """DeiT's distillation (Touvron et al. 2021): cross-entropy with the labels and with a teacher's
    outputs."""

    def __init__(
        self, initial: InitialModel, recipe: Recipe, world: World, teacher: Teacher
    ) -> None:
        super().__init__(initial, recipe, world)
        self.teacher = teacher

    def prepare(self, batch: ClassBatch, step: int) -> DistilledClassWork:
        work = self.targets(batch, step)
        network = self.teacher.network
        (logits,) = self.in_parts(lambda rows: (network(work.pixels[rows]),), len(work))
        return DistilledClassWork(**vars(work), teacher_logits=logits)

    def loss(self, work: DistilledClassWork, *outputs: Tensor) -> Tensor:
        logits, distilled = outputs
        self.note(work, logits)
        each = (logits, distilled, work.teacher_logits, work.targets)
        smoothing, config = self.recipe.label_smoothing, self.teacher.config
        if config.kind == "hard":
            return losses.hard_distillation(*each, smoothing=smoothing)
        return losses.soft_distillation(*each, config.weight, config.temperature, smoothing)
