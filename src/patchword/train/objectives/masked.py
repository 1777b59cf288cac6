"""Images with most of their patches hidden: the masked autoencoder's objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from patchword import losses
from patchword.data import Batch, Collate, collate_images
from patchword.models.mae import MaskedAutoencoder
from patchword.nn.patches import patchify
from patchword.train.objectives.base import Inputs, Objective


@dataclass(frozen=True)
class MaskedInputs(Inputs):
    """Images and which of their patches are hidden."""

    noise: Tensor  # (n, patches): the patches of the largest values are hidden


class Masked(Objective[Batch, MaskedInputs]):
    """The hidden patches are predicted from the others (MAE, He et al. 2022)."""

    network: MaskedAutoencoder

    def collate(self) -> Collate[Batch]:
        return collate_images

    def prepare(self, batch: Batch, step: int) -> MaskedInputs:
        height, width = (side // self.network.patch_size for side in batch.pixels.shape[-2:])
        count = len(batch) * self.world.size
        noise = torch.rand(count, height * width, generator=self.generator(step, -1))
        return MaskedInputs(batch.pixels, noise[self.world.rows(count)].to(batch.pixels.device))

    def forward(self, inputs: MaskedInputs) -> tuple[Tensor, ...]:
        return self.network(inputs.pixels, inputs.noise)  # type: ignore[no-any-return]

    def loss(self, inputs: MaskedInputs, *outputs: Tensor) -> Tensor:
        predicted, hidden = outputs
        patches = patchify(inputs.pixels, self.network.patch_size)
        norm = self.network.config.norm_pixels
        return losses.masked_pixels(predicted.float(), patches, hidden, norm)
