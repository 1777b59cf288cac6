"""Edits of an image tower's last layers, as data. They change which tokens attend to which, and
which parts of a layer follow, so that patch features can be compared with texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rule = Literal["qk", "qq", "kk", "vv", "identity", "near"]
Positions = Literal["own", "offset", "bicubic", "bilinear", "none"]


@dataclass(frozen=True)
class Normalised:
    """Queries, keys and values z of unit length, smoothed by self-similarity before they are
    compared (GEM, Bousselham et al. 2023, section 3.2).

    steps        how often z <- normalise(softmax(t z z^T) z)
    temperature  t; None: the mean length of the normed tokens (B, N, D) times 1 / sqrt(d)
    """

    steps: int = 1
    temperature: float | None = None


@dataclass(frozen=True)
class Earlier:
    """A <- total ((1 - share) A + share A'), with A' the mean attention of blocks `first` to
    `end` - 1 in each head (ResCLIP, Yang et al. 2024, section 3.2). Blocks are numbered as in a
    tower of 12."""

    total: float = 2.0
    share: float = 0.6
    first: int = 5
    end: int = 9


@dataclass(frozen=True)
class Semantic:
    """A second pass, in which patches with the same label in the first pass attend to each other:
    logits <- total ((1 - share) logits + share E) (ResCLIP, section 3.3; for E see
    `where.resclip`).

    threshold  a label with a lower probability counts as the first text
    paths      true: the straight line between two patches must stay inside their label
    scale      factor of cosines before the softmax over texts
    """

    total: float = 2.1
    share: float = 0.6
    threshold: float = 0.1
    paths: bool = True
    scale: float = 40.0


@dataclass(frozen=True)
class Calibration:
    """SC-CLIP (Bai et al. 2024, "Self-calibrated CLIP"). Blocks are numbered as in a tower of 12.

    likeness     the block whose patches are compared with each other for attention
    detail       the block whose patches are compared with each other to average the result
    first, end   the outputs of blocks first to end - 1 are summed and go through the attention too
    class_share  share of the class token, if there is one, that is added to every patch
    least        lower cosines count as 0 in averages
    neighbours   number of nearest patches in the outlier score
    outliers     share of patches that are outliers
    """

    likeness: int = 8
    detail: int = 3
    first: int = 3
    end: int = 10
    class_share: float = 0.3
    least: float = 0.4
    neighbours: int = 30
    outliers: float = 0.05


@dataclass(frozen=True)
class Refined:
    """MaskCLIP's refinement of the cosines of several texts (Zhou et al. 2022, section 3.2, "key
    smoothing" and "prompt denoising", as in its code; the thresholds are those of its configs).

    least   texts whose highest probability in the image is lower are left out
    unsure  patches whose highest probability is lower take the mean of all patches, weighted by the
            similarity of their keys; 0: no patch does, and cosines are not made probabilities
    scale   factor of cosines before the softmax over texts
    """

    least: float = 0.5
    unsure: float = 1.0
    scale: float = 100.0


@dataclass(frozen=True)
class DenseEdit:
    """How patch features are computed from the last layers. Layers before them are unchanged.

    attention  rules whose softmax maps are averaged: "qk" is the usual softmax(q k^T / sqrt(d));
               "qq", "kk" and "vv" compare queries, keys or values with each other; "identity", as
               the only rule, gives each token its own value; "near" compares no tokens: its logits
               are those of `gaussian` times the mean of |q_i| |k_j| / sqrt(d)
    row_sum    sum of a row of attention: 1, or more to give attention more weight than the residual
    gaussian   > 0: exp(-r^2 / 2 gaussian^2) is added to the logits of patches r patches apart
    residual   true: the input of the first of these layers is added
    mlp        true: the last layer's MLP follows
    blocks     how many of the last layers. With several, the outputs of their attentions are
               summed, each computed from the unedited input of its layer
    positions  how learned positions are resampled to another grid: "own", as the tower does it; or
               as the method's code does it, without antialiasing: "bicubic", "bilinear", or
               "offset", bicubic with factor (n + 0.1) / n0. "none": places of a ResNet's attention
               pooling have no positions
    """

    attention: tuple[Rule, ...] = ("qk",)
    row_sum: float = 1.0
    gaussian: float = 0.0
    residual: bool = True
    mlp: bool = True
    blocks: int = 1
    positions: Positions = "own"
    normalised: Normalised | None = None
    earlier: Earlier | None = None
    semantic: Semantic | None = None
    calibration: Calibration | None = None
    refined: Refined | None = None

    @property
    def one_layer(self) -> bool:
        """True if it reads one layer only."""
        return self.blocks == 1 and self.earlier is None and self.calibration is None
