"""Losses over two and three processes: the gradient of one process with the whole batch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forked_processes import run_ranks
from tiny_pairs import Batch, Pairs, gradients, some_batch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from patchword import losses
from patchword.train import distributed, grad_cache

pytestmark = pytest.mark.slow

COUNT = 12  # pairs, shared out among 2 or 3 processes
LABELS = torch.tensor([0, 1, 2, 0, 4, 5, 4, 7, 8, 2, 0, 11])
TRUE = (torch.rand(COUNT, COUNT, generator=torch.Generator().manual_seed(2)) < 0.2) | torch.eye(
    COUNT, dtype=torch.bool
)
Found = dict[str, Tensor]


def one(network: Pairs, loss: Callable[..., Tensor], same: Tensor | None) -> Found:
    """One process with the whole batch."""
    value = loss(*network(some_batch(COUNT)), same)
    value.backward()
    return {"loss": value.detach(), **gradients(network)}


def mean(value: Tensor) -> Tensor:
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def share(batch: Batch) -> slice:
    count = len(batch[0]) // dist.get_world_size()
    return slice(dist.get_rank() * count, (dist.get_rank() + 1) * count)


def many(network: Pairs, loss: Callable[..., Tensor], same: Tensor | None) -> Found:
    """This process's share, averaged with the others by DistributedDataParallel."""
    batch = some_batch(COUNT)
    mine = share(batch)
    wrapped = DistributedDataParallel(network)
    value = loss(*wrapped((batch[0][mine], batch[1][mine])), None if same is None else same[mine])
    value.backward()
    return {"loss": mean(value), **gradients(network)}


def in_parts(network: Pairs, loss: Callable[..., Tensor]) -> Found:
    """The same in micro-batches of two and what is left."""
    batch = some_batch(COUNT)
    mine = share(batch)
    parts = list(zip(*(x[mine].split(2) for x in batch), strict=True))
    wrapped = DistributedDataParallel(network)
    value = grad_cache.backward(wrapped, parts, loss, no_sync=wrapped.no_sync)
    return {"loss": mean(value), **gradients(network)}


def gathered(image: Tensor, text: Tensor, scale: Tensor, same: Tensor | None = None) -> Tensor:
    """Every process computes the loss of all."""
    return losses.contrastive(distributed.gather(image), distributed.gather(text), scale)


def without_the_others(x: Tensor) -> Tensor:
    """Gathered rows of which only this process's own have a gradient."""
    every = distributed.gather(x.detach())
    first = dist.get_rank() * len(x)
    return torch.cat([every[:first], x, every[first + len(x) :]])


def cut(image: Tensor, text: Tensor, scale: Tensor, same: Tensor | None = None) -> Tensor:
    return losses.contrastive(without_the_others(image), without_the_others(text), scale)


def alone(image: Tensor, text: Tensor, scale: Tensor, same: Tensor | None = None) -> Tensor:
    """Each process takes its own pairs for the whole batch."""
    return losses.contrastive(image, text, scale)


def locked(tower: str, sigmoid: bool) -> Pairs:
    """A network one tower of which is frozen."""
    network = Pairs(sigmoid=sigmoid)
    getattr(network.network, tower).requires_grad_(False)
    return network


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    found = {
        "contrastive": many(Pairs(), distributed.contrastive, None),
        "contrastive, labels": many(Pairs(), distributed.contrastive, LABELS),
        "contrastive, true": many(Pairs(), distributed.contrastive, TRUE),
        "contrastive, all gathered": many(Pairs(), gathered, None),
        "contrastive, in parts": in_parts(Pairs(), distributed.contrastive),
        "sigmoid": many(Pairs(sigmoid=True), distributed.sigmoid, None),
        "sigmoid, labels": many(Pairs(sigmoid=True), distributed.sigmoid, LABELS),
        "sigmoid, true": many(Pairs(sigmoid=True), distributed.sigmoid, TRUE),
        "contrastive, one tower": many(locked("image", False), distributed.contrastive, None),
        "sigmoid, one tower": many(locked("text", True), distributed.sigmoid, None),
        "sigmoid, in parts": in_parts(Pairs(sigmoid=True), distributed.sigmoid),
        "wrong: no gradient through the others": many(Pairs(), cut, None),
        "wrong: no others": many(Pairs(), alone, None),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(params=[2, 3], scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Found]]:
    """What each process found."""
    folder = tmp_path_factory.mktemp("processes")
    run_ranks(work, request.param, request.param, str(folder))
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(request.param)]


def test_equals_one_process(results: list[dict[str, Found]]) -> None:
    expected = {
        "contrastive": one(Pairs(), losses.contrastive, None),
        "contrastive, labels": one(Pairs(), losses.contrastive, LABELS),
        "contrastive, true": one(Pairs(), losses.contrastive, TRUE),
        "sigmoid": one(Pairs(sigmoid=True), losses.sigmoid, None),
        "sigmoid, labels": one(Pairs(sigmoid=True), losses.sigmoid, LABELS),
        "sigmoid, true": one(Pairs(sigmoid=True), losses.sigmoid, TRUE),
        "contrastive, one tower": one(locked("image", False), losses.contrastive, None),
        "sigmoid, one tower": one(locked("text", True), losses.sigmoid, None),
    }
    for name in ("all gathered", "in parts"):
        expected[f"contrastive, {name}"] = expected["contrastive"]
    expected["sigmoid, in parts"] = expected["sigmoid"]
    for found in results:
        for name, value in expected.items():
            assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")
    for name, value in expected.items():
        assert value["network.logit_scale"].abs() > 1e-2, name


def test_a_missing_gradient_would_show(results: list[dict[str, Found]]) -> None:
    whole = one(Pairs(), losses.contrastive, None)
    for name in ("wrong: no gradient through the others", "wrong: no others"):
        found = results[0][name]
        assert any((found[key] - value).abs().max() > 1e-2 for key, value in whole.items())
    cut = results[0]["wrong: no gradient through the others"]
    assert_close(cut["loss"], whole["loss"])  # which the loss itself does not show
