"""Heatmaps of texts: dense similarity of patches and texts, or, for a BLIP, Grad-CAM of the
cross-attention of its matching head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from patchword.bundle import Bundle, as_texts
from patchword.errors import UnsupportedError
from patchword.images import ImageLike
from patchword.show import plots
from patchword.show.result import Pictured
from patchword.where.dense import EDITS, cell, dense_features
from patchword.where.relevance import gradcam

GRADCAM = "gradcam"  # of a BLIP's matching head


@dataclass(frozen=True, eq=False, repr=False)
class Heatmap(Pictured):
    """A map for each text: how well every pixel fits it.

    values  (T, H, W) float32 in the image's own pixels; NaN outside the crop that the
            network takes. Cosines; of method "gradcam" the products, 0 or above, of attention and
            its gradient, which have no unit
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    texts: tuple[str, ...]
    values: NDArray[np.float32]
    method: str

    def picture(self) -> Image.Image:
        """The photo and each text's map over it."""
        return plots.heatmap_panel(self.image, self.values, self.texts)


def heatmap(
    model: Bundle,
    image: ImageLike,
    texts: str | Sequence[str],
    method: str = "auto",
    words: bool = False,
    layer: int | None = None,
) -> Heatmap:
    """A heatmap of each text, in the image's own pixels.

    method  one of `dense.EDITS`, which says whose they are: "cosine" is the network as it is. Or
            "gradcam", for a BLIP with a matching head, is what the text attended to
            that made this head say "together"; see `relevance.gradcam`. "auto" is "gradcam" where
            there is such a head, else "value"
    words   of "gradcam": each text's map is followed by those of its words
    layer   of "gradcam": the block that looks; None: the 8th of 12

    Raises ImageError, or UnsupportedError for an unknown method or a model that reads no text.
    """
    texts = as_texts(texts)
    if not texts:
        raise UnsupportedError("a heatmap needs at least one text")
    if empty := [text for text in texts if not text.strip()]:
        raise UnsupportedError(f"a text without words has no heatmap: {empty[0]!r}")
    method = resolve(model, method)
    if method != GRADCAM and (words or layer is not None):
        raise UnsupportedError(f"words and layer are of method {GRADCAM!r}, not of {method!r}")
    if method == GRADCAM:
        photo, pieces, maps, geometry = gradcam(model, image, texts, words, layer)
        values = geometry.to_source(maps, model.config.image_tower.patch_size)
        return Heatmap(photo, tuple(pieces), values, method)
    tower, vectors = model.image_tower, torch.from_numpy(model.embed_texts(texts))
    photo = model.opener(image, exact=True)
    patches, geometry = dense_features(model, photo, method, vectors)
    cosines = patches @ vectors.to(patches).mT  # (N, T)
    grid = cosines.mT.reshape(len(texts), *tower.grid(geometry.size)).cpu().numpy()
    return Heatmap(photo, tuple(texts), geometry.to_source(grid, cell(model)), method)


def resolve(model: Bundle, method: str) -> str:
    """The method that a name stands for. Raises UnsupportedError for an unknown one, or for a model
    without an image tower."""
    if method == "auto":
        if model.config.matching:
            return GRADCAM
        return "value" if model.image_tower.attention_layers else "cosine"
    known = (*EDITS, GRADCAM)
    if method not in known:
        raise UnsupportedError(f"no heatmap method {method!r}; there are {', '.join(known)}")
    return method
