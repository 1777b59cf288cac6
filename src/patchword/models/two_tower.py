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
    """An image tower f and a text tower g with a joint space of `config.embed_dim` dimensions:

        x = f(image) / |f(image)|,   y = g(text) / |g(text)|
        CLIP:    p(text | image) = softmax over texts of  scale x . y      (CLIP, figure 3)
        SigLIP:  p(pair)         = sigmoid(scale x . y + bias)             (SigLIP, section 3.2)

    `config.score` is "softmax" or "sigmoid".
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.text is None:
            raise ConfigError("a two-tower model needs a text config")
        vision = config.image_tower
        # SigLIP's attention pooling gives a vector of the joint space, without a head.
        has_head = not (isinstance(vision, ViTConfig) and vision.pool == "map")
        self.image = image_tower(vision, config.embed_dim if has_head else 0)
        self.text = TextTransformer(config.text, config.embed_dim)
        self.add_dense_head(config)
        if config.score == "sigmoid":  # initial values: SigLIP, section 3.2
            self.logit_scale = nn.Parameter(torch.tensor(math.log(10)))
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))
            self.scale_limit = math.inf
        else:  # CLIP, section 2.5
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
            self.scale_limit = config.scale_limit

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), clipped at the limit: the factor of cosines."""
        return self.logit_scale.exp().clamp(max=self.scale_limit)

    @property
    def bias(self) -> Tensor:
        """The bias that is added to a scaled cosine before a sigmoid; 0 for a softmax."""
        bias: Tensor = getattr(self, "logit_bias", self.logit_scale.new_zeros(()))
        return bias

    def forward(self, pixels: Pixels, ids: Tensor) -> tuple[Tensor, ...]:
        """See `pairs`."""
        return self.pairs(pixels, ids)

    def pairs(self, pixels: Pixels, ids: Tensor) -> tuple[Tensor, ...]:
        """The arguments of a loss over pairs: unit image features (B, D) and text features (T, D),
        float32, and the scale (); with `config.score` "sigmoid" also the bias ()."""
        image = F.normalize(self.image(pixels).float(), dim=-1)
        text = F.normalize(self.text(ids).float(), dim=-1)
        if hasattr(self, "logit_bias"):
            return image, text, self.scale, self.logit_bias
        return image, text, self.scale
