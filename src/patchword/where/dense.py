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
from patchword.where.resclip import semantic_affinity

# How each method changes the last layers; a new entry is a new method.
EDITS = {
    # The unchanged network: the last layer's patch tokens.
    "cosine": DenseEdit(),
    # Attention replaced by the identity: each patch keeps its own value, and the rest of the block
    # follows (the code of MaskCLIP, Zhou et al. 2022).
    "maskclip": DenseEdit(("identity",), positions="bicubic"),
    # The value path alone, as in the paper (section 3.2).
    "maskclip-paper": DenseEdit(("identity",), residual=False, mlp=False, positions="bicubic"),
    # With both refinements of section 3.2, which need several texts (`where/maskclip.py`).
    "maskclip-keys": DenseEdit(("identity",), positions="bicubic", refined=Refined()),
    # Correlative self-attention (SCLIP, Wang et al. 2023, eq. 5):
    # softmax(q q^T) + softmax(k k^T).
    "sclip": DenseEdit(("qq", "kk"), row_sum=2.0, positions="offset"),
    # ClearCLIP (Lan et al. 2024, eq. 6): softmax(q q^T), no residual, no MLP; and its variant with
    # softmax(v v^T).
    "clearclip": DenseEdit(("qq",), residual=False, mlp=False, positions="offset"),
    "value": DenseEdit(("vv",), residual=False, mlp=False),
    # softmax(k k^T + a Gaussian around each patch) (NACLIP, Hajimiri et al. 2024, eq. 6).
    "naclip": DenseEdit(("kk",), gaussian=5.0, residual=False, mlp=False, positions="offset"),
    # The Gaussian alone (the paper's "N-Only").
    "nonly": DenseEdit(("near",), gaussian=5.0, residual=False, mlp=False, positions="offset"),
    # For a CLIP ResNet: the attention pooling without positions, applied to each place with the
    # mean of all places as the query (`attn_pooling` of MaskCLIP's code).
    "attnpool": DenseEdit(positions="none"),
    # Self-self attention of the last blocks, parallel to the network (GEM, Bousselham et al. 2023).
    "gem": DenseEdit(("qq", "kk", "vv"), mlp=False, blocks=6, normalised=Normalised()),
    # The same with v-v attention, not normalised (CLIP Surgery, Li et al. 2023, section 3.3).
    "surgery": DenseEdit(("vv",), mlp=False, blocks=6, positions="bilinear"),
    # Outlier tokens repaired, self-calibrated attention (SC-CLIP, Bai et al. 2024).
    "scclip": DenseEdit(positions="offset", calibration=Calibration()),
    # Two passes; the labels of the first correct the attention of the second (ResCLIP, Yang et al.
    # 2024; `where/resclip.py`).
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

# Methods whose features do not depend on the texts.
OF_PATCHES = tuple(name for name, edit in EDITS.items() if not (edit.semantic or edit.refined))


def dense(
    model: Bundle,
    pixels: Tensor,
    edit: DenseEdit,
    texts: Tensor | None = None,
    project: bool = True,
) -> Tensor:
    """Unit features (B, h * w, D), float32, of the patches of images (B, 3, H, W), independent of
    the rest of the batch: in the joint space, or without `project` before the tower's projection.

    texts: unit vectors (T, D), needed by an edit with a second pass (`edit.semantic`). Raises
    UnsupportedError for an edit that the tower does not have.
    """
    tower, semantic = model.image_tower, None
    if edit.semantic and texts is not None:
        grid = tower.grid((pixels.shape[-2], pixels.shape[-1]))
        semantic = partial(semantic_affinity, pixels, texts, grid, edit.semantic)
    with inference(model.own_network):
        return F.normalize(tower.dense(pixels, edit, project, semantic).float(), dim=-1)


def on_grid(model: Bundle, values: Tensor, pixels: Tensor) -> Tensor:
    """Values (B, h * w, X) of the patches of images (B, 3, H, W) as maps (B, X, h, w)."""
    grid = model.image_tower.grid((pixels.shape[-2], pixels.shape[-1]))
    return torch.unflatten(values, 1, grid).movedim(-1, 1)


def edit_of(method: str) -> DenseEdit:
    """The entry of EDITS. Raises UnsupportedError for an unknown name."""
    if method not in EDITS:
        raise UnsupportedError(f"no dense method {method!r}; there are {', '.join(EDITS)}")
    return EDITS[method]
