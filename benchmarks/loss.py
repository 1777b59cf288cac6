"""Losses of a large batch beside open_clip's: seconds and memory of forward and backward.

    python benchmarks/loss.py [--large]

Reference: open_clip's ClipLoss and SigLipLoss, on one process, float32, D = 512, N = 8,192 and
16,384; with --large ClipLoss alone at 32,768, where it needs 16 GiB. Each is measured in a process
of its own: the faster of two rounds (--large: one), and the peak of resident memory above what was
resident when the features were made. Both must find the same loss and gradients.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
WIDTH = 512
NAMES = {"contrastive": "ClipLoss", "sigmoid": "SigLipLoss"}


def resident(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most since `/proc/self/clear_refs` was written."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found, field
    return int(found[1]) / 1024


def unit(count: int, seed: int) -> Tensor:
    """Unit features, made in place: nothing is left over that a loss could use."""
    x = torch.empty(count, WIDTH).normal_(generator=torch.Generator().manual_seed(seed))
    for row in x.split(1024):
        row /= row.norm(dim=1, keepdim=True)
    return x.requires_grad_()


def measure(who: str, loss: str, count: int, rounds: int) -> None:
    """Print seconds, MB and what was found, as JSON."""
    if who == "open_clip":
        import torchvision_cpu  # noqa: F401  # before open_clip, which imports torchvision
        from open_clip import loss as module

        run = getattr(module, NAMES[loss])()
    else:
        from patchword import losses

        run = getattr(losses, loss)
    numbers = [30.0, -10.0][: 2 if loss == "sigmoid" else 1]
    times, most, found = [], 0.0, []
    for size in (64, *[count] * rounds):  # the first loads what a first product loads
        inputs = [unit(size, 0), unit(size, 1)]
        inputs += [torch.tensor(number, requires_grad=True) for number in numbers]
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before, start = resident("VmRSS"), time.perf_counter()
        value = run(*inputs)
        value.backward()
        times.append(time.perf_counter() - start)
        most = resident("VmHWM") - before
        found = [value.item(), *(x.grad.square().sum().item() for x in inputs)]
        del value
    print(json.dumps({"seconds": min(times[1:]), "MB": most, "found": found}))


def compare(loss: str, count: int, rounds: int) -> None:
    """One line: both and their ratios."""
    results = {}
    for who in ("open_clip", "patchword"):
        command = [sys.executable, __file__, "--one", who, loss, str(count), str(rounds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[who] = json.loads(done.stdout)
    theirs, ours = results["open_clip"], results["patchword"]
    pairs = zip(theirs["found"], ours["found"], strict=True)
    same = all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-9) for a, b in pairs)
    print(
        f"{loss} N = {count:,}: open_clip {theirs['seconds']:.2f} s {theirs['MB']:,.0f} MB, "
        f"patchword {ours['seconds']:.2f} s {ours['MB']:,.0f} MB: "
        f"time x{ours['seconds'] / theirs['seconds']:.2f}, "
        f"memory 1/{theirs['MB'] / ours['MB']:.0f}, same result: {'yes' if same else 'NO'}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="N = 32,768 alone")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        who, loss, count, rounds = given.one
        measure(who, loss, int(count), int(rounds))
        return
    print(f"{torch.get_num_threads()} threads, D = {WIDTH}, forward and backward")
    if given.large:
        compare("contrastive", 32768, 1)
        return
    for loss in NAMES:
        for count in (8192, 16384):
            compare(loss, count, 2)


if __name__ == "__main__":
    main()
