"""Images and their classes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from patchword import losses
from patchword.data import Batch
from patchword.train.objectives.base import Objective, Work
from patchword.train.objectives.mixing import mixed, mixes
from patchword.train.recipe import Recipe


class Classes(Objective):
    """Images and their classes: cross-entropy, mixup and CutMix, and DeiT's distillation (Touvron
    et al. 2021) where the recipe has a teacher."""

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        return frozenset({"labels"})

    def prepare(self, batch: Batch, step: int) -> Work:
        pixels, mix = batch.pixels, self.recipe.mix
        targets = nn.functional.one_hot(batch.labels, self.config.classes).float()
        if mixes(mix):
            generator = self.generator(step, self.world.rank)
            pixels, targets = mixed(mix, pixels, targets, batch.mix, generator)
        work = Work(pixels, targets=targets)
        for teacher in self.teachers:
            with torch.no_grad():
                work = replace(work, teacher=(teacher(pixels),))
        return work

    def forward(self, work: Work) -> tuple[Tensor, ...]:
        return self.network.heads(work.pixels)  # type: ignore[no-any-return,operator]

    def loss(self, work: Work, *outputs: Tensor) -> Tensor:
        classes, distilled = outputs
        targets, smoothing, teacher = work.targets, self.recipe.smoothing, self.recipe.teacher
        assert targets is not None
        if teacher is None:
            value = losses.classification(classes, targets, smoothing)
            if distilled is not classes:
                value = (value + losses.classification(distilled, targets, smoothing)) / 2
            return value
        logits = (classes, distilled, work.teacher[0], targets)
        if teacher.kind == "hard":
            return losses.hard_distillation(*logits, smoothing=smoothing)
        return losses.soft_distillation(*logits, teacher.weight, teacher.temperature, smoothing)
