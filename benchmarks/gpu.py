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

START = time.perf_counter()  # the imports below count, too
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
# Goals.
IMAGES_GOAL = 1.1  # our images/s relative to each peer
ONE_IMAGE_MS = {"vit-b32": 1.0}
MATRIX_PRODUCT_GOAL = 0.6  # ViT-L/14 at batch 256, relative to a large matrix product
TEXTS_GOAL = 2.5
SIDE = 8192  # of the matrices of that product
# Seconds to compile three networks for a tower and a batch.
COMPILING = {"vit-b32": 40, "vit-b16": 40, "vit-l14": 75}
# Whether photos have 12 megapixels, number of photos, repetitions of each, seconds needed.
PHOTOS = ((False, 96, 32, 60), (True, 16, 8, 70))
Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Towers:
    """The peers' image towers and our model of one architecture, on the GPU in bfloat16."""

    theirs: dict[str, torch.nn.Module]
    own: patchword.Model


class Gpu:
    """The device, the settings and the rows, which all parts share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.tiny = torch.device(options.device), options.tiny
        self.rounds, self.rows = options.rounds, Rows(options.results, options.device)
        self.end = START + 60 * options.minutes
        self.batches = (1, 2) if options.tiny else BATCHES
        self.towers: dict[str, Towers] = {}

    def has_time(self, seconds: float, what: str) -> bool:
        """Whether so many seconds are left; if not, print that `what` is left out."""
        enough = time.perf_counter() + seconds < self.end
        if not enough:
            print(f"{what}: left out, there is no time", flush=True)
        return enough

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def median_seconds(self, functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """The seconds of a call of each function, with the work on the device."""

        def and_wait(function: Callable[[], object]) -> Callable[[], object]:
            def run() -> None:
                function()
                self.wait()

            return run

        waiting = {name: and_wait(function) for name, function in functions.items()}
        return median_seconds(waiting, self.rounds, warm_up=2, min_seconds=0.1)

    @torch.inference_mode()
    def compare(
        self, what: str, batch: int, theirs: Mapping[str, Network], own: Mapping[str, Network]
    ) -> float:
        """Add rows of images/s of our faster engine beside each peer. Returns its seconds."""
        pixels = torch.randn(batch, 3, 224, 224, device=self.device, dtype=torch.bfloat16)
        functions = {name: lambda run=run: run(pixels) for name, run in {**theirs, **own}.items()}
        seconds = self.median_seconds(functions)
        best = min(own, key=lambda name: seconds[name])
        first_peer = next(iter(theirs))
        expected, result = theirs[first_peer](pixels).float(), own[best](pixels).float()
        cosine = torch.cosine_similarity(expected, result).min().item()
        values = rates(batch, {name: seconds[name] for name in (*theirs, best)})
        self.rows.add_peers(
            what, "images/s", values, IMAGES_GOAL, best, axis="batch", at=batch,
            agreement=f"cosine to {first_peer} at least {cosine:.5f}",
        )  # fmt: skip
        return seconds[best]


def towers(gpu: Gpu, name: str) -> Towers:
    """The towers of an architecture, made once."""
    if name not in gpu.towers:
        with tempfile.TemporaryDirectory() as folder:
            networks_by_library = networks(KINDS[name], Path(folder), gpu.tiny)
            own = patchword.load(folder, device=str(gpu.device), dtype="bfloat16")
        peers = ("transformers", "open_clip")
        theirs = {peer: networks_by_library[peer].to(gpu.device, torch.bfloat16) for peer in peers}
        gpu.towers[name] = Towers(theirs, own)
    return gpu.towers[name]


def ready(models: Mapping[str, patchword.Model], batch: int) -> dict[str, Network]:
    """The functions by which our engines run a batch of this size."""
    return {
        name: model.engine.ready(model.network.encode_image, batch)
        for name, model in models.items()
    }


def eager(gpu: Gpu) -> None:
    """Rows of image towers without compilation."""
    for name in TOWERS:
        if not gpu.has_time(20, f"eager, {name}"):
            continue
        both = towers(gpu, name)
        own = {"patchword torch": both.own}
        for batch in gpu.batches:
            seconds = gpu.compare(f"{name}, bfloat16", batch, both.theirs, ready(own, batch))
            if batch == 1 and name in ONE_IMAGE_MS:
                one_image(gpu, name, "patchword torch", seconds)
        if name == "vit-l14":
            share_of_product(gpu, both.own.network.encode_image, seconds)


def one_image(gpu: Gpu, name: str, engine: str, seconds: float) -> None:
    """A row of the time of one image."""
    limit, mine = ("limit", ONE_IMAGE_MS[name]), (engine, 1000 * seconds)
    gpu.rows.add(f"{name}, bfloat16, one image", "ms", limit, mine, limit=1.0)


def share_of_product(gpu: Gpu, network: Network, seconds: float) -> None:
    """A row of the operations a second of ViT-L/14 beside those of a large matrix product. seconds:
    of its largest batch."""
    pixels = torch.randn(1, 3, 224, 224, device=gpu.device, dtype=torch.bfloat16)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(pixels)
    side, batch = 256 if gpu.tiny else SIDE, gpu.batches[-1]
    a, b = (torch.randn(side, side, device=gpu.device, dtype=torch.bfloat16) for _ in range(2))
    most = 2 * side**3 / gpu.median_seconds({"product": lambda: a @ b})["product"]
    mine = ("patchword torch", counter.get_total_flops() * batch / seconds / 1e12)
    limit = ("the card, in a large product of matrices", most / 1e12)
    gpu.rows.add(
        f"vit-l14, bfloat16, {batch} images", "TFLOP/s", limit, mine, limit=MATRIX_PRODUCT_GOAL
    )


def compiled(gpu: Gpu) -> None:
    """Rows of image towers with torch.compile."""
    batches = dict.fromkeys((1, gpu.batches[-1], *gpu.batches))  # the middle one last
    for batch, name in itertools.product(batches, TOWERS):
        if not gpu.has_time(0 if gpu.tiny else COMPILING[name], f"compiled, {name}, batch {batch}"):
            continue
        both = towers(gpu, name)
        own = {
            f"patchword {engine}": on_engine(both.own, engine) for engine in ("torch", "compile")
        }
        mode = "reduce-overhead" if batch == 1 else "default"
        theirs = {
            f"{peer}, compiled": torch.compile(network, mode=mode)
            for peer, network in both.theirs.items()
        }
        seconds = gpu.compare(f"{name}, bfloat16, compiled", batch, theirs, ready(own, batch))
        if batch == 1 and name in ONE_IMAGE_MS:
            one_image(gpu, name, "patchword, the faster engine", seconds)
        torch._dynamo.reset()


def short_texts(gpu: Gpu) -> None:
    """Rows of the text tower."""
    if not gpu.has_time(20, "texts"):
        return
    small = {"text_config": SMALL, "vision_config": SMALL} if gpu.tiny else {}
    hugging = CLIPModel(CLIPConfig(**small)).eval().to(gpu.device, torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        hugging.save_pretrained(folder)
        ours = patchword.load(folder, device=str(gpu.device), dtype="bfloat16").network
    clip = open_clip.create_model("ViT-B-32").eval().to(gpu.device, torch.bfloat16)
    texts.compare((hugging, clip, ours), gpu.batches, gpu.rounds, gpu.rows, TEXTS_GOAL)


def training(gpu: Gpu) -> None:
    """Rows of training steps."""
    batches = (2,) if gpu.tiny else (256, 1024)
    cells = [("bfloat16", kind, batch) for kind in train_step.GPU_GOALS for batch in batches]
    if gpu.has_time(90, "training"):
        with tempfile.TemporaryDirectory() as folder:
            train_step.write(Path(folder), gpu.tiny)
            train_step.compare(folder, cells, 2 if gpu.tiny else 5, 1, gpu.rows)


def files(gpu: Gpu) -> None:
    """Rows of the way from JPEGs to vectors."""
    if not gpu.has_time(10 + min(seconds for *_, seconds in PHOTOS), "files"):
        return
    config = CLIPConfig(**({"text_config": SMALL, "vision_config": SMALL} if gpu.tiny else {}))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ours, theirs = pipeline.networks(place, config, str(gpu.device), "bfloat16")
        for large, count, times, seconds in PHOTOS:
            if not gpu.has_time(0 if gpu.tiny else seconds, pipeline.kind(large)):
                continue
            if gpu.tiny:
                count, times = (1 if large else 4), 1
            paths = pipeline.write_photos(place, count, None if large else 400) * times
            pipeline.to_vectors(ours, theirs, paths, large, min(gpu.rounds, 3), gpu.rows)


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
    except (Exception, LateError):  # a compiler wraps LateError in an error of its own
        if time.perf_counter() < gpu.end:
            raise
        print(f"{name}: stopped, the time is over; the rows above are valid")


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=6, help="for all parts, with imports")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the script")
    warnings.simplefilter("ignore")  # about photos that are cropped
    main(parser.parse_args())
