"""Where in the image the words are: dense similarity of patches and texts, or, in a BLIP, where
the text looked to say whether it belongs to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from patchword import images
from patchword.bundle import Bundle
from patchword.config import ResNetConfig, ViTConfig
from patchword.errors import UnsupportedError
from patchword.images import ImageLike
from patchword.images.preprocess import Geometry
from patchword.show import plots
from patchword.tasks.attention import patch_grid, patch_slice
from patchword.where.relevance import gradcam

METHODS = ("cosine", "maskclip", "value")  # of patches and texts in a joint space
GRADCAM = "gradcam"  # of a BLIP's matching head


@dataclass(frozen=True)
class Heatmap:
    """For each text, how well every pixel fits it.

    values  (T, H, W) float32 in the image's own pixels; NaN where the network did not look
            (outside its crop). Cosines; of method "gradcam" the products, 0 or above, of attention
            and its gradient, of no scale of their own
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    texts: tuple[str, ...]
    values: NDArray[np.float32]
    method: str

    def picture(self) -> Image.Image:
        """The photo and each text's map over it."""
        return plots.heatmap_panel(self.image, self.values, self.texts)

    def save(self, path: str | Path) -> None:
        """Write `picture()`; the suffix of `path` chooses the format."""
        self.picture().save(path)


def heatmap(
    model: Bundle,
    image: ImageLike,
    texts: Sequence[str],
    method: str = "auto",
    words: bool = False,
    layer: int | None = None,
) -> Heatmap:
    """How well each patch fits each text, in the image's own pixels.

    method  "cosine" is the plain one of the literature: the last block's patch tokens, projected.
            "maskclip" is the last attention's value path alone, each patch for itself (MaskCLIP,
            Zhou et al. 2022, section 3.2). "value" lets values attend to values there (CLIP
            Surgery, Li et al. 2023, section 3.3), without residual and MLP (ClearCLIP, Lan et al.
            2024). "gradcam", for a BLIP with a matching head, is where the text looked that told
            this head that they belong together; see `gradcam.gradcam`. "auto" is "gradcam" where
            there is such a head, else "value"
    words   of "gradcam": each text's map is followed by those of its words
    layer   of "gradcam": the block that looks; None: the 8th of 12

    Raises ImageError, or UnsupportedError for an unknown method or a model that reads no text.
    """
    if isinstance(texts, str):
        texts = [texts]
    if not texts:
        raise UnsupportedError("a heatmap needs at least one text")
    method = resolve(model, method)
    if method != GRADCAM and (words or layer is not None):
        raise UnsupportedError(f"words and layer are of method {GRADCAM!r}, not of {method!r}")
    if method == GRADCAM:
        photo, pieces, maps, geometry = gradcam(model, image, texts, words, layer)
        values = geometry.to_source(maps, model.config.image_tower.patch_size)
        return Heatmap(photo, tuple(pieces), values, method)
    vectors = torch.from_numpy(model.embed_texts(list(texts)))
    photo = images.open(image, exact=True)
    patches, geometry = dense_features(model, photo, method)
    cosines = patches @ vectors.to(patches).mT  # (N, T)
    grid = cosines.mT.reshape(len(texts), *patch_grid(model, geometry)).cpu().numpy()
    values = geometry.to_source(grid, model.config.image_tower.patch_size)
    return Heatmap(photo, tuple(texts), values, method)


def resolve(model: Bundle, method: str) -> str:
    """The method that a name stands for. Raises UnsupportedError for an unknown one."""
    if method == "auto":
        return GRADCAM if model.config.matching else "value"
    known = (*METHODS, GRADCAM)
    if method not in known:
        raise UnsupportedError(f"no heatmap method {method!r}; there are {', '.join(known)}")
    return method


def dense_features(
    model: Bundle, image: ImageLike, method: str = "value"
) -> tuple[Tensor, Geometry]:
    """Unit features (h * w, D) of an image's patches in the joint space, by one of METHODS, and the
    way back."""
    pixels, geometry = model.open(image, exact=True)
    tower: Any = model.network.image
    pixels_in = torch.from_numpy(pixels)[None].to(next(tower.parameters()))
    patches = resnet_patches if isinstance(model.config.vision, ResNetConfig) else vit_patches
    with torch.inference_mode():
        features = tower.project(patches(model, pixels_in, method))
        return F.normalize(features[0].float(), dim=-1), geometry


def vit_patches(model: Bundle, pixels: Tensor, method: str) -> Tensor:
    """Patch tokens (1, h * w, width) of a ViT, before its final norm."""
    vision = model.config.vision
    assert isinstance(vision, ViTConfig)
    last = f"image.blocks.{vision.depth - 1}"
    attn: Any = model.network.image.blocks[-1].attn  # type: ignore[union-attr, index]
    taps = _taps(model, pixels, [last, f"{last}.attn.v"])
    values = taps[f"{last}.attn.v"]
    if method == "cosine":
        tokens = taps[last]
    elif method == "maskclip":
        tokens = attn.out(values)
    else:
        tokens = attn.out(value_attention(values, attn.scale))
    return tokens[:, patch_slice(model, (pixels.shape[-2], pixels.shape[-1]))]


def resnet_patches(model: Bundle, pixels: Tensor, method: str) -> Tensor:
    """Features (1, h * w, out) of a CLIP ResNet's attention pool, had each place been pooled."""
    pool: Any = model.network.image.attnpool  # type: ignore[union-attr]
    taps = _taps(model, pixels, ["image.attnpool.tokens", "image.attnpool.attn.v"])
    values = taps["image.attnpool.attn.v"]
    if method == "cosine":
        return pool.attn(taps["image.attnpool.tokens"])[:, 1:]  # type: ignore[no-any-return]
    if method == "maskclip":
        return pool.attn.out(values)[:, 1:]  # type: ignore[no-any-return]
    return pool.attn.out(value_attention(values, pool.attn.scale))[:, 1:]  # type: ignore[no-any-return]


def value_attention(values: Tensor, scale: float) -> Tensor:
    """softmax(V V^T * scale) V over values (B, H, N, d) (Li et al. 2023, section 3.3)."""
    return torch.softmax(values @ values.mT * scale, dim=-1) @ values


def _taps(model: Bundle, pixels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    return model.network.encode_image(pixels, taps=names)[1]  # type: ignore[no-any-return, operator]
