"""Contrastive losses of large batches: time and memory of forward and backward, beside open_clip.

    python benchmarks/loss.py [--large]

Reference: open_clip's ClipLoss and SigLipLoss, in one process, float32, D = 512, N = 8,192 and
16,384; with --large only ClipLoss at 32,768, once, for which it needs 16 GiB. Each measurement runs
in a process of its own, the libraries in turn. Memory is the peak above what was resident when the
features had been made. Losses and gradients must be equal.
"""

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rows import Rows, option_parser
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
WIDTH = 512
NAMES = {"contrastive": "ClipLoss", "sigmoid": "SigLipLoss"}


def resident(field: str) -> float:
    """MiB of this process: VmRSS is the current value, VmHWM the peak since `/proc/self/clear_refs`
    was written."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(rf"{field}:\s+(\d+) kB", status)
    assert match, field
    return int(match[1]) / 1024


def unit(count: int, seed: int) -> Tensor:
    """Unit features (count, WIDTH), made in place, so that no freed memory is left for a loss."""
    x = torch.empty(count, WIDTH).normal_(generator=torch.Generator().manual_seed(seed))
    for row in x.split(1024):
        row /= row.norm(dim=1, keepdim=True)
    return x.requires_grad_()


def measure(library: str, loss: str, count: int) -> None:
    """Print as JSON seconds, MiB, and the loss with its squared gradients."""
    if library == "open_clip":
        import torchvision_cpu  # noqa: F401  # before open_clip, which imports torchvision
        from open_clip import loss as module

        run = getattr(module, NAMES[loss])()
    else:
        from patchword import losses

        run = getattr(losses, loss)
    scale_and_bias = [30.0, -10.0] if loss == "sigmoid" else [30.0]
    for size in (64, count):  # the first warms up
        inputs = [unit(size, 0), unit(size, 1)]
        inputs += [torch.tensor(number, requires_grad=True) for number in scale_and_bias]
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before, start = resident("VmRSS"), time.perf_counter()
        value = run(*inputs)
        value.backward()
        seconds = time.perf_counter() - start
        peak = resident("VmHWM") - before
        values = [value.item(), *(x.grad.square().sum().item() for x in inputs)]
        del value
    print(json.dumps({"s": seconds, "MiB": peak, "values": values}))


def compare(loss: str, count: int, rounds: int, rows: Rows) -> None:
    """Add a row of time and one of memory."""
    runs: dict[str, list[dict[str, Any]]] = {"open_clip": [], "patchword": []}
    for _ in range(rounds):
        for library, results in runs.items():
            command = [sys.executable, __file__, "--one", library, loss, str(count)]
            process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(process.stdout))
    pairs = zip(runs["open_clip"][0]["values"], runs["patchword"][0]["values"], strict=True)
    same = all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-9) for a, b in pairs)
    agreement = f"loss and gradients {'the same' if same else 'DIFFER'}"
    if rounds == 1:
        agreement += ", one round"
    for unit in ("s", "MiB"):
        values = {
            library: statistics.median(result[unit] for result in results)
            for library, results in runs.items()
        }
        rows.add_peers(f"{loss} loss of {count:,} pairs", unit, values, agreement=agreement)


def main(options: argparse.Namespace) -> None:
    if options.one:
        library, loss, count = options.one
        measure(library, loss, int(count))
        return
    rows = Rows(options.results)
    if options.large:
        compare("contrastive", 32768, 1, rows)
        return
    for loss in NAMES:
        for count in (8192, 16384):
            compare(loss, count, options.rounds, rows)


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("--large", action="store_true", help="N = 32,768 alone")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    main(parser.parse_args())
