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

SIZE, LENGTH, START = 384, 20, 30522  # pixels, ids in a caption, the start token
PLACES = (5, 10, 20, 40)
GOALS = {"cpu": 1.4, "cuda": 1.6}  # our captions/s relative to transformers'


def clock(device: str) -> float:
    """The time in seconds, after the device has finished its work."""
    if device == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def random_blip() -> nn.Module:
    """transformers' BLIP base with weights by which each word depends on the image, the previous
    words and its position. Without scaling, 36 post-norm residuals would hide the input ids."""
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
    """Images (count, 3, SIZE, SIZE), each with another mean colour."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return (pixels + torch.randn(count, 3, 1, 1, generator=generator)).to(device, dtype)


def writers(theirs: nn.Module, ours: Blip, pixels: Tensor, beams: int) -> dict[str, Callable]:
    """For each library a function that generates ids (B, LENGTH)."""
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
    """Add a row: captions/s of both, and how many texts are equal."""
    ids = {name: run() for name, run in runs.items()}
    device = ids["patchword"].device.type
    speed = rates(batch, median_seconds(runs, rounds, clock=lambda: clock(device)))
    same = (ids["transformers"] == ids["patchword"]).all(dim=1)
    search = "greedy" if beams == 1 else f"beam {beams}"
    what = f"BLIP-B, {SIZE} px, {LENGTH} ids, bfloat16, {search}"
    agreement = f"equal texts: {int(same.sum())} of {batch}"
    rows.add_peers(
        what, "captions/s", speed, GOALS[device], agreement=agreement, axis="batch", at=batch
    )


def check(theirs: nn.Module, ours: Blip, device: str) -> None:
    """Print whether ids are equal in float32, and how many different words they have."""
    for beams in (1, 3):
        pair = writers(theirs, ours, noise(2, torch.float32, device), beams)
        expected, ids = (run() for run in pair.values())
        words = [len(set(row)) for row in expected[:, 1:].tolist()]
        print(
            f"float32, beams {beams}: ids equal: {'yes' if expected.equal(ids) else 'NO'} "
            f"({', '.join(map(str, words))} different words in the two texts)",
            flush=True,
        )


def time_of_next_id(network: Blip, dtype: torch.dtype, rounds: int, device: str) -> None:
    """Print the time of the next id after each number of ids in PLACES, with and without cache."""
    tokens = network.image_tokens(noise(1, dtype, device))
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, START, (1, max(PLACES) + 1), generator=generator).to(device)
    cached: dict[int, list[float]] = {place: [] for place in PLACES}
    uncached: dict[int, list[float]] = {place: [] for place in PLACES}
    cached_logits, uncached_logits = {}, {}
    for _ in range(rounds + 1):
        cache = network.empty_cache()
        for place in range(max(PLACES) + 1):
            start = clock(device)
            states = network.decode(ids[:, place : place + 1], tokens, cache=cache)
            logits = network.word_logits(states[:, -1])
            if place in cached:
                cached[place].append(clock(device) - start)
                cached_logits[place] = logits
        for place in PLACES:
            start = clock(device)
            states = network.decode(ids[:, : place + 1], tokens)
            uncached_logits[place] = network.word_logits(states[:, -1])
            uncached[place].append(clock(device) - start)
    for place in PLACES:
        few = 1e3 * statistics.median(cached[place][1:])
        many = 1e3 * statistics.median(uncached[place][1:])
        probabilities = cached_logits[place].log_softmax(-1)
        apart = (probabilities - uncached_logits[place].log_softmax(-1)).abs().max()
        print(
            f"{str(dtype).removeprefix('torch.')}, the id after {place:2}: cached {few:.1f} ms, "
            f"without cache {many:.1f} ms; log probabilities apart by {apart:.1e} at most",
            flush=True,
        )


@torch.inference_mode()
def main() -> None:
    parser = option_parser(__doc__)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--beams", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--no-check", action="store_true", help="skip the check in float32")
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
        theirs = random_blip()
        theirs.save_pretrained(folder)
        theirs.to(device)
        if not options.no_check:
            ours = patchword.load(folder, device=device).network
            check(theirs, ours, device)
            time_of_next_id(ours, torch.float32, 1, device)
        theirs.to(torch.bfloat16)
        ours = patchword.load(folder, device=device, dtype=torch.bfloat16).network
    rows = Rows(options.results, device)
    for batch in options.batches:
        for beams in options.beams:
            pair = writers(theirs, ours, noise(batch, torch.bfloat16, device), beams)
            compare(batch, beams, options.rounds, pair, rows)
    time_of_next_id(ours, torch.bfloat16, 2 * options.rounds, device)


if __name__ == "__main__":
    main()
