"""Features to lose something over, and the parts of papers' formulas in numpy's float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def features(count: int = 9, width: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, count, width, generator=generator)
    text += image  # pairs are alike, so that positives and negatives differ
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


def inputs(*values: Tensor | float) -> list[Tensor]:
    return [torch.as_tensor(value).clone().requires_grad_() for value in values]


def with_gradient(loss: Callable[..., Tensor], given: list[Tensor]) -> list[Tensor]:
    value = loss(*given)
    return [value.detach(), *torch.autograd.grad(value, given)]


def expected(value: Any) -> Tensor:
    return torch.tensor(float(value))


def log_sum_exp(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis, keepdims=True)
    return (top + np.log(np.exp(x - top).sum(axis, keepdims=True))).squeeze(axis)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - log_sum_exp(x, -1)[..., None]


def logits64(image: Tensor, text: Tensor, scale: float) -> np.ndarray:
    return scale * image.double().numpy() @ text.double().numpy().T
