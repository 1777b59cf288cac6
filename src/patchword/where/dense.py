"""Dense features: a vector for every patch of an image, in the joint space of images and texts."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from patchword.bundle import Bundle
from patchword.errors import UnsupportedError
from patchword.models.edits import (
    Calibration,
    DenseEdit,
    Earlier,
    Normalised,
    Refined,
    Semantic,
)
from patchword.nn.inference_mode import inference
from patchword.where.resclip import together

# How the last layers are changed; an entry more is a method more.
EDITS = {
    # The unchanged network: the last layer's patch tokens.
    "cosine": DenseEdit(),
    # Each patch's own value, then the rest of the block (the code of MaskCLIP, Zhou et al. 2022).
    "maskclip": DenseEdit(("identity",), positions="bicubic"),
    # The value path alone, as that paper's section 3.2 says it.
    "maskclip-paper": DenseEdit(("identity",), residual=False, mlp=False, positions="bicubic"),
    # And with both of that section's refinements, which compare several texts with each other.
    "maskclip-keys": DenseEdit(("identity",), positions="bicubic", refined=Refined()),
    # Correlative self-attention (SCLIP, Wang et al. 2023, eq. 5), both maps added up.
    "sclip": DenseEdit(("qq", "kk"), row_sum=2.0, positions="offset"),
    # ClearCLIP (Lan et al. 2024, eq. 6), and its variant of values that attend to values.
    "clearclip": DenseEdit(("qq",), residual=False, mlp=False, positions="offset"),
    "value": DenseEdit(("vv",), residual=False, mlp=False),
    # Neighbours first (NACLIP, Hajimiri et al. 2024, eq. 6).
    "naclip": DenseEdit(("kk",), gaussian=5.0, residual=False, mlp=False, positions="offset"),
    # The same without keys: neighbours alone (that paper's "N-Only").
    "nonly": DenseEdit(("near",), gaussian=5.0, residual=False, mlp=False, positions="offset"),
    # Of a CLIP ResNet: each place asks as the mean of all does, without positions (`attn_pooling`
    # of MaskCLIP's code).
    "attnpool": DenseEdit(positions="none"),
    # Self-self attention of the last blocks beside the network (GEM, Bousselham et al. 2023).
    "gem": DenseEdit(("qq", "kk", "vv"), mlp=False, blocks=6, normalised=Normalised()),
    # The same of values, without normalising (CLIP Surgery, Li et al. 2023, section 3.3).
    "surgery": DenseEdit(("vv",), mlp=False, blocks=6, positions="bilinear"),
    # Outliers repaired, like attends to like (SC-CLIP, Bai et al. 2024).
    "scclip": DenseEdit(positions="offset", calibration=Calibration()),
    # Two passes, the second by the labels of the first (ResCLIP, Yang et al. 2024).
    "resclip": DenseEdit(
        ("kk",),
        gaussian=5.0,
        residual=False,
        mlp=False,
        positions="offset",
        earlier=Earlier(),
        semantic=Semantic(),
    ),
}

# Those of patches themselves: the others compare texts.
OF_PATCHES = tuple(name for name, edit in EDITS.items() if not (edit.semantic or edit.refined))


def dense(
    model: Bundle,
    pixels: Tensor,
    edit: DenseEdit,
    texts: Tensor | None = None,
    project: bool = True,
) -> Tensor:
    """Unit features (B, h * w, D), float32, of the patches of images (B, 3, H, W), whatever else is
    in the batch: in the joint space, or without `project` those before the tower's head.

    texts: unit vectors (T, D), which an edit with a second pass (`edit.semantic`) needs. Raises
    UnsupportedError for an edit that the tower does not have.
    """
    tower, semantic = model.image_tower, None
    if edit.semantic and texts is not None:
        grid = tower.grid((pixels.shape[-2], pixels.shape[-1]))
        semantic = partial(together, pixels, texts, grid, edit.semantic)
    with inference(model.own_network):
        return F.normalize(tower.dense(pixels, edit, project, semantic).float(), dim=-1)


def on_grid(model: Bundle, values: Tensor, pixels: Tensor) -> Tensor:
    """Values (B, h * w, X) of the patches of images (B, 3, H, W) as maps (B, X, h, w)."""
    grid = model.image_tower.grid((pixels.shape[-2], pixels.shape[-1]))
    return torch.unflatten(values, 1, grid).movedim(-1, 1)


def edit_of(method: str) -> DenseEdit:
    """The entry of EDITS. Raises UnsupportedError for a name that is not there."""
    if method not in EDITS:
        raise UnsupportedError(f"no dense method {method!r}; there are {', '.join(EDITS)}")
    return EDITS[method]
