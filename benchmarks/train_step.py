"""A training step of CLIP ViT-B/32 (forward, loss, backward, AdamW): samples a second, beside
open_clip.

    python benchmarks/train_step.py [--batches 32] [--steps 3] [--rounds 2] [--only bfloat16]

Both start with the same weights and the same images and texts, in float32 and with bfloat16
autocast: full texts of 77 tokens, and captions of 8 to 16, which patchword trims to the longest and
open_clip pads to 77. The peer is the step of open_clip_train: its CLIP, ClipLoss, optimizer
settings and precision "amp_bf16". Each library runs in processes of its own, in turn, --rounds of
them. Rates are of the median of all steps, without the first of each kind in a process; memory is
the peak during training. The losses of all steps must agree, in bfloat16 that of the first. Uses a
GPU if there is one, and then also measures the share of its peak rate.
"""

import argparse
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from rows import Rows, option_parser, rates
from torch import Tensor, nn

NAME, CONTEXT, START, END = "ViT-B-32", 77, 49406, 49407
ADAMW_OPTIONS = {"lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-6}  # open_clip_train's for a ViT
DECAY = 0.2
# By precision, the allowed relative difference of losses, and the number of steps to compare (None:
# all). In bfloat16 gradients near zero differ in sign, which decides Adam's first updates.
LOSS_TOLERANCES = {"float32": (1e-4, None), "bfloat16": (2e-3, 1)}
GPU_GOALS = {"full texts": 1.3, "captions": 1.6}  # samples/s relative to open_clip
PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}  # bfloat16, operations a second
Cell = tuple[str, str, int]  # precision, kind of text, batch
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def texts(count: int, kind: str) -> Tensor:
    """Ids (count, 77), zeros after the end token."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, START, (count, CONTEXT), generator=generator)
    lengths = torch.full((count,), CONTEXT)
    if kind == "captions":
        lengths = torch.randint(8, 17, (count,), generator=generator)
        lengths[0] = 16
    places = torch.arange(CONTEXT)
    ids[:, 0] = START
    ids[places == lengths[:, None] - 1] = END
    return ids.masked_fill(places >= lengths[:, None], 0)


def write(folder: Path, tiny: bool = False) -> None:
    """Write a model of open_clip as it saves one. tiny: with two narrow layers, to try the
    script."""
    import torchvision_cpu  # noqa: F401  # before open_clip, which imports torchvision
    import open_clip  # isort: skip
    from open_clip.push_to_hf_hub import save_config_for_hf
    from safetensors.torch import save_file

    torch.manual_seed(0)
    config = open_clip.get_model_config(NAME)
    if tiny:
        config["vision_cfg"] |= {"layers": 2, "width": 64, "head_width": 32}
        config["text_cfg"] |= {"layers": 2, "width": 64, "heads": 2}
    network = open_clip.create_model(NAME, **config)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    save_config_for_hf(network, folder / "open_clip_config.json", model_config=config)


def theirs(folder: str, pixels: Tensor, ids: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """open_clip's network, and a function that computes its loss of this batch."""
    import torchvision_cpu  # noqa: F401  # before open_clip, which imports torchvision
    import open_clip  # isort: skip

    network = open_clip.create_model(f"local-dir:{folder}", device=DEVICE, output_dict=True)
    loss = open_clip.ClipLoss()
    return network, lambda: loss(**network(pixels, ids))


