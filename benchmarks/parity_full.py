"""A full-size random CLIP ViT-B/32 through transformers and patchword: difference and speed.

    python benchmarks/parity_full.py [--batch 32] [--rounds 5]

transformers writes the checkpoint, patchword loads it. Printed: the largest absolute difference of
image features, text features and logits, computed as torch does and as a loaded model does in
inference, by oneDNN's products and in parts; and images/s of both image towers, in turn in one run.
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
import torchvision_cpu  # noqa: F401  # before transformers, which imports torchvision
import torch
from transformers import CLIPConfig, CLIPModel
# isort: on

from torch import Tensor

import patchword

LENGTH = 16  # ids a text


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(name: str, ours: Tensor, theirs: Tensor) -> None:
    """One line: how far apart, and how large the values are."""
    apart = (ours - theirs).abs().max().item()
    size = theirs.abs().max().item()
    print(f"{name:15} largest difference {apart:.1e}, largest value {size:.2f}")
    torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def main(batch: int, rounds: int) -> None:
    torch.manual_seed(0)
    theirs = CLIPModel(CLIPConfig()).eval()  # ViT-B/32, 224 pixels, 512 dimensions
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        start = time.perf_counter()
        ours = patchword.load(folder).network
        print(f"loaded in {time.perf_counter() - start:.2f} s")
    pixels = torch.randn(batch, 3, 224, 224)
    ids = torch.randint(1, 49000, (batch, LENGTH))
    ids[:, -1] = 49407  # the end token
    vision = theirs.get_image_features
    features = vision(pixels).pooler_output, theirs.get_text_features(ids).pooler_output
    logits = theirs(ids, pixels).logits_per_image
    for way, mode in (("as torch does", torch.no_grad), ("oneDNN, in parts", torch.inference_mode)):
        print(way)
        with mode():
            report("image features", ours.encode_image(pixels), features[0])
            report("text features", ours.encode_text(ids), features[1])
            image, text, scale = ours(pixels, ids)
            report("logits", scale * image @ text.T, logits)
    times: dict[str, list[float]] = {"transformers": [], "patchword": []}
    for _ in range(rounds):
        with torch.inference_mode():
            times["transformers"].append(seconds(lambda: vision(pixels)))
            times["patchword"].append(seconds(lambda: ours.encode_image(pixels)))
    rates = {name: batch / statistics.median(values) for name, values in times.items()}
    each = ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
    ratio = rates["patchword"] / rates["transformers"]
    threads = torch.get_num_threads()
    print(f"images/s, batch {batch}, {threads} threads: {each} (ratio {ratio:.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    main(**vars(parser.parse_args()))
