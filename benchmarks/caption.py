"""Captions a second of BLIP base, beside transformers, and the cost of each further token.

    python benchmarks/caption.py [--batches 1 8] [--device cuda]

transformers writes a checkpoint of BLIP base at 384 pixels with random weights, and patchword loads
it. Both run in bfloat16 and write exactly 20 ids for the same images, in turn, in one process. In
float32 the ids must be equal. In bfloat16 two words may be closer than the rounding error, so each
row says how many texts are equal.

Then the time of the id after 5, 10, 20 and 40 others, in milliseconds: with the cache, and with all
previous ids computed again. Both must give the same probabilities in float32.

With one thread (OMP_NUM_THREADS=1) times are CPU times, which do not count other work on the
machine. With more threads, and on a GPU, they are wall-clock times.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before transformers, which imports torchvision
import torch
import transformers
from transformers import BlipConfig, BlipForConditionalGeneration
# isort: on

from references import scramble
from rows import Rows, median_seconds, option_parser, rates
from torch import Tensor, nn

import patchword
from patchword.models.blip import Blip
from patchword.models.generate import GenerationOptions

SIZE, LENGTH, START = 384, 20, 30522  # pixels, ids a caption, the id that a caption starts with
PLACES = (5, 10, 20, 40)
LIMITS = {True: 1.4, False: 1.6}  # on a CPU; on a GPU


def clock(device: str) -> float:
    """Seconds, once the device has done what it was asked."""
    if device == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def written() -> nn.Module:
    """transformers' BLIP base, whose words depend on the image, the words before and the place.

    As drawn, what 36 post-norm residuals add would hide the ids that went in."""
    config = BlipConfig(vision_config={"image_size": SIZE}, text_config={"num_attention_heads": 12})
    network = scramble(BlipForConditionalGeneration(config))
    with torch.no_grad():
        for name, value in network.text_decoder.bert.encoder.named_parameters():
            if name.endswith("bias"):
                value.mul_(0.05)
            elif name.endswith("output.dense.weight"):
                value.mul_(0.03 if "crossattention" in name else 0.15)
        network.text_decoder.bert.embeddings.position_embeddings.weight.mul_(2)
    return network


def noise(count: int, dtype: torch.dtype, device: str) -> Tensor:
    """Images (count, 3, SIZE, SIZE), each of another colour."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return (pixels + torch.randn(count, 3, 1, 1, generator=generator)).to(device, dtype)


def writers(theirs: nn.Module, ours: Blip, pixels: Tensor, beams: int) -> dict[str, Callable]:
    """Each side's way to ids (B, LENGTH)."""
    start = torch.tensor([START], device=pixels.device)
    options = GenerationOptions(beams=beams, max_length=LENGTH, min_length=LENGTH)
    return {
        "transformers": lambda: theirs.generate(
            pixel_values=pixels,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=None,
            max_length=LENGTH,
            min_length=LENGTH,
        )[:, :LENGTH],
        "patchword": lambda: ours.caption(pixels, start, options).ids,
    }


def compare(
    batch: int, beams: int, rounds: int, runs: dict[str, Callable[[], Tensor]], rows: Rows
) -> None:
    """A row: captions/s of each, and how many texts are equal."""
    found = {name: run() for name, run in runs.items()}
    device = found["patchword"].device.type
    speed = rates(batch, median_seconds(runs, rounds, clock=lambda: clock(device)))
    same = (found["transformers"] == found["patchword"]).all(dim=1)
    what = (
        f"BLIP-B, {SIZE} px, {LENGTH} ids, bfloat16, {'greedy' if beams == 1 else f'beam {beams}'}"
    )
    said = f"equal texts: {int(same.sum())} of {batch}"
    limit = LIMITS[device == "cpu"]
    rows.add_peers(what, "captions/s", speed, limit, agreement=said, axis="batch", at=batch)


def check(theirs: nn.Module, ours: Blip, device: str) -> None:
    """In float32 the ids are equal, and vary."""
    for beams in (1, 3):
        pair = writers(theirs, ours, noise(2, torch.float32, device), beams)
        expected, found = (run() for run in pair.values())
        words = [len(set(row)) for row in expected[:, 1:].tolist()]
        print(
            f"float32, beams {beams}: ids equal: {'yes' if expected.equal(found) else 'NO'} "
            f"({', '.join(map(str, words))} different words in the two texts)",
            flush=True,
        )


def each_token(network: Blip, dtype: torch.dtype, rounds: int, device: str) -> None:
    """Print a line for each of PLACES."""
    tokens = network.image_tokens(noise(1, dtype, device))
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, START, (1, max(PLACES) + 1), generator=generator).to(device)
    cached: dict[int, list[float]] = {place: [] for place in PLACES}
    again: dict[int, list[float]] = {place: [] for place in PLACES}
    steps, wholes = {}, {}
    for _ in range(rounds + 1):
        cache = network.empty_cache()
        for place in range(max(PLACES) + 1):
            start = clock(device)
            x = network.words(network.decode(ids[:, place : place + 1], tokens, cache=cache)[:, -1])
            if place in cached:
                cached[place].append(clock(device) - start)
                steps[place] = x
        for place in PLACES:
            start = clock(device)
            wholes[place] = network.words(network.decode(ids[:, : place + 1], tokens)[:, -1])
            again[place].append(clock(device) - start)
    for place in PLACES:
        few, many = (1e3 * statistics.median(times[place][1:]) for times in (cached, again))
        apart = (steps[place].log_softmax(-1) - wholes[place].log_softmax(-1)).abs().max()
        print(
            f"{str(dtype).removeprefix('torch.')}, the id after {place:2}: cached {few:.1f} ms, "
            f"read again {many:.1f} ms; log probabilities apart by {apart:.1e} at most",
            flush=True,
        )


@torch.inference_mode()
def main() -> None:
    parser = option_parser(__doc__)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--beams", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--no-check", action="store_true", help="leave float32 out")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    options = parser.parse_args()
    device, threads = options.device, torch.get_num_threads()
    where = f"{threads} threads of a processor with {torch.backends.cpu.get_cpu_capability()}"
    if device != "cpu":
        where = torch.cuda.get_device_name(device)
    print(
        f"{where}, torch {torch.__version__}, transformers {transformers.__version__}", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs = written()
        theirs.save_pretrained(folder)
        theirs.to(device)
        if not options.no_check:
            ours = patchword.load(folder, device=device).network
            check(theirs, ours, device)
            each_token(ours, torch.float32, 1, device)
        theirs.to(torch.bfloat16)
        ours = patchword.load(folder, device=device, dtype=torch.bfloat16).network
    rows = Rows(options.results, device)
    for batch in options.batches:
        for beams in options.beams:
            pair = writers(theirs, ours, noise(batch, torch.bfloat16, device), beams)
            compare(batch, beams, options.rounds, pair, rows)
    each_token(ours, torch.bfloat16, 2 * options.rounds, device)


if __name__ == "__main__":
    main()
