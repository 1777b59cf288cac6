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

MASKED = 127  # the grey level of masked patches

Photo = NDArray[np.uint8]  # (H, W, 3), at the size of the network's input


@dataclass(frozen=True, eq=False, repr=False)
class Reconstruction(Pictured):
    """A photo, the photo with only its visible patches (`shown`), and with its masked patches
    reconstructed (`painted`). hidden: the pixels of masked patches."""

    image: Photo
    shown: Photo
    painted: Photo
    hidden: NDArray[np.bool_]  # (H, W)

    def picture(self) -> Image.Image:
        """The visible patches, the reconstruction and the photo, as in figure 2 of He et al.
        2022."""
        visible = f"{1 - self.hidden.mean():.0%} of its patches"
        return plots.panel(
            [
                plots.Tile(self.shown, visible),
                plots.Tile(self.painted, "the others painted"),
                plots.Tile(self.image, "photo"),
            ]
        )


def reconstruct(model: Bundle, image: ImageLike, seed: int = 0) -> Reconstruction:
    """Mask random patches of an image and reconstruct them. seed: of the mask. If the network
    predicts pixels normalised by each patch's mean and standard deviation
    (`config.masked.norm_pixels`), these are taken from the photo, so that the result shows
    structure and not colour. Raises ImageError, or UnsupportedError for a model that is no masked
    autoencoder.
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
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((1, rows * columns), generator=generator, dtype=torch.float32, device="cpu")
    with inference(network):
        painted, masked = network.reconstruct(batch, noise.to(batch.device))
    hidden = masked[0, 0].cpu().numpy()
    photo = model.preprocess.photo(batch[0].float().cpu().numpy())
    reconstructed = model.preprocess.photo(painted[0].float().cpu().numpy())
    shown = np.where(hidden[..., None], np.uint8(MASKED), photo)
    return Reconstruction(photo, shown, reconstructed, hidden)
