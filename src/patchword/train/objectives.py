"""What a network can be trained for: each objective turns a batch into tensors, and those into a
loss. BLIP's is in `grounded`.

An objective is a module around the network, so that DistributedDataParallel or FSDP can hold it:
called with a `Work` it gives tensors, the rows of its samples or scalars. It holds no parameters of
its own, and is a function of the seed and the step: what is random is drawn in `prepare`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from patchword import checkpoints, losses
from patchword.bundle import Bundle
from patchword.data import Batch, positives
from patchword.errors import RecipeError
from patchword.models.mae import MaskedAutoencoder
from patchword.nn.patches import patchify
from patchword.train import distributed
from patchword.train.grounded import Grounded
from patchword.train.objective import Objective, Work
from patchword.train.parallel import World
from patchword.train.recipe import MixConfig, Recipe, TeacherConfig
from patchword.train.start import Start


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


class Masked(Objective):
    """Images, most of whose patches are hidden (MAE, He et al. 2022)."""

    network: MaskedAutoencoder

    def prepare(self, batch: Batch, step: int) -> Work:
        height, width = (side // self.network.patch_size for side in batch.pixels.shape[-2:])
        count = len(batch.pixels) * self.world.size
        noise = torch.rand(count, height * width, generator=self.generator(step, -1))
        return Work(batch.pixels, noise=noise[self.world.rows(count)].to(batch.pixels.device))

    def forward(self, work: Work) -> tuple[Tensor, ...]:
        return self.network(work.pixels, work.noise)  # type: ignore[no-any-return]

    def loss(self, work: Work, *outputs: Tensor) -> Tensor:
        painted, hidden = outputs
        patches = patchify(work.pixels, self.network.patch_size)
        norm = self.network.config.norm_pixels
        return losses.masked_pixels(painted.float(), patches, hidden, norm)


def mixes(config: MixConfig) -> bool:
    """Whether images are mixed at all."""
    return config.mixup > 0 or config.cutmix > 0


def mixed(
    config: MixConfig, pixels: Tensor, targets: Tensor, rows: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Those rows of pixels (n, ...) and targets (n, C) mixed, by mixup or CutMix."""
    kinds = [(losses.mixup, config.mixup), (losses.cutmix, config.cutmix)]
    kinds = [(kind, alpha) for kind, alpha in kinds if alpha > 0]
    spared, chosen = torch.rand(2, generator=generator).tolist()
    if spared >= config.share or not rows.any():
        return pixels, targets
    kind, alpha = kinds[int(chosen * len(kinds))]
    pixels, targets = pixels.clone(), targets.clone()
    pixels[rows], targets[rows] = kind(pixels[rows], targets[rows], generator, alpha)
    return pixels, targets


KINDS: dict[str, type[Objective]] = {
    "contrastive": Pairs,
    "sigmoid": Pairs,
    "masked": Masked,
    "classification": Classes,
    "blip": Grounded,
}


def make(student: Start, recipe: Recipe, world: World) -> Objective:
    """The recipe's objective for that network. Raises RecipeError for a teacher that cannot answer
    what the student is asked."""
    teacher = None
    if recipe.teacher:
        bundle = checkpoints.load(recipe.teacher.model, device=world.device)
        _check_teacher(bundle, student, recipe.teacher)
        teacher = bundle.network.requires_grad_(False)
    return KINDS[recipe.objective](student, recipe, world, teacher)


def _check_teacher(teacher: Bundle, student: Start, config: TeacherConfig) -> None:
    ours, theirs = student.config, teacher.config
    unlike = ""
    if ours.preprocess != theirs.preprocess:
        unlike = f"it sees images as {theirs.preprocess}, the student as {ours.preprocess}"
    elif ours.labels != theirs.labels:
        unlike = f"its classes are {', '.join(theirs.labels) or 'none'}"
    elif ours.text and (theirs.text is None or not theirs.embed_dim):
        unlike = "it has not two towers"
    elif (
        ours.text
        and student.tokenizer
        and teacher.reader().to_json() != (student.tokenizer.to_json())
    ):
        unlike = "its tokenizer is another"
    elif config.kind == "features" and ours.feature_dim != theirs.feature_dim:
        unlike = f"its features have {theirs.feature_dim} dimensions, not {ours.feature_dim}"
    if unlike:
        raise RecipeError(f"{config.model} cannot be the teacher: {unlike}")
