"""Dense features: a vector for every patch of an image, in the joint space of images and texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.images import ImageLike
from patchword.images.preprocess import Geometry
from patchword.models.protocols import DenseEdit

# How each method changes the last layer; a new entry is a new method.
EDITS = {
    # The network as it is: the last layer's patch tokens.
    "cosine": DenseEdit(),
    # Each patch's own value, without attention to others (MaskCLIP, Zhou et al. 2022, section 3.2).
    "maskclip": DenseEdit("identity", residual=False, mlp=False),
    # Values attend to values (CLIP Surgery, Li et al. 2023, section 3.3), without residual and MLP
    # (ClearCLIP, Lan et al. 2024).
    "value": DenseEdit("vv", residual=False, mlp=False),
}


def dense_features(
    model: Bundle, image: ImageLike, method: str = "value"
) -> tuple[Tensor, Geometry]:
    """Unit features (h * w, D) of an image's patches in the joint space, by one of EDITS, and the
    way back to its pixels. Raises ImageError, and UnsupportedError for a model or a method that
    does not have it."""
    if method not in EDITS:
        raise UnsupportedError(f"no dense method {method!r}; there are {', '.join(EDITS)}")
    tower = model.image_tower
    pixels, geometry = model.open(image, exact=True)
    with torch.inference_mode():
        features = tower.dense(model.tensor(pixels)[None], EDITS[method])
        return F.normalize(features[0].float(), dim=-1), geometry


def cell(model: Bundle) -> int | None:
    """The side, in pixels of the input, of the square that one feature belongs to: a patch, from
    the top left corner; None for a tower whose grid divides the whole input, such as a Swin's last
    stage."""
    return model.config.image_tower.patch_size if model.image_tower.attention_layers else None
