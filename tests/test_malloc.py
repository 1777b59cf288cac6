"""A training process keeps the memory that it frees."""

import ctypes
import math
import os
import runpy
import subprocess
import sys

import pytest
import torch

from patchword.train import malloc
from patchword.train.malloc import keep_memory

GLIBC = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
# Page faults of a step like a network's, four times: 400 MB made one after another, then freed.
STEPS = """
import resource, sys, torch
from patchword.train.malloc import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
def steps(count):
    for _ in range(count):
        kept = [torch.ones(size) for size in range(1_000_000, 10_000_000, 500_000)]
        del kept
steps(2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps(4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Of pages of 4 KiB: how many huge ones there are differs from time to time."""
    command = [sys.executable, "-c", STEPS, how]
    small = os.environ | {"THP_MEM_ALLOC_ENABLE": "0"}
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env=small)
    return int(ran.stdout)


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_freed_memory_is_used_again() -> None:
    assert faults("keep") * 5 < faults("leave")


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # musl has no gnu_get_libc_version
    assert not keep_memory()


def test_where_a_system_does_not_say_how_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    alone = runpy.run_path(malloc.__file__)
    assert math.isnan(alone["peak_memory"](torch.device("cpu")))
