"""Speed on an NVIDIA GPU, beside every peer: networks, training, and from files to vectors.

    python benchmarks/gpu.py [--minutes 6] [--only eager texts ...] [--device cpu --tiny]

Random weights of the real shapes, in bfloat16. The parts, in this order:

eager      image towers of ViT-B/32, B/16 and L/14 beside open_clip and transformers; the time of
           one image; the share of the GPU's rate for large matrix products that L/14 reaches
texts      the text tower
training   a training step, beside open_clip
files      from JPEGs to vectors
compiled   the towers again, with torch.compile: single images as CUDA graphs, and batches

Images are on the GPU already, except in `files`. Parts without enough time left are named and
skipped; when the time is over, imports included, the current part is stopped. "--device cpu --tiny"
only checks that every line runs.
"""

# ruff: noqa: E402

import argparse
import gc
import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

START = time.perf_counter()  # what is imported below takes time, too
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before open_clip and transformers, which import torchvision
import open_clip
import pipeline
import texts
import torch
import train_step
from engines import KINDS, SMALL, networks
from rows import Rows, option_parser, median_seconds, rates
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel
# isort: on

import patchword
from patchword.api.engine_bench import LateError, within
from patchword.api.engines import on_engine

TOWERS = ("vit-b32", "vit-l14", "vit-b16")
BATCHES = (1, 32, 256)
WANTED = 1.1  # ours over the best peer's
ONE_MS = {"vit-b32": 1.0}  # at most, of one image
SHARE = 0.6  # of the card's own matrix product, ViT-L/14 at 256
TEXTS = 2.5
SIDE = 8192  # of the matrices of that product
# Seconds that must be left for a tower and a batch, which three networks are compiled for.
COMPILING = {"vit-b32": 40, "vit-b16": 40, "vit-l14": 75}
# 12 megapixels or not, how many different photos, how often each, seconds that must be left.
SIZES = ((False, 96, 32, 60), (True, 16, 8, 70))
Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Towers:
    """The peers' image towers and our model, on the GPU in bfloat16."""

    theirs: dict[str, torch.nn.Module]
    own: patchword.Model


class Gpu:
    """What all parts share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.tiny = torch.device(options.device), options.tiny
        self.rounds, self.rows = options.rounds, Rows(options.results, options.device)
        self.end = START + 60 * options.minutes
        self.batches = (1, 2) if options.tiny else BATCHES
        self.made: dict[str, Towers] = {}

    def left(self, seconds: float, what: str) -> bool:
        """Whether so many seconds are left; if not, that is said."""
        there = time.perf_counter() + seconds < self.end
        if not there:
            print(f"{what}: left out, there is no time", flush=True)
        return there

    def done(self, result: object) -> None:
        """Wait until it is computed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, ways: Mapping[str, Callable[[], object]], warm: int = 2) -> dict[str, float]:
        """Seconds of each, medians of rounds in turn."""
        waiting = {name: lambda run=run: self.done(run()) for name, run in ways.items()}
        return median_seconds(waiting, self.rounds, warm_up=warm, min_seconds=0.1)

    @torch.inference_mode()
    def compare(
        self, what: str, batch: int, theirs: Mapping[str, Network], own: Mapping[str, Network]
    ) -> float:
        """Rows of images/s beside each peer, of the faster of ours. Returns its seconds."""
        pixels = torch.randn(batch, 3, 224, 224, device=self.device, dtype=torch.bfloat16)
        ways = {name: lambda run=run: run(pixels) for name, run in {**theirs, **own}.items()}
        seconds = self.timed(ways)
        best = min(own, key=lambda name: seconds[name])
        expected, found = (run(pixels).float() for run in (next(iter(theirs.values())), own[best]))
        near = torch.cosine_similarity(expected, found).min().item()
        values = rates(batch, {name: seconds[name] for name in (*theirs, best)})
        self.rows.add_peers(
            what, "images/s", values, WANTED, best, axis="batch", at=batch,
            agreement=f"cosine to {next(iter(theirs))} at least {near:.5f}",
        )  # fmt: skip
        return seconds[best]


def towers(gpu: Gpu, name: str) -> Towers:
    """Those of that name; made once."""
    if name not in gpu.made:
        with tempfile.TemporaryDirectory() as folder:
            found = networks(KINDS[name], Path(folder), gpu.tiny)
            own = patchword.load(folder, device=str(gpu.device), dtype="bfloat16")
        peers = ("transformers", "open_clip")
        theirs = {who: found[who].to(gpu.device, torch.bfloat16) for who in peers}
        gpu.made[name] = Towers(theirs, own)
    return gpu.made[name]


def ready(models: Mapping[str, patchword.Model], batch: int) -> dict[str, Network]:
    """Our towers as they run so many images."""
    return {
        name: model.engine.ready(model.network.encode_image, batch)
        for name, model in models.items()
    }


def eager(gpu: Gpu) -> None:
    for name in TOWERS:
        if not gpu.left(20, f"eager, {name}"):
            continue
        made = towers(gpu, name)
        own = {"patchword torch": made.own}
        for batch in gpu.batches:
            seconds = gpu.compare(f"{name}, bfloat16", batch, made.theirs, ready(own, batch))
            if batch == 1 and name in ONE_MS:
                one_image(gpu, name, "patchword torch", seconds)
        if name == "vit-l14":
            share_of_product(gpu, made.own.network.encode_image, seconds)


