"""Losses over pairs, against the formulas of their papers in float64 and against other
libraries."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision_cpu  # noqa: F401  before open_clip, timm and transformers

# isort: split
from loss_formulas import expected, features, inputs, log_sum_exp, logits64, with_gradient
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import SiglipConfig, SiglipModel

from patchword import losses
from patchword.losses import tiles

POSITIVES = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]]).bool()
GROUPS = torch.tensor([7, 3, 3, 0, 7, 7, 1, 2, 5])


def full_contrastive(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    logits, own = scale * image @ text.T, torch.arange(len(image))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def full_sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    sign = 2 * torch.eye(len(image)) - 1
    return -F.logsigmoid(sign * (scale * image @ text.T + bias)).sum() / len(image)


# Contrastive: InfoNCE


def test_contrastive_equals_open_clip_and_its_gradient() -> None:
    arguments = inputs(*features(), 14.0)
    assert_close(with_gradient(losses.contrastive, arguments), with_gradient(ClipLoss(), arguments))


def test_contrastive_equals_the_formula_in_float64() -> None:
    image, text = features()
    x = logits64(image, text, 14.0)
    own = x.diagonal()
    value = ((log_sum_exp(x, 1) - own).mean() + (log_sum_exp(x, 0) - own).mean()) / 2
    assert_close(losses.contrastive(image, text, torch.tensor(14.0)), expected(value))


def test_many_positives_equal_the_sum_in_float64() -> None:
    image, text = features(4)
    x = logits64(image, text, 5.0).tolist()
    total = 0.0
    for rows, marks in (
        (x, POSITIVES.tolist()),
        (list(zip(*x, strict=True)), POSITIVES.T.tolist()),
    ):
        for row, mark in zip(rows, marks, strict=True):
            norm = math.log(sum(map(math.exp, row)))
            total -= sum(v - norm for v, m in zip(row, mark, strict=True) if m) / sum(mark)
    assert_close(losses.contrastive(image, text, torch.tensor(5.0), POSITIVES), expected(total / 8))


@pytest.mark.parametrize(
    "positives", [POSITIVES, 0.3 * POSITIVES.float() + 0.7 * POSITIVES.float().flip(0)]
)
def test_many_positives_equal_soft_cross_entropy_and_its_gradient(positives: Tensor) -> None:
    def full(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        x = scale * image @ text.T
        targets = positives.float()
        rows = targets / targets.sum(dim=1, keepdim=True)
        columns = targets.T / targets.T.sum(dim=1, keepdim=True)
        return (F.cross_entropy(x, rows) + F.cross_entropy(x.T, columns)) / 2

    arguments = inputs(*features(4), 5.0)
    ours = with_gradient(lambda *x: losses.contrastive(*x, positives), arguments)
    assert_close(ours, with_gradient(full, arguments))


@pytest.mark.parametrize("loss", [losses.contrastive, losses.sigmoid])
def test_integers_that_are_equal_are_true_of_each_other(loss: Callable[..., Tensor]) -> None:
    positives = GROUPS[:, None] == GROUPS
    arguments = inputs(*features(), 8.0, *([-3.0] if loss is losses.sigmoid else []))
    ours = with_gradient(lambda *x: loss(*x, positives=GROUPS), arguments)
    assert_close(ours, with_gradient(lambda *x: loss(*x, positives=positives), arguments))
    own_alone = with_gradient(lambda *x: loss(*x, positives=torch.arange(9)), arguments)
    assert_close(own_alone, with_gradient(loss, arguments))
    assert abs(own_alone[0] - ours[0]) > 1e-2


def test_a_loss_near_zero_is_not_lost_in_the_size_of_the_logits() -> None:
    image = F.normalize(features(64, 64)[0] + 0.3, dim=-1)
    x = logits64(image, image, 100.0)  # its own logit is 100, the others below 90
    value = (log_sum_exp(x, 1) - x.diagonal()).mean()
    assert 1e-4 < value < 1e-3
    ours = losses.contrastive(image, image, torch.tensor(100.0))
    assert abs(ours.item() - value) < 3e-8
    x32 = 100.0 * image @ image.T
    plain = (x32.logsumexp(1) - x32.diagonal()).mean()
    assert abs(plain.item() - value) > 1e-7


# Sigmoid


def test_sigmoid_equals_open_clip_and_its_gradient() -> None:
    arguments = inputs(*features(), 10.0, -4.0)
    assert_close(with_gradient(losses.sigmoid, arguments), with_gradient(SigLipLoss(), arguments))


def test_sigmoid_equals_transformers() -> None:
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2}
    vision = tower | {"image_size": 16, "patch_size": 8}
    config = SiglipConfig(text_config=tower | {"vocab_size": 50}, vision_config=vision)
    torch.manual_seed(0)
    model = SiglipModel(config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(9.0))
        model.logit_bias.fill_(-2.0)
        ids, pixels = torch.randint(50, (5, 8)), torch.randn(5, 3, 16, 16)
        theirs = model(input_ids=ids, pixel_values=pixels, return_loss=True)
        features = (theirs.image_embeds, theirs.text_embeds)
        ours = losses.sigmoid(*features, model.logit_scale.exp(), model.logit_bias)
        assert_close(ours, theirs.loss)


@pytest.mark.parametrize("positives", [None, POSITIVES])
def test_sigmoid_equals_algorithm_1_in_float64(positives: Tensor | None) -> None:
    image, text = features(4)
    x = logits64(image, text, 10.0) - 4.0
    sign = 2.0 * (np.eye(4) if positives is None else positives.numpy()) - 1
    value = np.log1p(np.exp(-sign * x)).sum() / 4
    ours = losses.sigmoid(image, text, torch.tensor(10.0), torch.tensor(-4.0), positives)
    assert_close(ours, expected(value))
    assert abs(value / 4 - value) > 1e-1  # dividing by all pairs would be visible


# Both, in tiles

FULL = {
    "contrastive": (losses.contrastive, full_contrastive, (20.0,)),
    "sigmoid": (losses.sigmoid, full_sigmoid, (10.0, -7.0)),
}


@pytest.mark.parametrize("name", FULL)
def test_tiles_equal_the_full_matrix_and_its_gradient(name: str) -> None:
    loss, full, numbers = FULL[name]
    arguments = inputs(*features(2500, 8), *numbers)  # two tiles a side, the last smaller
    ours, theirs = with_gradient(loss, arguments), with_gradient(full, arguments)
    assert_close(ours, theirs)
    # The default tolerance is as large as these gradients.
    for a, b in zip(ours[1:3], theirs[1:3], strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-6 * b.abs().max().item())


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> int:
    """The side of a tile, much smaller than usual."""
    monkeypatch.setattr(tiles, "CPU_SIDE", 100)
    return 100


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("first", [0, 3, 110, 100, -90, 2000])
def test_a_rectangle_of_few_images_and_all_texts(first: int) -> None:
    texts = features(530, 8)[1]
    images = features(330, 8, seed=1)[0]
    arguments = inputs(images.double(), texts.double(), torch.tensor(20.0, dtype=torch.float64))
    weights = torch.linspace(0.5, 1, 330, dtype=torch.float64)

    def combined(rows: Tensor, columns: Tensor, own: Tensor) -> Tensor:
        return (rows * weights).sum() + (columns**2).sum() - (own * weights).sum()

    def full(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        x = scale * image @ text.T
        own = torch.zeros(len(image), dtype=torch.float64)
        begin, end = max(0, -first), max(0, min(330, 530 - first))
        own[begin:end] = x[torch.arange(begin, end), torch.arange(begin, end) + first]
        return combined(x.logsumexp(1), x.logsumexp(0), own)

    ours = with_gradient(lambda *x: combined(*losses.log_sum_exps(*x, first)), arguments)
    assert_close(ours, with_gradient(full, arguments))


def test_gradients_are_those_of_finite_differences() -> None:
    numbers = torch.tensor([3.0, -1.0], dtype=torch.float64)
    image, text, scale, _ = arguments = inputs(*(x.double() for x in features(5, 3)), *numbers)
    few_texts = text[:4].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *x: losses.log_sum_exps(*x, 1), (image, few_texts, scale)
    )
    assert torch.autograd.gradcheck(lambda *x: losses.sigmoid(*x, GROUPS[:5]), arguments)
    assert torch.autograd.gradcheck(lambda *x: losses.contrastive(*x, GROUPS[:5]), arguments[:3])


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that is created in its context."""

    size = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        result = function(*arguments, **(keywords or {}))
        tensors = result if isinstance(result, tuple | list) else [result]
        self.size = max([self.size, *(x.numel() for x in tensors if isinstance(x, Tensor))])
        return result


