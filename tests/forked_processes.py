"""Processes of their own for tests, forked from one that has imported what is slow: torch takes
seconds to import, a fork milliseconds. Each freezes what it begins with (gc.freeze): looked through
for garbage, all that memory would be copied, which takes longer than most commands."""

import gc
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torchvision_cpu  # noqa: F401  # before peft, which imports transformers and torchvision

# isort: split
from patchword.cli import main

FORKING = multiprocessing.get_context("forkserver")
# What takes long to import, once for all.
SLOW = ("torch.distributed.fsdp", "patchword.api", "patchword.train.loop", "patchword.cli")
# The first step of an optimizer imports torch._dynamo.
FORKING.set_forkserver_preload([*SLOW, "lancedb", "matplotlib.pyplot", "torch._dynamo"])


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in free:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in free]


def place(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun says to each process, in its environment."""
    at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return at | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}


def environment(values: Mapping[str, str | None]) -> None:
    """Put these into this process's environment, and take out what is None."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def ranks(work: Callable[..., None], world: int, *arguments: Any) -> None:
    """`work(rank, *arguments)` in that many processes at once. Raises what one of them raised."""
    torch.multiprocessing.start_processes(
        _rank, (work, *arguments), world, start_method="forkserver"
    )


def _rank(rank: int, work: Callable[..., None], *arguments: Any) -> None:
    gc.freeze()
    work(rank, *arguments)


def started(said: Path, *work: Callable[[], object]) -> BaseProcess:
    """A process that calls these, one after another; what it says goes to `said`.out and
    `said`.err."""
    process = FORKING.Process(target=_saying, args=(said, work))
    process.start()
    return process


def command(
    said: Path, *arguments: object, first: Sequence[Callable[[], object]] = ()
) -> BaseProcess:
    """`patchword` with these arguments, `started`, but `first` these calls."""
    return started(said, *first, partial(main, [str(argument) for argument in arguments]))


def _saying(said: Path, work: Sequence[Callable[[], object]]) -> None:
    gc.freeze()
    for number, kind in ((1, "out"), (2, "err")):
        with open(f"{said}.{kind}", "wb") as file:
            os.dup2(file.fileno(), number)
    # What Python had there may have been a file, and this may be a pipe.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    for call in work:
        call()