def one_image(gpu: Gpu, name: str, who: str, seconds: float) -> None:
    limit, mine = ("limit", ONE_MS[name]), (who, 1000 * seconds)
    gpu.rows.add(f"{name}, bfloat16, one image", "ms", limit, mine, limit=1.0)


def share_of_product(gpu: Gpu, network: Network, seconds: float) -> None:
    """A row of what ViT-L/14 reaches beside a large product of matrices. seconds: of its largest
    batch."""
    pixels = torch.randn(1, 3, 224, 224, device=gpu.device, dtype=torch.bfloat16)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(pixels)
    side, batch = 256 if gpu.tiny else SIDE, gpu.batches[-1]
    a, b = (torch.randn(side, side, device=gpu.device, dtype=torch.bfloat16) for _ in range(2))
    most = 2 * side**3 / gpu.timed({"product": lambda: a @ b})["product"]
    mine = ("patchword torch", counter.get_total_flops() * batch / seconds / 1e12)
    limit = ("the card, in a large product of matrices", most / 1e12)
    gpu.rows.add(f"vit-l14, bfloat16, {batch} images", "TFLOP/s", limit, mine, limit=SHARE)


def compiled(gpu: Gpu) -> None:
    batches = dict.fromkeys((1, gpu.batches[-1], *gpu.batches))  # the middle one last
    for batch, name in itertools.product(batches, TOWERS):
        if not gpu.left(0 if gpu.tiny else COMPILING[name], f"compiled, {name}, batch {batch}"):
            continue
        found = towers(gpu, name)
        own = {f"patchword {each}": on_engine(found.own, each) for each in ("torch", "compile")}
        mode = "reduce-overhead" if batch == 1 else "default"
        made = {f"{who}, compiled": torch.compile(n, mode=mode) for who, n in found.theirs.items()}
        seconds = gpu.compare(f"{name}, bfloat16, compiled", batch, made, ready(own, batch))
        if batch == 1 and name in ONE_MS:
            one_image(gpu, name, "patchword, the faster engine", seconds)
        torch._dynamo.reset()


def short_texts(gpu: Gpu) -> None:
    if not gpu.left(20, "texts"):
        return
    small = {"text_config": SMALL, "vision_config": SMALL} if gpu.tiny else {}
    hugging = CLIPModel(CLIPConfig(**small)).eval().to(gpu.device, torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        hugging.save_pretrained(folder)
        ours = patchword.load(folder, device=str(gpu.device), dtype="bfloat16").network
    clip = open_clip.create_model("ViT-B-32").eval().to(gpu.device, torch.bfloat16)
    texts.compare((hugging, clip, ours), gpu.batches, gpu.rounds, gpu.rows, TEXTS)


def training(gpu: Gpu) -> None:
    batches = (2,) if gpu.tiny else (256, 1024)
    cells = [("bfloat16", kind, batch) for kind in train_step.LIMITS for batch in batches]
    if gpu.left(90, "training"):
        with tempfile.TemporaryDirectory() as folder:
            train_step.write(Path(folder), gpu.tiny)
            train_step.compare(folder, cells, 2 if gpu.tiny else 5, 1, gpu.rows)


def files(gpu: Gpu) -> None:
    if not gpu.left(10 + min(seconds for *_, seconds in SIZES), "files"):
        return
    config = CLIPConfig(**({"text_config": SMALL, "vision_config": SMALL} if gpu.tiny else {}))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ours, theirs = pipeline.networks(place, config, str(gpu.device), "bfloat16")
        for large, count, times, seconds in SIZES:
            if not gpu.left(0 if gpu.tiny else seconds, pipeline.kind(large)):
                continue
            count, times = (4 - 3 * large, 1) if gpu.tiny else (count, times)
            written = pipeline.written(place, count, None if large else 400) * times
            pipeline.to_vectors(ours, theirs, written, large, min(gpu.rounds, 3), gpu.rows)


PARTS: dict[str, Callable[[Gpu], None]] = {
    "eager": eager, "texts": short_texts, "training": training, "files": files,
    "compiled": compiled,
}  # fmt: skip


def main(options: argparse.Namespace) -> None:
    if options.device != "cpu" and not torch.cuda.is_available():
        sys.exit("gpu.py: there is no NVIDIA GPU; --device cpu --tiny tries every line")
    gpu = Gpu(options)
    try:
        with within(max(gpu.end - time.perf_counter(), 1)):
            for name in options.only:
                PARTS[name](gpu)
                gc.collect()
                if gpu.device.type == "cuda":
                    torch.cuda.empty_cache()
    except (Exception, LateError):  # a compiler wraps what interrupts it in an error of its own
        if time.perf_counter() < gpu.end:
            raise
        print(f"{name}: broken off, the time is over; the rows above stand")


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=6, help="for all, imports too")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks: a trial")
    warnings.simplefilter("ignore")  # of photos that are seen in part
    main(parser.parse_args())
