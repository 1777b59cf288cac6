"""A training step of CLIP ViT-B/32 beside open_clip's own: forward, loss, backward, AdamW.

    python benchmarks/train_step.py [--batch 32] [--steps 3] [--rounds 2] [--only bfloat16]

Both start from the same weights and see the same images and texts, in float32 and under bfloat16
autocast: full texts of 77 tokens, and ordinary captions of 8 to 16, which patchword trims to the
longest and open_clip pads to 77, as its tokenizer does. Theirs is open_clip_train's step: its CLIP,
ClipLoss and optimiser settings, precision "amp_bf16". Each side runs in a process of its own, the
two in turn. A rate is that of the fastest step of all rounds, but for the first of each process,
which warms up; memory is the most that a process held while it trained. The losses of all steps
must agree, in bfloat16 that of the first. Runs on a GPU where there is one, and then also tells the
share of its peak.
"""

import argparse
import json
import math
import os
import re
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
from torch import Tensor, nn

NAME, CONTEXT, START, END = "ViT-B-32", 77, 49406, 49407
OPTIONS = {"lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-6}  # open_clip_train's for a ViT
DECAY = 0.2
# How far losses may lie apart, relatively, and of how many steps they are compared: rounded to
# bfloat16, gradients near zero differ in sign, and Adam's first updates are little more than that.
LOSSES = {"float32": (1e-4, None), "bfloat16": (2e-3, 1)}
PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}  # bfloat16, operations a second
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


def write(folder: Path) -> None:
    """A model of open_clip's, as it saves one."""
    import torchvision_cpu  # noqa: F401  # before open_clip, which imports torchvision
    import open_clip  # isort: skip
    from open_clip.push_to_hf_hub import save_config_for_hf
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = open_clip.create_model(NAME)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    config = open_clip.get_model_config(NAME)
    save_config_for_hf(network, folder / "open_clip_config.json", model_config=config)


def theirs(folder: str, pixels: Tensor, ids: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """open_clip's network and its loss of this batch."""
    import torchvision_cpu  # noqa: F401  # before open_clip, which imports torchvision
    import open_clip  # isort: skip

    network = open_clip.create_model(f"local-dir:{folder}", device=DEVICE, output_dict=True)
    loss = open_clip.ClipLoss()
    return network, lambda: loss(**network(pixels, ids))


def ours(folder: str, pixels: Tensor, ids: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """patchword's network and its loss of this batch."""
    from patchword import checkpoints, losses
    from patchword.train.malloc import keep_memory

    keep_memory()
    network = checkpoints.load(folder, device=DEVICE).network
    ids = ids[:, : int((ids == END).int().argmax(dim=1).max()) + 1]
    return network, lambda: losses.contrastive(*network(pixels, ids))


def adamw(network: nn.Module, fused: bool) -> torch.optim.Optimizer:
    """No decay of what has one dimension, nor of norms and biases."""
    plain, rest = [], []
    for name, value in network.named_parameters():
        apart = value.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
        (plain if apart else rest).append(value)
    parts = [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": DECAY}]
    return torch.optim.AdamW(parts, **OPTIONS, fused=fused or None)


def attention(who: str, precision: str) -> Any:
    """Under bfloat16 the backward of torch's fused attention is slow on a CPU."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    openly = who == "patchword" and precision == "bfloat16" and DEVICE.type == "cpu"
    return sdpa_kernel(SDPBackend.MATH) if openly else nullcontext()


def peak(reset: bool = False) -> float:
    """MB that this process has held at most since `reset`."""
    if DEVICE.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found
    return int(found[1]) / 1024


def measure(who: str, folder: str, precision: str, kind: str, batch: int, steps: int) -> None:
    """Print seconds a step, MB, the losses and the operations of a step, as JSON."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(2)
    pixels = torch.randn(batch, 3, 224, 224).to(DEVICE)
    side = ours if who == "patchword" else theirs
    network, loss = side(folder, pixels, texts(batch, kind).to(DEVICE))
    network.train()
    optimizer = adamw(network, fused=who == "patchword")
    half = precision == "bfloat16"
    seconds, values, operations = [], [], 0
    for number in range(steps + 1):
        if number == 1:
            peak(reset=True)
        counter = FlopCounterMode(display=False) if number == 0 else nullcontext()
        start = time.perf_counter()
        optimizer.zero_grad()
        with counter, attention(who, precision):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
                value = loss()
            value.backward()
        optimizer.step()
        with torch.no_grad():
            network.logit_scale.clamp_(0, math.log(100))
        values.append(value.item())  # waits for the GPU
        seconds.append(time.perf_counter() - start)
        operations = operations or counter.get_total_flops()
    found = {"seconds": seconds[1:], "MB": peak(), "losses": values, "operations": operations}
    print(json.dumps(found))


def words(who: str, results: list[dict[str, Any]], batch: int) -> str:
    """Samples a second, memory and, on a known GPU, the share of its peak."""
    seconds = min(second for result in results for second in result["seconds"])
    said = f"{who} {batch / seconds:.2f} samples/s, {max(r['MB'] for r in results):,.0f} MB"
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else ""
    for part, top in PEAKS.items():
        if part in name:
            said += f", {results[0]['operations'] / seconds / top:.0%} of peak"
    return said


def compare(folder: str, precision: str, kind: str, given: argparse.Namespace) -> None:
    """One line: both, and ours over theirs."""
    results: dict[str, list[dict[str, Any]]] = {"open_clip": [], "patchword": []}
    for _ in range(given.rounds):
        for who, found in results.items():
            one = [who, folder, precision, kind, str(given.batch), str(given.steps)]
            command = [sys.executable, __file__, "--one", *one]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout))
    fastest = [min(s for each in found for s in each["seconds"]) for found in results.values()]
    apart, steps = LOSSES[precision]
    pairs = zip(*(found[0]["losses"][:steps] for found in results.values()), strict=True)
    same = all(math.isclose(a, b, rel_tol=apart) for a, b in pairs)
    each = "; ".join(words(who, found, given.batch) for who, found in results.items())
    print(
        f"{precision}, {kind}: ours x{fastest[0] / fastest[1]:.2f} ({each}); "
        f"same losses: {'yes' if same else 'NO'}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="of each process, after the first")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side")
    parser.add_argument("--only", choices=LOSSES, help="this precision alone")
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        who, folder, precision, kind, batch, steps = given.one
        measure(who, folder, precision, kind, int(batch), int(steps))
        return
    place = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    print(f"{place}, {torch.get_num_threads()} threads, batch {given.batch}")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for precision in [given.only] if given.only else LOSSES:
            for kind in ("full texts", "captions"):
                compare(folder, precision, kind, given)


if __name__ == "__main__":
    main()
