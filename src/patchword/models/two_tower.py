"""Two towers and a temperature: CLIP (Radford et al. 2021), SigLIP (Zhai et al. 2023)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.config import ModelConfig, ViTConfig
from patchword.errors import ConfigError
from patchword.models.protocols import Pixels
from patchword.models.text import TextTransformer
from patchword.models.towers import ImageEncoder, TextEncoder, image_tower


class TwoTower(ImageEncoder, TextEncoder):
    """An image tower and a text tower with a joint space of `config.embed_dim` dimensions. A score
    is scale * cosine, for a softmax over texts; with `config.score` "sigmoid" it is scale * cosine
    + bias, for a sigmoid (SigLIP, section 3.2). The pooling "map" projects to the joint space by
    itself, and needs no head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.text is None:
            raise ConfigError("a two-tower model needs a text config")
        vision = config.image_tower
        pooled = isinstance(vision, ViTConfig) and vision.pool == "map"  # of that width already
        self.image = image_tower(vision, 0 if pooled else config.embed_dim)
        self.text = TextTransformer(config.text, config.embed_dim)
        self.add_dense_head(config)
        sigmoid = config.score == "sigmoid"  # initial values of the papers: CLIP 2.5, SigLIP 3.2
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if sigmoid else 1 / 0.07)))
        if sigmoid:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))
        self.scale_limit = math.inf if sigmoid else config.scale_limit  # SigLIP has none

    @property
    def scale(self) -> Tensor:
        """The logit scale by which cosines are multiplied: exp(logit_scale), clipped at the
        limit."""
        return self.logit_scale.exp().clamp(max=self.scale_limit)

    @property
    def bias(self) -> Tensor:
        """The bias that is added to a scaled cosine before a sigmoid; 0 for a softmax."""
        bias: Tensor = getattr(self, "logit_bias", self.logit_scale.new_zeros(()))
        return bias

    def forward(self, pixels: Pixels, ids: Tensor) -> tuple[Tensor, ...]:
        """What `pairs` says."""
        return self.pairs(pixels, ids)

    def pairs(self, pixels: Pixels, ids: Tensor) -> tuple[Tensor, ...]:
        """Unit image features (B, D), unit text features (T, D), both float32, and the scale ();
        with `config.score` "sigmoid" also the bias (): what a loss over pairs takes."""
        image, text = self.image(pixels).float(), self.text(ids).float()
        found = F.normalize(image, dim=-1), F.normalize(text, dim=-1), self.scale
        return (*found, self.logit_bias) if hasattr(self, "logit_bias") else found
