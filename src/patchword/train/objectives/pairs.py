"""Images and their texts: CLIP's and SigLIP's objective, alone or with a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from patchword import losses
from patchword.data import Collate, PairBatch, collate_pairs, positives
from patchword.models.blip import Blip
from patchword.models.two_tower import TwoTower
from patchword.train import distributed
from patchword.train.initial_model import InitialModel
from patchword.train.objectives.base import SHARED, Inputs, Objective, Teacher
from patchword.train.objectives.mixing import mixed
from patchword.train.parallel import World
from patchword.train.recipe import Recipe


@dataclass(frozen=True)
class PairInputs(Inputs):
    """Images and texts, and which texts of all processes are true of which images.

    positives  as for `losses.contrastive`. None: each text is true of its own image alone. (n,)
               int: texts are true of the images with the same number. (n, all) bool, or float for
               mixed images: how much each text is true of each image
    """

    ids: Tensor  # (n, L)
    positives: Tensor | None = field(metadata=SHARED)  # read by the loss of the whole batch


@dataclass(frozen=True)
class DistilledPairInputs(PairInputs):
    """`PairInputs` with the teacher's features."""

    teacher_image: Tensor  # (n, D), unit
    teacher_text: Tensor  # (n, D), unit
    teacher_scale: Tensor = field(metadata=SHARED)  # ()


InputsT = TypeVar("InputsT", bound=PairInputs)


class PairObjective(Objective[PairBatch, InputsT]):
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

    def pairs(self, batch: PairBatch, step: int) -> PairInputs:
        """The batch with its positives, mixed if the recipe says so."""
        inputs = PairInputs(batch.pixels, batch.ids, self._positives(batch))
        return self._mixed(inputs, batch, step) if self.recipe.mix.enabled else inputs

    def _positives(self, batch: PairBatch) -> Tensor | None:
        """The positives of this process's images, see `PairInputs`."""
        texts = list(chain.from_iterable(self.world.gather(batch.caption_facts)))
        rows, device = self.world.rows(len(texts)), batch.pixels.device
        if not all(self.world.gather(batch.caption_facts == batch.image_facts)):
            return torch.from_numpy(positives(texts, batch.image_facts, rows.start)).to(device)
        numbers: dict[frozenset[str], int] = {}
        groups = [numbers.setdefault(facts, len(numbers)) for facts in texts]
        if len(numbers) == len(texts):
            return None
        return torch.tensor(groups[rows], device=device)

    def _mixed(self, inputs: PairInputs, batch: PairBatch, step: int) -> PairInputs:
        """The inputs with images mixed, and their positives with them."""
        targets, size = inputs.positives, len(inputs) * self.world.size
        first = self.world.rows(size).start
        if targets is None:
            targets = torch.eye(size, device=inputs.pixels.device)[first : first + len(inputs)]
        elif targets.ndim == 1:
            of_all = torch.cat(self.world.gather(targets.cpu())).to(targets.device)
            targets = targets[:, None] == of_all
        generator = self.generator(step, self.world.rank)
        mix = self.recipe.mix
        pixels, targets = mixed(mix, inputs.pixels, targets.float(), batch.mix, generator)
        return replace(inputs, pixels=pixels, positives=targets)

    def forward(self, inputs: InputsT) -> tuple[Tensor, ...]:
        return self.network.pairs(inputs.pixels, inputs.ids)

    def contrast(self, inputs: PairInputs, *outputs: Tensor) -> Tensor:
        """InfoNCE or the sigmoid loss, over the pairs of all processes."""
        module: Any = losses if self.world.size == 1 else distributed
        loss = module.sigmoid if self.recipe.objective == "sigmoid" else module.contrastive
        value: Tensor = loss(*outputs, positives=inputs.positives)
        return value

    def metrics(self) -> dict[str, float]:
        return {"logit_scale": float(self.network.scale.detach())}


class Pairs(PairObjective[PairInputs]):
    """CLIP's InfoNCE (Radford et al. 2021), or SigLIP's sigmoid loss (Zhai et al. 2023)."""

    def prepare(self, batch: PairBatch, step: int) -> PairInputs:
        return self.pairs(batch, step)

    def loss(self, inputs: PairInputs, *outputs: Tensor) -> Tensor:
        return self.contrast(inputs, *outputs)


class DistilledPairs(PairObjective[DistilledPairInputs]):
    """`Pairs` with a teacher's features or logits as further targets (CLIP-KD, Yang et al.
    2024)."""

    def __init__(
        self, initial: InitialModel, recipe: Recipe, world: World, teacher: Teacher
    ) -> None:
        super().__init__(initial, recipe, world)
        self.teacher = teacher

    def prepare(self, batch: PairBatch, step: int) -> DistilledPairInputs:
        inputs = self.pairs(batch, step)
        network = self.teacher.network
        image, text = self.in_parts(
            lambda rows: network.pairs(inputs.pixels[rows], inputs.ids[rows])[:2], len(inputs)
        )
        return DistilledPairInputs(
            **vars(inputs),
            teacher_image=image,
            teacher_text=text,
            teacher_scale=network.scale.detach(),
        )

    def loss(self, inputs: DistilledPairInputs, *outputs: Tensor) -> Tensor:
        image, text, scale = outputs[:3]
        value = self.contrast(inputs, *outputs)
        return value + self.teacher.config.weight * self._distance(inputs, image, text, scale)

    def _distance(
        self, inputs: DistilledPairInputs, image: Tensor, text: Tensor, scale: Tensor
    ) -> Tensor:
        """The distance from the teacher, over the pairs of all processes."""
        if self.teacher.config.kind == "features":
            of_images = losses.feature_distillation(image, inputs.teacher_image)
            return of_images + losses.feature_distillation(text, inputs.teacher_text)
        teacher_image, teacher_text = inputs.teacher_image, inputs.teacher_text
        if self.world.size > 1:
            image, text = distributed.gather(image), distributed.gather(text)
            teacher_image = distributed.gather(teacher_image)
            teacher_text = distributed.gather(teacher_text)
        teacher = (teacher_image, teacher_text, inputs.teacher_scale)
        return losses.logit_distillation((image, text, scale), teacher)
