"""A two-tower network and a batch, small enough for many steps. All weights have a gradient."""

import torch
from torch import Tensor, nn

from patchword import models
from patchword.config import ModelConfig, PreprocessConfig, TextConfig, ViTConfig

CONFIG = ModelConfig(
    vision=ViTConfig(image_size=(16, 16), patch_size=8, width=16, depth=1, heads=2, mlp_width=32),
    text=TextConfig(
        vocab_size=50, context=6, width=16, depth=1, heads=2, mlp_width=32, end_token=49
    ),
    preprocess=PreprocessConfig(size=(16, 16), resize_to=16),
    embed_dim=12,
)
Batch = tuple[Tensor, Tensor]  # pixels, ids


class Pairs(nn.Module):
    """A CLIP with dropout on pixels and text features; the bias is for `sigmoid`."""

    def __init__(self, dropout: float = 0.0, sigmoid: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = models.build(CONFIG)
            for value in self.network.parameters():
                if value.ndim > 1:
                    nn.init.normal_(value, std=0.4)
        self.bias = nn.Parameter(torch.tensor(-2.0)) if sigmoid else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        pixels, ids = batch
        image = self.network.image(self.dropout(pixels))
        text = self.dropout(self.network.text(ids))
        scale = self.network.scale
        unit = (nn.functional.normalize(x.float(), dim=-1) for x in (image, text))
        return (*unit, scale) if self.bias is None else (*unit, scale, self.bias)


def some_batch(count: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 49, (count, 6), generator=generator)
    ids[:, -1] = 49
    return torch.randn(count, 3, 16, 16, generator=generator), ids


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """The gradients of all parameters that are not frozen. They are cleared."""
    found = {}
    for name, value in network.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
        if value.grad is not None:
            found[name], value.grad = value.grad, None
    return found
