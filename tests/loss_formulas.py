"""Features for tests of losses, and parts of the papers' formulas in float64 numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def features(count: int = 9, width: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit features of images and texts, each (count, width), in which matching pairs are close."""
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, count, width, generator=generator)
    text += image  # so that positives are closer than negatives
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


def inputs(*values: Tensor | float) -> list[Tensor]:
    """Leaf tensors that require gradients, copied from the values."""
    return [torch.as_tensor(value).clone().requires_grad_() for value in values]


def with_gradient(loss: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The loss, then its gradient for each input."""
    value = loss(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


def expected(value: Any) -> Tensor:
    """A number as a float32 scalar tensor."""
    return torch.tensor(float(value))


def log_sum_exp(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis, keepdims=True)
    return (top + np.log(np.exp(x - top).sum(axis, keepdims=True))).squeeze(axis)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - log_sum_exp(x, -1)[..., None]


def logits64(image: Tensor, text: Tensor, scale: float) -> np.ndarray:
    return scale * image.double().numpy() @ text.double().numpy().T
