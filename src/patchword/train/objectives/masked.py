"""Images, most of whose patches are hidden: MAE's objective."""

from __future__ import annotations

import torch
from torch import Tensor

from patchword import losses
from patchword.data import Batch
from patchword.models.mae import MaskedAutoencoder
from patchword.nn.patches import patchify
from patchword.train.objectives.base import Objective, Work


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
