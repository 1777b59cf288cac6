"""Two towers and a temperature: CLIP (Radford et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchword.config import ModelConfig, TextConfig
from patchword.errors import ConfigError
from patchword.models.resnet import ModifiedResNet
from patchword.models.vit import VisionTransformer
from patchword.nn.pooling import end_token
from patchword.nn.taps import NO_TAPS, Taps
from patchword.nn.transformer import Block, causal_mask, run


class TextTransformer(nn.Module):
    """Ids (B, L) -> (B, out), pooled at the end token, final norm first (section 2.4).

    L may be anything up to the context: under the causal mask, what follows the end token cannot
    change the answer. Taps: "tokens" (B, L, D), "blocks.{i}" and its ".attn.*".
    """

    def __init__(self, config: TextConfig, out: int) -> None:
        super().__init__()
        self.config = config
        self.token_embed = nn.Embedding(config.vocab_size, config.width)
        self.pos_embed = nn.Parameter(torch.empty(1, config.context, config.width))
        nn.init.normal_(self.pos_embed, std=0.01)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_width, config.activation, config.eps)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.head = nn.Linear(config.width, out, bias=False)

    def forward(self, ids: Tensor, taps: Taps = NO_TAPS) -> Tensor:
        x = self.token_embed(ids)
        x = x + self.pos_embed[:, : ids.shape[1]].to(x.dtype)
        taps.keep("tokens", x)
        mask = causal_mask(ids.shape[1], x) if self.config.causal else None
        x = run(self.blocks, x, mask, taps)
        return self.head(self.norm(end_token(x, ids, self.config.end_token)))  # type: ignore[no-any-return]


class TwoTower(nn.Module):
    """An image tower and a text tower that meet in one space of `config.embed_dim` dimensions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.text is None:
            raise ConfigError("a two-tower model needs a text config")
        tower = ModifiedResNet if config.vision.kind == "resnet" else VisionTransformer
        self.image = tower(config.vision, config.embed_dim)
        self.text = TextTransformer(config.text, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # section 2.5
        self.scale_limit = config.scale_limit

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by before a softmax: exp(logit_scale), held at the limit."""
        return self.logit_scale.exp().clamp(max=self.scale_limit)

    def encode_image(
        self, pixels: Tensor, taps: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Pixels (B, 3, H, W) -> features (B, D) in the joint space, not normalised."""
        return _tapped("image", self.image, pixels, taps)

    def encode_text(
        self, ids: Tensor, taps: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Ids (B, L) -> features (B, D) in the joint space, not normalised."""
        return _tapped("text", self.text, ids, taps)

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit image features (B, D), unit text features (T, D), both float32, and the scale."""
        image, text = self.image(pixels).float(), self.text(ids).float()
        return F.normalize(image, dim=-1), F.normalize(text, dim=-1), self.scale


def _tapped(
    name: str, tower: nn.Module, x: Tensor, names: Sequence[str]
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    taps = Taps(names)
    features = tower(x, taps.inside(name))
    return (features, taps.result()) if names else features