@pytest.mark.parametrize("name", FULL)
def test_the_matrix_never_exists(name: str, small_tiles: int) -> None:
    arguments = inputs(*features(1000, 4), *FULL[name][2])
    for loss, limit in ((FULL[name][0], small_tiles**2), (FULL[name][1], 1000**2)):
        with LargestTensor() as largest:
            with_gradient(loss, arguments)
        assert largest.size == limit


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_features_are_computed_in_float32(name: str, autocast: bool) -> None:
    loss, full, numbers = FULL[name]
    image, text = (x.bfloat16() for x in features(200, 64))
    arguments = inputs(image, text, *numbers)
    exact = with_gradient(full, inputs(image.float(), text.float(), *numbers))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = with_gradient(loss, arguments)
    types = [torch.float32, *(x.dtype for x in arguments)]
    assert_close(ours, [value.to(dtype) for value, dtype in zip(exact, types, strict=True)])
    rough = with_gradient(full, arguments)[0].float()
    assert abs(rough - exact[0]) > 1e-4


def test_float32_features_within_autocast_stay_so() -> None:
    student, teacher = ((*features(50, 64, seed), torch.tensor(20.0)) for seed in (0, 1))
    positives = torch.eye(50, dtype=torch.bool)
    for loss in (
        lambda: losses.contrastive(*student),
        lambda: losses.contrastive(*student, positives),
        lambda: losses.logit_distillation(student, teacher),
    ):
        exact = loss()
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(loss(), exact)


def test_frozen_towers_cost_nothing_and_get_nothing() -> None:
    image, text = features()
    scale = torch.tensor(8.0, requires_grad=True)
    all_gradients = with_gradient(losses.contrastive, inputs(image, text, 8.0))
    trained_image = image.clone().requires_grad_()
    gradients = torch.autograd.grad(
        losses.contrastive(trained_image, text, scale), (trained_image, scale)
    )
    assert_close(gradients, (all_gradients[1], all_gradients[3]))
    assert not losses.sigmoid(image, text, scale.detach(), torch.tensor(0.0)).requires_grad
    with torch.no_grad():
        assert not losses.sigmoid(trained_image, text, scale, torch.tensor(0.0)).requires_grad


@pytest.mark.parametrize("texts", [1, 8, 10])
def test_images_and_texts_that_are_not_pairs(texts: int) -> None:
    image, text = features()[0], features(texts)[1]
    for loss in (losses.contrastive, lambda *x: losses.sigmoid(*x, torch.tensor(0.0))):
        with pytest.raises(ValueError, match=r"images \(9, 16\) and texts"):
            loss(image, text, torch.tensor(1.0))
