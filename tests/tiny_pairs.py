"""A two-tower network small enough for many training steps, and batches for it."""

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
    """A CLIP with dropout on pixels and text features, and with a bias for the sigmoid loss.

    Its weights are large enough that every parameter has a noticeable gradient."""

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
        image = nn.functional.normalize(image.float(), dim=-1)
        text = nn.functional.normalize(text.float(), dim=-1)
        if self.bias is None:
            return image, text, scale
        return image, text, scale, self.bias


def some_batch(count: int) -> Batch:
    """Random pixels (count, 3, 16, 16), and ids (count, 6) that end with the end token."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 49, (count, 6), generator=generator)
    ids[:, -1] = 49
    return torch.randn(count, 3, 16, 16, generator=generator), ids


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """The gradient of each parameter that is not frozen, by name. Clears the gradients."""
    results = {}
    for name, value in network.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
        if value.grad is not None:
            results[name], value.grad = value.grad, None
    return results
