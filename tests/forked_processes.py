"""Child processes for tests, forked from a process that has already imported slow modules.

Importing torch takes seconds, a fork milliseconds. Each child calls gc.freeze first: garbage
collection would touch, and so copy, the memory that it shares with its parent, which takes longer
than most commands."""

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
SLOW_IMPORTS = ("torch.distributed.fsdp", "patchword.api", "patchword.train.loop", "patchword.cli")
# torch._dynamo is imported by the first step of an optimizer.
FORKING.set_forkserver_preload([*SLOW_IMPORTS, "lancedb", "matplotlib.pyplot", "torch._dynamo"])


def free_ports(count: int) -> list[int]:
    """Free ports of this machine."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def torchrun_environment(rank: int, world: int, port: int) -> dict[str, str]:
    """The environment variables that torchrun sets for a process."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
    }


def set_environment(values: Mapping[str, str | None]) -> None:
    """Set environment variables of this process, and delete those whose value is None."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def run_ranks(work: Callable[..., None], world: int, *arguments: Any) -> None:
    """Run `work(rank, *arguments)` in `world` processes at once. Raises what one of them raised."""
    torch.multiprocessing.start_processes(
        _run_rank, (work, *arguments), world, start_method="forkserver"
    )


def _run_rank(rank: int, work: Callable[..., None], *arguments: Any) -> None:
    gc.freeze()
    work(rank, *arguments)


def start(output: Path, *calls: Callable[[], object]) -> BaseProcess:
    """Start a process that makes these calls one after another, and writes its output to the files
    `output`.out and `output`.err."""
    process = FORKING.Process(target=_run_calls, args=(output, calls))
    process.start()
    return process


def start_command(
    output: Path, *arguments: object, first: Sequence[Callable[[], object]] = ()
) -> BaseProcess:
    """Start `patchword` with these arguments. first: calls that the process makes before."""
    return start(output, *first, partial(main, [str(argument) for argument in arguments]))


def _run_calls(output: Path, calls: Sequence[Callable[[], object]]) -> None:
    gc.freeze()
    for descriptor, suffix in ((1, "out"), (2, "err")):
        with open(f"{output}.{suffix}", "wb") as file:
            os.dup2(file.fileno(), descriptor)
    # The inherited Python streams may still be those of the parent's files or pipes.
    sys.stdout = os.fdopen(1, "w", 1, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, closefd=False)
    for call in calls:
        call()
