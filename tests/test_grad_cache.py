"""A batch in micro-batches has the gradient of the whole batch."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from tiny_pairs import Batch, Pairs, gradients, some_batch
from torch import Tensor, nn
from torch.testing import assert_close

from patchword import losses
from patchword.train import grad_cache

SIZES = (5, 5, 3)  # of micro-batches, the last smaller


def parts(sizes: tuple[int, ...] = SIZES) -> list[Batch]:
    pixels, ids = some_batch(sum(sizes))
    return list(zip(pixels.split(sizes), ids.split(sizes), strict=True))


def in_one_piece(forward: Callable, batches: list, loss: Callable) -> Tensor:
    """The reference: the activations of all micro-batches are kept until the loss is computed."""
    columns = zip(*(forward(batch) for batch in batches), strict=True)
    value = loss(*(torch.cat(column) if column[0].ndim else column[0] for column in columns))
    value.backward()
    return value


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max((ours[name] - value).abs().max().item() for name, value in theirs.items())


@pytest.mark.parametrize("sigmoid", [False, True])
def test_equals_the_whole_batch(sigmoid: bool) -> None:
    network = Pairs(sigmoid=sigmoid)
    loss = losses.sigmoid if sigmoid else losses.contrastive
    value = loss(*network(some_batch(sum(SIZES))))
    value.backward()
    expected = gradients(network)
    assert_close(grad_cache.backward(network, parts(), loss), value.detach())
    ours = gradients(network)
    assert_close(ours, expected)
    assert max(value.abs().max() for value in expected.values()) > 0.1
    for part in parts():  # the losses of micro-batches have another gradient
        (loss(*network(part)) / len(SIZES)).backward()
    assert distance(gradients(network), expected) > 1e-2


@pytest.mark.parametrize("replayed", [True, False])
def test_dropout_is_replayed(replayed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Pairs(dropout=0.3).train()
    torch.manual_seed(3)
    value = in_one_piece(network, parts(), losses.contrastive)
    next_number, expected = torch.rand(()), gradients(network)
    if not replayed:
        monkeypatch.setattr(grad_cache, "_restored", lambda *_: nullcontext())
    torch.manual_seed(3)
    assert_close(grad_cache.backward(network, parts(), losses.contrastive), value.detach())
    if replayed:
        assert_close(gradients(network), expected)
        assert torch.rand(()) == next_number  # the generator has advanced as in one piece
    else:
        assert distance(gradients(network), expected) > 1e-2


def test_a_frozen_tower_and_a_loss_with_its_own_parameters() -> None:
    network, bias = Pairs(), nn.Parameter(torch.tensor(-2.0))
    network.network.image.requires_grad_(False)

    def loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return losses.sigmoid(image, text, scale, bias)

    results = []
    for backward in (in_one_piece, grad_cache.backward):
        backward(network, parts(), loss)
        assert all(value.grad is None for value in network.network.image.parameters())
        results.append({**gradients(network.network.text), "bias": bias.grad})
        bias.grad, network.network.logit_scale.grad = None, None
    assert_close(results[1], results[0])


def test_within_autocast_which_keeps_cast_weights() -> None:
    network = Pairs()
    # Without the cache: with it, the reference would accumulate gradients in bfloat16.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        in_one_piece(network, parts(), losses.contrastive)
    expected = gradients(network)
    with torch.autocast("cpu", torch.bfloat16):
        grad_cache.backward(network, parts(), losses.contrastive)
    assert_close(gradients(network), expected)


def test_activations_of_one_part_at_a_time() -> None:
    network, graphs = Pairs(), [0, 0]  # the number of graphs now, and the maximum

    def forward(batch: Batch) -> tuple[Tensor, ...]:
        image, text, scale = network(batch)
        if image.requires_grad:
            graphs[0] += 1
            graphs[1] = max(graphs)
            image.register_hook(lambda _: graphs.__setitem__(0, graphs[0] - 1))
        return image, text, scale

    in_one_piece(forward, parts(), losses.contrastive)
    assert graphs == [0, len(SIZES)]
    graphs[1] = 0
    grad_cache.backward(forward, parts(), losses.contrastive)
    assert graphs == [0, 1]
