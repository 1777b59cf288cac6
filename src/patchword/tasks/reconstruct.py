"""Reconstruction of masked patches by a masked autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.images import ImageLike
from patchword.models.protocols import Reconstructor
from patchword.nn.inference_mode import inference
from patchword.show import plots
from patchword.show.result import Pictured

HIDDEN = 127  # grey, of masked patches

Photo = NDArray[np.uint8]  # (H, W, 3), at the size of the network's input


@dataclass(frozen=True, eq=False, repr=False)
class Reconstruction(Pictured):
    """A photo, its visible patches, and those with the masked patches reconstructed."""

    image: Photo
    shown: Photo
    painted: Photo
    hidden: NDArray[np.bool_]  # (H, W)

    def picture(self) -> Image.Image:
        """The three side by side, as in figure 2 of He et al. 2022."""
        seen = f"{1 - self.hidden.mean():.0%} of its patches"
        photos = ((self.shown, seen), (self.painted, "the others painted"), (self.image, "photo"))
        return plots.panel([plots.Tile(photo, words) for photo, words in photos])


def reconstruct(model: Bundle, image: ImageLike, seed: int = 0) -> Reconstruction:
    """Mask random patches of an image and reconstruct them. seed: of the mask. Where a network
    predicts pixels normalised by each patch's mean and deviation (`config.masked.norm_pixels`),
    these are taken from the photo: the result shows structure, not colour. Raises ImageError, or
    UnsupportedError for a model that is no masked autoencoder.
    """
    network = model.own_network
    if not isinstance(network, Reconstructor):
        raise UnsupportedError(
            f"{model.name} has no decoder that paints; load a whole masked autoencoder such as "
            "facebook/vit-mae-base"
        )
    pixels, _ = model.open(image, exact=True)
    batch = model.tensor(pixels)[None]
    rows, columns = model.image_tower.grid((batch.shape[-2], batch.shape[-1]))
    drawn = torch.Generator().manual_seed(seed)
    size, kind = (1, rows * columns), torch.float32
    noise = torch.rand(size, generator=drawn, dtype=kind, device="cpu")
    with inference(network):
        painted, hidden = network.reconstruct(batch, noise.to(batch.device))
    where = hidden[0, 0].cpu().numpy()
    photo, all_painted = (
        model.preprocess.photo(each[0].float().cpu().numpy()) for each in (batch, painted)
    )
    shown = np.where(where[..., None], np.uint8(HIDDEN), photo)
    return Reconstruction(photo, shown, all_painted, where)
