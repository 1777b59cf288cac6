"""Start-up, from the start of a process to the first classification: time and peak memory, beside
transformers.

    python benchmarks/startup.py [--rounds 5]

A cached checkpoint of CLIP ViT-B/32 with random weights, as transformers writes it; one photo, two
labels. Each script runs in a process of its own, in turn; medians of rounds, after one that fills
the disk cache. The peak is the largest resident size of the process, as Linux counts it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import Rows, option_parser

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

LABELS = ["a cat", "a dog"]
# Not by getrusage, whose peak includes that of the parent process.
PEAK = """
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if "VmHWM" in line))
"""
OURS = f"""
import sys, warnings
warnings.simplefilter("ignore")
import patchword
model = patchword.load(sys.argv[1])
model.classify(sys.argv[2], {LABELS})
"""
THEIRS = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import torchvision_cpu
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor
model = CLIPModel.from_pretrained(sys.argv[1])
processor = CLIPProcessor.from_pretrained(sys.argv[1])
texts = ["a photo of " + label for label in {LABELS}]
inputs = processor(text=texts, images=Image.open(sys.argv[2]), return_tensors="pt", padding=True)
with torch.no_grad():
    model(**inputs).logits_per_image.softmax(dim=-1).tolist()
"""
SCRIPTS = {"transformers": THEIRS, "patchword": OURS}
GOALS = {"s": 0.5, "MiB": 0.7}  # ours relative to theirs


def run(script: str, folder: Path, photo: Path) -> tuple[float, float]:
    """Run a script in a process of its own. Returns its seconds and its peak of memory in MiB."""
    start = time.perf_counter()
    command = [sys.executable, "-c", script + PEAK, str(folder), str(photo)]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, float(process.stdout.split()[-1])


def checkpoint(folder: Path) -> None:
    """Write a CLIP ViT-B/32 with its processor and tokenizer."""
    import torchvision_cpu  # noqa: F401  # before transformers, which imports torchvision

    # isort: split
    import torch
    import transformers
    from tiny_tokenizers import clip_tokenizer

    torch.manual_seed(0)
    transformers.CLIPModel(transformers.CLIPConfig()).save_pretrained(folder)
    transformers.CLIPImageProcessor().save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)


def main(rounds: int, results: Path | None) -> None:
    from PIL import Image

    with tempfile.TemporaryDirectory() as temporary:
        folder, photo = Path(temporary) / "clip", Path(temporary) / "photo.jpg"
        checkpoint(folder)
        Image.effect_noise((640, 480), 60).convert("RGB").save(photo)
        results_by_library: dict[str, list[tuple[float, float]]] = {name: [] for name in SCRIPTS}
        for turn in range(rounds + 1):
            for name, script in SCRIPTS.items():
                measured = run(script, folder, photo)
                if turn:  # the first round warms up
                    results_by_library[name].append(measured)
    rows = Rows(results)
    what = "start of a process to the first classification, ViT-B/32"
    for column, (unit, limit) in enumerate(GOALS.items()):
        values = {
            name: statistics.median(run[column] for run in runs)
            for name, runs in results_by_library.items()
        }
        rows.add_peers(what, unit, values, limit)


if __name__ == "__main__":
    main(**vars(option_parser(__doc__).parse_args()))
