"""Losses over two and three processes have the gradient of one process with the whole batch."""

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

COUNT = 12  # pairs, divided among 2 or 3 processes
GROUPS = torch.tensor([0, 1, 2, 0, 4, 5, 4, 7, 8, 2, 0, 11])
POSITIVES = (
    torch.rand(COUNT, COUNT, generator=torch.Generator().manual_seed(2)) < 0.2
) | torch.eye(COUNT, dtype=torch.bool)
Result = dict[str, Tensor]


def in_one_process(network: Pairs, loss: Callable[..., Tensor], positives: Tensor | None) -> Result:
    """One process with the whole batch."""
    value = loss(*network(some_batch(COUNT)), positives)
    value.backward()
    return {"loss": value.detach(), **gradients(network)}


def mean(value: Tensor) -> Tensor:
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def own_rows(batch: Batch) -> slice:
    count = len(batch[0]) // dist.get_world_size()
    return slice(dist.get_rank() * count, (dist.get_rank() + 1) * count)


def in_all_processes(
    network: Pairs, loss: Callable[..., Tensor], positives: Tensor | None
) -> Result:
    """This process's share, averaged with the others by DistributedDataParallel."""
    batch = some_batch(COUNT)
    rows = own_rows(batch)
    wrapped = DistributedDataParallel(network)
    value = loss(
        *wrapped((batch[0][rows], batch[1][rows])), None if positives is None else positives[rows]
    )
    value.backward()
    return {"loss": mean(value), **gradients(network)}


def in_micro_batches(network: Pairs, loss: Callable[..., Tensor]) -> Result:
    """The same in micro-batches of two."""
    batch = some_batch(COUNT)
    rows = own_rows(batch)
    parts = list(zip(*(x[rows].split(2) for x in batch), strict=True))
    wrapped = DistributedDataParallel(network)
    value = grad_cache.backward(wrapped, parts, loss, no_sync=wrapped.no_sync)
    return {"loss": mean(value), **gradients(network)}


def all_gathered(
    image: Tensor, text: Tensor, scale: Tensor, positives: Tensor | None = None
) -> Tensor:
    """Every process computes the loss of the whole batch."""
    return losses.contrastive(distributed.gather(image), distributed.gather(text), scale)


def without_the_others(x: Tensor) -> Tensor:
    """Gathered rows of which only this process's own have a gradient."""
    every = distributed.gather(x.detach())
    first = dist.get_rank() * len(x)
    return torch.cat([every[:first], x, every[first + len(x) :]])


def without_gradient_of_others(
    image: Tensor, text: Tensor, scale: Tensor, positives: Tensor | None = None
) -> Tensor:
    return losses.contrastive(without_the_others(image), without_the_others(text), scale)


def own_pairs_alone(
    image: Tensor, text: Tensor, scale: Tensor, positives: Tensor | None = None
) -> Tensor:
    """Each process computes the loss of its own pairs alone."""
    return losses.contrastive(image, text, scale)


def with_frozen_tower(tower: str, sigmoid: bool) -> Pairs:
    """A network with one frozen tower."""
    network = Pairs(sigmoid=sigmoid)
    getattr(network.network, tower).requires_grad_(False)
    return network


def run_process(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    results = {
        "contrastive": in_all_processes(Pairs(), distributed.contrastive, None),
        "contrastive, labels": in_all_processes(Pairs(), distributed.contrastive, GROUPS),
        "contrastive, true": in_all_processes(Pairs(), distributed.contrastive, POSITIVES),
        "contrastive, all gathered": in_all_processes(Pairs(), all_gathered, None),
        "contrastive, in parts": in_micro_batches(Pairs(), distributed.contrastive),
        "sigmoid": in_all_processes(Pairs(sigmoid=True), distributed.sigmoid, None),
        "sigmoid, labels": in_all_processes(Pairs(sigmoid=True), distributed.sigmoid, GROUPS),
        "sigmoid, true": in_all_processes(Pairs(sigmoid=True), distributed.sigmoid, POSITIVES),
        "contrastive, one tower": in_all_processes(
            with_frozen_tower("image", False), distributed.contrastive, None
        ),
        "sigmoid, one tower": in_all_processes(
            with_frozen_tower("text", True), distributed.sigmoid, None
        ),
        "sigmoid, in parts": in_micro_batches(Pairs(sigmoid=True), distributed.sigmoid),
        "wrong: no gradient through the others": in_all_processes(
            Pairs(), without_gradient_of_others, None
        ),
        "wrong: no others": in_all_processes(Pairs(), own_pairs_alone, None),
    }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(params=[2, 3], scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Result]]:
    """The results of each process."""
    folder = tmp_path_factory.mktemp("processes")
    run_ranks(run_process, request.param, request.param, str(folder))
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(request.param)]


def test_equals_one_process(results: list[dict[str, Result]]) -> None:
    expected = {
        "contrastive": in_one_process(Pairs(), losses.contrastive, None),
        "contrastive, labels": in_one_process(Pairs(), losses.contrastive, GROUPS),
        "contrastive, true": in_one_process(Pairs(), losses.contrastive, POSITIVES),
        "sigmoid": in_one_process(Pairs(sigmoid=True), losses.sigmoid, None),
        "sigmoid, labels": in_one_process(Pairs(sigmoid=True), losses.sigmoid, GROUPS),
        "sigmoid, true": in_one_process(Pairs(sigmoid=True), losses.sigmoid, POSITIVES),
        "contrastive, one tower": in_one_process(
            with_frozen_tower("image", False), losses.contrastive, None
        ),
        "sigmoid, one tower": in_one_process(with_frozen_tower("text", True), losses.sigmoid, None),
    }
    for name in ("all gathered", "in parts"):
        expected[f"contrastive, {name}"] = expected["contrastive"]
    expected["sigmoid, in parts"] = expected["sigmoid"]
    for process_results in results:
        for name, value in expected.items():
            assert_close(
                process_results[name], value, msg=lambda text, name=name: f"{name}: {text}"
            )
    for name, value in expected.items():
        assert value["network.logit_scale"].abs() > 1e-2, name


def test_a_missing_gradient_would_show(results: list[dict[str, Result]]) -> None:
    expected = in_one_process(Pairs(), losses.contrastive, None)
    for name in ("wrong: no gradient through the others", "wrong: no others"):
        result = results[0][name]
        assert any((result[key] - value).abs().max() > 1e-2 for key, value in expected.items())
    without_gradient_of_others = results[0]["wrong: no gradient through the others"]
    assert_close(
        without_gradient_of_others["loss"], expected["loss"]
    )  # which the loss itself does not show
