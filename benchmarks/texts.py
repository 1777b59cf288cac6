"""CLIP ViT-B/32 towers of random weights: transformers, open_clip and patchword, in one run.

    python benchmarks/encode.py [--rounds 3] [--dtype bfloat16]

Images/s of the image tower at batch 1 and 32, and prompts/s of the text tower for 64 short
prompts, each library as a user would call it: open_clip pads to 77 positions, transformers to the
longest, patchword to the longest end token. Medians, the libraries in turn.
"""

import argparse
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
import torchvision_cpu  # noqa: F401  # before open_clip and transformers, which import torchvision
import open_clip
import torch
from transformers import CLIPConfig, CLIPModel
# isort: on

import patchword

START, END, WORDS = 49406, 49407, 7


def compare(title: str, count: int, rounds: int, runs: dict[str, Callable[[], object]]) -> None:
    """One line: items/s of each, and ours over each peer's."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_number:  # the first warms up
                times[name].append(time.perf_counter() - start)
    rates = {name: count / statistics.median(values) for name, values in times.items()}
    ours = rates["patchword"]
    each = ", ".join(
        f"{name} {rate:.1f}" + ("" if name == "patchword" else f" (ours x{ours / rate:.2f})")
        for name, rate in rates.items()
    )
    print(f"{title}: {each}")


@torch.inference_mode()
def main(rounds: int, dtype: str) -> None:
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    hugging = CLIPModel(CLIPConfig()).eval().to(kind)
    clip = open_clip.create_model("ViT-B-32").eval().to(kind)
    with tempfile.TemporaryDirectory() as folder:
        hugging.save_pretrained(folder)
        ours = patchword.load(folder, dtype=kind).network
    print(f"{torch.get_num_threads()} threads, {dtype}")
    for batch in (1, 32):
        pixels = torch.randn(batch, 3, 224, 224, dtype=kind)
        runs: dict[str, Callable[[], object]] = {
            "transformers": lambda pixels=pixels: hugging.get_image_features(pixels),
            "open_clip": lambda pixels=pixels: clip.encode_image(pixels),
            "patchword": lambda pixels=pixels: ours.encode_image(pixels),
        }
        compare(f"images/s, batch {batch}", batch, rounds, runs)
    short = torch.randint(1, 49000, (64, WORDS + 2))
    short[:, 0], short[:, -1] = START, END
    full = torch.nn.functional.pad(short, (0, 77 - short.shape[1]))
    runs = {
        "transformers": lambda: hugging.get_text_features(short),
        "open_clip": lambda: clip.encode_text(full),
        "patchword": lambda: ours.encode_text(short),
    }
    compare(f"prompts/s, 64 of {short.shape[1]} tokens", 64, rounds, runs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    main(**vars(parser.parse_args()))
