"""Images and their classes: cross-entropy, alone or with a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from patchword import losses
from patchword.data import ClassBatch, Collate, collate_classes
from patchword.models.towers import ImageModel
from patchword.train.initial_model import InitialModel
from patchword.train.objectives.base import Inputs, Objective, Teacher
from patchword.train.objectives.mixing import mixed
from patchword.train.parallel import World
from patchword.train.recipe import Recipe


@dataclass(frozen=True)
class ClassInputs(Inputs):
    """Images and the probabilities of their classes."""

    targets: Tensor  # (n, C)


@dataclass(frozen=True)
class DistilledClassInputs(ClassInputs):
    """`ClassInputs` with the teacher's outputs."""

    teacher_logits: Tensor  # (n, C)


InputsT = TypeVar("InputsT", bound=ClassInputs)


class ClassObjective(Objective[ClassBatch, InputsT]):
    """The base of both objectives."""

    network: ImageModel
    accuracy = 0.0  # on the last micro-batch

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        return frozenset({"labels"})

    def collate(self) -> Collate[ClassBatch]:
        return collate_classes

    def inputs_of(self, batch: ClassBatch, step: int) -> ClassInputs:
        """The batch with one-hot targets, or mixed images with mixed targets."""
        pixels, mix = batch.pixels, self.recipe.mix
        targets = nn.functional.one_hot(batch.labels, self.config.classes).float()
        if mix.enabled:
            generator = self.generator(step, self.world.rank)
            pixels, targets = mixed(mix, pixels, targets, batch.mix, generator)
        return ClassInputs(pixels, targets)

    def forward(self, inputs: InputsT) -> tuple[Tensor, ...]:
        return self.network.heads(inputs.pixels)

    def measure(self, inputs: InputsT, logits: Tensor) -> None:
        """Measure the accuracy: the share of images whose class has the largest logit."""
        right = logits.detach().argmax(dim=1) == inputs.targets.argmax(dim=1)
        self.accuracy = right.float().mean().item()

    def metrics(self) -> dict[str, float]:
        """The accuracy on this process's last micro-batch. A mixed image is of its larger part's
        class."""
        return {"accuracy": self.accuracy}


class Classification(ClassObjective[ClassInputs]):
    """Cross-entropy, with mixup and CutMix. For a model with a distillation token, the mean over
    both heads."""

    def prepare(self, batch: ClassBatch, step: int) -> ClassInputs:
        return self.inputs_of(batch, step)

    def loss(self, inputs: ClassInputs, *outputs: Tensor) -> Tensor:
        logits, distilled = outputs
        self.measure(inputs, logits)
        smoothing = self.recipe.label_smoothing
        value = losses.classification(logits, inputs.targets, smoothing)
        if distilled is logits:
            return value
        return (value + losses.classification(distilled, inputs.targets, smoothing)) / 2


class DistilledClassification(ClassObjective[DistilledClassInputs]):
    """DeiT's distillation (Touvron et al. 2021): cross-entropy with the labels and with a teacher's
    outputs."""

    def __init__(
        self, initial: InitialModel, recipe: Recipe, world: World, teacher: Teacher
    ) -> None:
        super().__init__(initial, recipe, world)
        self.teacher = teacher

    def prepare(self, batch: ClassBatch, step: int) -> DistilledClassInputs:
        inputs = self.inputs_of(batch, step)
        network = self.teacher.network
        (logits,) = self.in_parts(lambda rows: (network(inputs.pixels[rows]),), len(inputs))
        return DistilledClassInputs(**vars(inputs), teacher_logits=logits)

    def loss(self, inputs: DistilledClassInputs, *outputs: Tensor) -> Tensor:
        logits, distilled = outputs
        self.measure(inputs, logits)
        outputs = (logits, distilled, inputs.teacher_logits, inputs.targets)
        smoothing, config = self.recipe.label_smoothing, self.teacher.config
        if config.kind == "hard":
            return losses.hard_distillation(*outputs, smoothing=smoothing)
        return losses.soft_distillation(*outputs, config.weight, config.temperature, smoothing)
