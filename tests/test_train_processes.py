"""A run in several processes gives the same weights as one in a single process."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from forked_processes import free_ports, set_environment, start_command, torchrun_environment
from tiny_runs import OBJECTIVES, curve, load, train_in_processes, write

import patchword
from patchword.errors import RecipeError
from patchword.train import loop, parallel, state

pytestmark = pytest.mark.slow

EXACT = 1e-5  # relative tolerance: float32 sums have another order
# Few steps and one checkpoint: a difference between processes shows in the first step, and for each
# checkpoint all processes gather the weights of FSDP.
SHORT = ["steps=4", "checkpoint_every=4"]


def losses_of(folder: Path) -> list[float]:
    return list(curve(folder).values())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return patchword.load(folder / "model").network.state_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in one process and in several, each in a folder named after it."""
    top = tmp_path_factory.mktemp("runs")
    files = {objective: write(top, objective) for objective in OBJECTIVES}
    for objective, file in files.items():
        loop.train(load(file, *SHORT, f"out={top / objective}"))
    contrastive = files["contrastive"]
    lora = ["lora.rank=2", f"init={top / 'contrastive' / 'model'}"]
    loop.train(load(contrastive, *SHORT, f"out={top / 'lora'}", *lora))
    loop.train(load(contrastive, *SHORT, f"out={top / 'parts'}", "until=1"))
    for world, kind, until in ((2, "ddp", 2), (3, "fsdp", 3)):
        engine = [*SHORT, f"engine.parallel={kind}"]
        runs = [
            (str(file), [*engine, "micro_batch=2", f"out={top / kind / objective}"])
            for objective, file in files.items()
        ]
        runs.append((str(contrastive), [*engine, f"out={top / kind / 'lora'}", *lora]))
        runs.append((str(contrastive), [*engine, f"out={top / 'parts'}", f"until={until}"]))
        train_in_processes(world, runs)
    return top


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", [*OBJECTIVES, "lora"])
def test_processes_equal_one(folder: Path, kind: str, name: str) -> None:
    """Two with DistributedDataParallel, three with FSDP."""
    assert losses_of(folder / kind / name) == pytest.approx(losses_of(folder / name), rel=EXACT)
    expected, found = weights(folder / name), weights(folder / kind / name)
    assert expected.keys() == found.keys()
    for key, value in expected.items():  # Adam turns rounding of a tiny gradient into a full step
        assert (found[key] - value).abs().mean() < 1e-5, key


def test_a_run_goes_on_in_another_number_of_processes(folder: Path) -> None:
    """One, then two with DDP, then three with FSDP, then one."""
    file = folder / "contrastive.toml"
    assert loop.train(load(file, *SHORT, f"out={folder / 'parts'}")).samples == 12
    assert list(curve(folder / "parts")) == list(range(1, 5))
    expected = losses_of(folder / "contrastive")
    assert losses_of(folder / "parts") == pytest.approx(expected, rel=EXACT)


def test_one_of_the_processes_that_torchrun_starts_tells(tmp_path: Path) -> None:
    """Only the first process prints. Each has the environment that torchrun gives it."""
    file, (port,) = write(tmp_path), free_ports(1)
    outputs = [tmp_path / f"rank {rank}" for rank in range(2)]
    processes = [
        start_command(outputs[rank], "train", file, "steps=1", first=[partial(set_environment, at)])
        for rank, at in enumerate(torchrun_environment(rank, 2, port) for rank in range(2))
    ]
    for process in processes:
        process.join()
    texts = [Path(f"{each}.{kind}").read_text() for kind in ("out", "err") for each in outputs]
    assert [process.exitcode for process in processes] == [0, 0], texts
    assert "patchword index PHOTOS" in texts[0]
    assert texts[1] == ""


def test_torchrun_as_the_readme_says_killed(tmp_path: Path) -> None:
    """After SIGTERM to torchrun, its processes save one step together, where one process
    continues."""
    file = write(tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    changes = ["steps=3000", "checkpoint_every=1500"]
    process = subprocess.Popen(
        [*torchrun, "-m", "patchword.train", str(file), *changes], stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    (step,) = state.saved(tmp_path / "run")
    assert stderr.count("the same command continues") == 1, stderr
    assert list(curve(tmp_path / "run")) == list(range(1, step + 1))
    assert loop.train(load(file, *changes, f"until={step + 1}")).samples == 12
    loop.train(load(file, *changes, "until=3", f"out={tmp_path / 'one'}"))
    expected = losses_of(tmp_path / "one")
    assert losses_of(tmp_path / "run")[:3] == pytest.approx(expected, rel=EXACT)


def test_a_batch_that_does_not_divide(tmp_path: Path) -> None:
    world = parallel.World(torch.device("cpu"), 0, 2)
    with pytest.raises(RecipeError, match="batch 13 does not divide among 2 processes"):
        loop.Run(load(write(tmp_path), "batch=13"), world)
