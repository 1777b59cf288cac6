"""How patch features come out of an image tower, as data: which tokens of the last layers mix with
which, and what of the layer follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rule = Literal["qk", "qq", "kk", "vv", "identity", "near"]
Positions = Literal["own", "offset", "bicubic", "bilinear", "none"]


@dataclass(frozen=True)
class Normalised:
    """Queries, keys and values of unit length, smoothed by their own likeness before they are
    compared (GEM, Bousselham et al. 2023, section 3.2).

    steps        how often z becomes softmax(t z z^T) z, of unit length again
    temperature  t; None: the mean length of the normed tokens (B, N, D) times 1 / sqrt(d)
    """

    steps: int = 1
    temperature: float | None = None


@dataclass(frozen=True)
class Earlier:
    """A <- total ((1 - share) A + share A'), A' the mean attention, head by head, of blocks
    `first` up to `end`, counted as of 12 (ResCLIP, Yang et al. 2024, section 3.2)."""

    total: float = 2.0
    share: float = 0.6
    first: int = 5
    end: int = 9


@dataclass(frozen=True)
class Semantic:
    """A second pass in which patches that the first gave one label attend to each other: logits <-
    total ((1 - share) logits + share E) (ResCLIP, section 3.3; E: see `where.resclip`).

    threshold  labels whose probability is below count as the first text
    paths      whether the straight line between two patches has to stay in their label
    scale      what cosines are multiplied by before the softmax over texts
    """

    total: float = 2.1
    share: float = 0.6
    threshold: float = 0.1
    paths: bool = True
    scale: float = 40.0


@dataclass(frozen=True)
class Calibration:
    """SC-CLIP (Bai et al. 2024, "Self-calibrated CLIP"); blocks counted as of 12.

    likeness     the block whose patches say which patch is like which
    detail       the block by whose patches the result is averaged
    first, end   the blocks whose sum goes through the same attention
    class_share  of the class token, where there is one, that is added to every patch
    least        cosines below count as 0 where patches are averaged
    neighbours   of a patch, with which it is compared to find outliers
    outliers     the share of patches that are
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
    """What MaskCLIP makes of the cosines of several texts (Zhou et al. 2022, section 3.2, "key
    smoothing" and "prompt denoising", as its code has them; the thresholds are those that its
    configs name).

    least   texts whose highest probability in the image is below are left out
    unsure  patches whose highest probability is below take those of all patches, by how alike their
            keys are; 0: cosines stay cosines
    scale   what cosines are multiplied by before the softmax over texts
    """

    least: float = 0.5
    unsure: float = 1.0
    scale: float = 100.0


@dataclass(frozen=True)
class DenseEdit:
    """How patch features come out of the last layers, all before them unchanged.

    attention  rules whose softmax maps are averaged: "qk" is the layer's own,
               softmax(q k^T / sqrt(d)); "qq", "kk" and "vv" compare queries, keys or values with
               each other; "identity", alone, is each token's own value; "near" compares
               nothing: `gaussian` times the mean length of queries by that of keys / sqrt(d)
    row_sum    what a row of attention sums to: 1, or more of it beside the residual
    gaussian   > 0: exp(-r^2 / 2 gaussian^2) is added to the logits of patches r patches apart
    residual   whether the tokens that enter the first of these layers are added
    mlp        whether the last layer's MLP follows
    blocks     how many of the last layers. More than one: what their attentions give is summed,
               each computed from what enters its layer in the network as it is
    positions  how learned positions come to another grid than theirs: as the tower does it "own",
               or as the code of the method: bicubic with factor (n + 0.1) / n0 "offset", "bicubic"
               or "bilinear", all three not antialiased; "none", of a ResNet's pooling alone: its
               places have no positions
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
        """Whether it reads one layer alone."""
        return self.blocks == 1 and self.earlier is None and self.calibration is None
