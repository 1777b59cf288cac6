"""The processes of a run, and a network that they train with DistributedDataParallel or FSDP."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from patchword.errors import RecipeError
from patchword.nn.transformer import Block

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run, and the rank of this one."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This process's rows of a batch of `count`."""
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, value: T) -> list[T]:
        """The value of each process, in order of rank. All processes must call it."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes. All processes must call it."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def from_first(self, make: Callable[[], T]) -> T:
        """Call `make` in the first process, and return its result in all. If it raises an
        exception, all processes raise it: the others would wait for ever."""
        result: T | None = None
        error: Exception | None = None
        if self.first:
            try:
                result = make()
            except Exception as caught:
                error = caught
        if self.size > 1:
            shared: list[Any] = [result, error]
            dist.broadcast_object_list(shared)
            result, error = shared
        if error is not None:
            raise error
        return cast("T", result)


@contextmanager
def process_group(device: str) -> Iterator[World]:
    """Context of the processes that `torchrun` started, or of this process alone."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError("engine.device is cuda, and there is none; say cpu or auto")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(torch.device(device))
        return
    own_device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device)
    if device == "cuda":
        torch.cuda.set_device(own_device)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield World(own_device, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


class ParallelModule:
    """A module that all processes train together. It is called like the module itself.

    With DistributedDataParallel every process holds the whole module. With FSDP2 each process holds
    a part of every parameter (Zhao et al. 2023), except for scalars such as the logit scale, which
    FSDP cannot divide. unused_parameters: whether some parameters may get no gradient in a step.
    """

    def __init__(
        self,
        module: nn.Module,
        kind: Literal["ddp", "fsdp"],
        world: World,
        unused_parameters: bool = False,
    ) -> None:
        self.world = world
        self.scalars = [p for p in module.parameters() if p.ndim == 0 and p.requires_grad]
        self.sharded = world.size > 1 and kind == "fsdp"
        self.module = module
        if self.sharded:
            mesh = init_device_mesh(world.device.type, (world.size,))
            scalars = {p for p in module.parameters() if p.ndim == 0}
            for part in list(module.modules()):
                if isinstance(part, Block):
                    fully_shard(part, mesh=mesh)
            fully_shard(module, mesh=mesh, ignored_params=scalars)
        elif world.size > 1:
            ids = [world.device.index] if world.device.type == "cuda" else None
            self.module = DistributedDataParallel(
                module, device_ids=ids, find_unused_parameters=unused_parameters
            )

    def __call__(self, *inputs: Any) -> Any:
        return self.module(*inputs)

    def no_sync(self) -> AbstractContextManager[Any]:
        """Context in which gradients are not averaged over the processes: for all micro-batches but
        the last."""
        if isinstance(self.module, DistributedDataParallel):
            return self.module.no_sync()
        return self._fsdp_no_sync() if self.sharded else nullcontext()

    @contextmanager
    def _fsdp_no_sync(self) -> Iterator[None]:
        module = cast("FSDPModule", self.module)
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)

    def reduce_scalars(self) -> None:
        """Average the gradients of scalars over the processes, which FSDP does not do. To be called
        after backward."""
        if not self.sharded:
            return
        for parameter in self.scalars:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.world.size


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Clip the gradients to a norm of at most `limit`; 0 for no limit. Returns the norm before
    clipping, over all processes. `nn.utils.clip_grad_norm_` cannot mix sharded parameters and
    others."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    plain = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    norms = [full_tensor(nn.utils.get_total_norm(part)) for part in (plain, sharded) if part]
    norm = torch.stack(norms).square().sum().sqrt() if len(norms) > 1 else norms[0]
    if limit:
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale)
    return norm


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole tensor, which may be sharded. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_tensors(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Whole tensors on the CPU by name, which may be sharded. All processes must call it."""
    return {name: full_tensor(tensor).cpu() for name, tensor in tensors}


def local_shard(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """The inverse of `full_tensor`: this process's shard, if `like` is sharded."""
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device)