def ours(folder: str, pixels: Tensor, ids: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """patchword's network, and a function that computes its loss of this batch."""
    from patchword import checkpoints, losses
    from patchword.train.malloc import keep_memory

    keep_memory()
    network = checkpoints.load(folder, device=DEVICE).network
    ids = ids[:, : int((ids == END).int().argmax(dim=1).max()) + 1]
    return network, lambda: losses.contrastive(*network(pixels, ids))


def adamw(network: nn.Module, fused: bool) -> torch.optim.Optimizer:
    """AdamW without weight decay of norms, biases and other vectors and scalars."""
    without_decay, with_decay = [], []
    for name, value in network.named_parameters():
        if value.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale")):
            without_decay.append(value)
        else:
            with_decay.append(value)
    groups = [
        {"params": without_decay, "weight_decay": 0.0},
        {"params": with_decay, "weight_decay": DECAY},
    ]
    return torch.optim.AdamW(groups, **ADAMW_OPTIONS, fused=fused or None)


def attention(side: str, precision: str) -> Any:
    """patchword's choice of attention: on a CPU the backward of torch's fused attention is slow in
    bfloat16."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if side == "patchword" and precision == "bfloat16" and DEVICE.type == "cpu":
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def peak(reset: bool = False) -> float:
    """Peak memory in MiB since the last call with `reset`."""
    if DEVICE.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert match
    return int(match[1]) / 1024


def measure(side: str, folder: str, cells: list[Cell], steps: int) -> None:
    """Print the results of `train` for each cell, as JSON."""
    print(json.dumps([train(side, folder, *cell, steps) for cell in cells]))


def train(
    side: str, folder: str, precision: str, kind: str, batch: int, steps: int
) -> dict[str, Any]:
    """Train some steps. Returns seconds of each, peak memory in MiB, the losses, and the operations
    in a step."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(2)
    pixels = torch.randn(batch, 3, 224, 224).to(DEVICE)
    make = ours if side == "patchword" else theirs
    network, loss = make(folder, pixels, texts(batch, kind).to(DEVICE))
    network.train()
    optimizer = adamw(network, fused=side == "patchword")
    half = precision == "bfloat16"
    seconds, values, operations = [], [], 0
    for number in range(steps + 1):
        if number == 1:
            peak(reset=True)
        counter = FlopCounterMode(display=False) if number == 0 else nullcontext()
        start = time.perf_counter()
        optimizer.zero_grad()
        with counter, attention(side, precision):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
                value = loss()
            value.backward()
        optimizer.step()
        with torch.no_grad():
            network.logit_scale.clamp_(0, math.log(100))
        values.append(value.item())  # waits for the GPU
        seconds.append(time.perf_counter() - start)
        if number == 0:
            operations = counter.get_total_flops()
    return {"seconds": seconds[1:], "MiB": peak(), "losses": values, "operations": operations}


def run(side: str, folder: str, cells: list[Cell], steps: int) -> list[dict[str, Any]]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--one", side, folder, json.dumps(cells), str(steps)]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(process.stdout)


def compare(folder: str, cells: list[Cell], steps: int, rounds: int, rows: Rows) -> None:
    """Add rows for each cell: samples/s, and on a known GPU operations a second beside its peak."""
    rounds_by_side: dict[str, list[list[dict[str, Any]]]] = {"open_clip": [], "patchword": []}
    for _ in range(rounds):
        for side, results in rounds_by_side.items():
            results.append(run(side, folder, cells, steps))
    for number, (precision, kind, batch) in enumerate(cells):
        runs = {
            side: [results[number] for results in rounds] for side, rounds in rounds_by_side.items()
        }
        what = f"training step, ViT-B/32, {precision}, {kind}"
        more = {"agreement": agreement(runs, precision), "axis": "batch", "at": batch}
        median = {
            side: statistics.median(seconds for run in of_side for seconds in run["seconds"])
            for side, of_side in runs.items()
        }
        on_gpu = DEVICE.type == "cuda"
        rows.add_peers(
            what, "samples/s", rates(batch, median), GPU_GOALS[kind] if on_gpu else 1.0, **more
        )
        name = torch.cuda.get_device_name() if on_gpu else ""
        for gpu, top in PEAKS.items():
            if gpu in name and precision == "bfloat16":
                reached = runs["patchword"][0]["operations"] / median["patchword"] / 1e12
                mine, peak_rate = ("patchword", reached), (f"peak of {gpu}", top / 1e12)
                rows.add(what, "TFLOP/s", peak_rate, mine, limit=0.3, axis="batch", at=batch)


def agreement(runs: dict[str, list[dict[str, Any]]], precision: str) -> str:
    """Whether the losses agree, and the memory of both sides, as text."""
    tolerance, steps = LOSS_TOLERANCES[precision]
    theirs, mine = (runs[side][0]["losses"][:steps] for side in ("open_clip", "patchword"))
    pairs = zip(theirs, mine, strict=True)
    same = all(math.isclose(a, b, rel_tol=tolerance) for a, b in pairs)
    memory = [max(run["MiB"] for run in of_side) for of_side in runs.values()]
    return f"losses {'the same' if same else 'DIFFER'}, {memory[0]:,.0f} and {memory[1]:,.0f} MiB"


def main(options: argparse.Namespace) -> None:
    if options.one:
        side, folder, cells, steps = options.one
        measure(side, folder, json.loads(cells), int(steps))
        return
    rows = Rows(options.results, DEVICE.type)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for precision, kind, batch in itertools.product(
            [options.only] if options.only else LOSS_TOLERANCES, GPU_GOALS, options.batches
        ):
            compare(folder, [(precision, kind, batch)], options.steps, options.rounds, rows)


if __name__ == "__main__":
    parser = option_parser(__doc__, rounds=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[32])
    parser.add_argument("--steps", type=int, default=3, help="in each process, after the first")
    parser.add_argument("--only", choices=LOSS_TOLERANCES, help="only this precision")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    main(parser.parse_args())
