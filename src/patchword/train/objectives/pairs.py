"""Images and their texts: CLIP's and SigLIP's objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from patchword import losses
from patchword.data import Batch, positives
from patchword.train import distributed
from patchword.train.objectives.base import Objective, Work
from patchword.train.objectives.mixing import mixed, mixes
from patchword.train.recipe import Recipe


class Pairs(Objective):
    """Images and their texts: CLIP's InfoNCE (Radford et al. 2021), or SigLIP's sigmoid (Zhai et
    al. 2023), with a teacher beside it if the recipe has one (CLIP-KD, Yang et al. 2024)."""

    together = True

    @staticmethod
    def reads(recipe: Recipe) -> frozenset[str]:
        return frozenset({"captions"})

    def prepare(self, batch: Batch, step: int) -> Work:
        assert batch.ids is not None
        work = Work(batch.pixels, batch.ids, same=self._same(batch))
        if mixes(self.recipe.mix):
            work = self._mixed(work, batch, step)
        for teacher in self.teachers:
            with torch.no_grad():
                work = replace(work, teacher=teacher.pairs(work.pixels, work.ids)[:3])
        return work

    def _same(self, batch: Batch) -> Tensor | None:
        """Which texts of all processes are true of these images besides their own: None for none,
        integers where texts are true of each other or not at all, else (n, all) bool."""
        says = [each for every in self.world.everyones(batch.says) for each in every]
        rows, device = self.world.rows(len(says)), batch.pixels.device
        if not all(self.world.everyones(batch.says == batch.truths)):
            return torch.from_numpy(positives(says, batch.truths, rows.start)).to(device)
        number: dict[frozenset[str], int] = {}
        groups = [number.setdefault(each, len(number)) for each in says]
        return torch.tensor(groups[rows], device=device) if len(number) < len(says) else None

    def _mixed(self, work: Work, batch: Batch, step: int) -> Work:
        """Images mixed, and with them what is true of them."""
        same, size = work.same, len(work) * self.world.size
        first = self.world.rows(size).start
        if same is None:
            same = torch.eye(size, device=work.pixels.device)[first : first + len(work)]
        elif same.ndim == 1:
            same = same[:, None] == torch.cat(self.world.everyones(same.cpu())).to(same.device)
        generator = self.generator(step, self.world.rank)
        pixels, same = mixed(self.recipe.mix, work.pixels, same.float(), batch.mix, generator)
        return replace(work, pixels=pixels, same=same)

    def forward(self, work: Work) -> tuple[Tensor, ...]:
        return self.network.pairs(work.pixels, work.ids)  # type: ignore[no-any-return,operator]

    def loss(self, work: Work, *outputs: Tensor) -> Tensor:
        room: Any = losses if self.world.size == 1 else distributed
        kind = room.sigmoid if self.recipe.objective == "sigmoid" else room.contrastive
        value: Tensor = kind(*outputs, same=work.same)
        if self.recipe.teacher:
            value = value + self.recipe.teacher.weight * self._taught(work, *outputs[:3])
        return value

    def _taught(self, work: Work, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        """The loss of what the teacher says, over the pairs of all processes."""
        assert self.recipe.teacher is not None
        theirs = work.teacher
        if self.recipe.teacher.kind == "features":
            distance = losses.feature_distillation
            return distance(image, theirs[0]) + distance(text, theirs[1])
        if self.world.size > 1:
            image, text = distributed.gather(image), distributed.gather(text)
            theirs = (distributed.gather(theirs[0]), distributed.gather(theirs[1]), theirs[2])
        return losses.logit_distillation((image, text, scale), (theirs[0], theirs[1], theirs[2]))

    def metrics(self) -> dict[str, float]:
        return {"scale": float(self.network.scale.detach())}  # type: ignore[operator]
