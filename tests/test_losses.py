"""Losses against their papers' formulas in float64, and open_clip's."""

import math

import torch
import torch.nn.functional as F
import torchvision_cpu  # noqa: F401  before open_clip

# isort: split
from open_clip.loss import ClipLoss
from torch.testing import assert_close

from patchword.losses import contrastive


def features(count: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(2, count, 16, generator=generator)
    image, text = F.normalize(draw, dim=-1)
    return image, text


def test_equals_open_clip_and_its_gradient() -> None:
    image, text = (x.requires_grad_() for x in features())
    scale = torch.tensor(14.0, requires_grad=True)
    ours = torch.autograd.grad(contrastive(image, text, scale), (image, text, scale))
    theirs = torch.autograd.grad(ClipLoss()(image, text, scale), (image, text, scale))
    assert_close(contrastive(image, text, scale), ClipLoss()(image, text, scale))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b)


def test_many_positives_equal_the_sum_in_float64() -> None:
    image, text = features(4)
    same = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]]).bool()
    x = (5.0 * image.double() @ text.double().T).tolist()
    total = 0.0
    for rows, marks in ((x, same.tolist()), (list(zip(*x, strict=True)), same.T.tolist())):
        for row, mark in zip(rows, marks, strict=True):
            norm = math.log(sum(map(math.exp, row)))
            total -= sum(v - norm for v, m in zip(row, mark, strict=True) if m) / sum(mark)
    expected = torch.tensor(total / 8, dtype=torch.float32)
    assert_close(contrastive(image, text, torch.tensor(5.0), same), expected)
