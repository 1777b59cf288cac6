"""Texts a second: patchword's tokenizer beside open_clip's and transformers', same texts and ids.

    python benchmarks/tokenizer.py FOLDER      # one that holds CLIP's tokenizer.json

One core each (TOKENIZERS_PARALLELISM=false); medians of interleaved rounds. open_clip remembers
words it has seen, and this gives it that advantage: the first round is not counted.
"""

import os
import statistics
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before open_clip, which imports torchvision
import open_clip
from transformers import CLIPTokenizer
# isort: on

from patchword.config import TextConfig
from patchword.text.tokenizer import Tokenizer

ROUNDS = 7
THINGS = ["dog", "red shirt", "pair of shoes", "scratched wafer", "café terrace", "T-shirt & jeans"]
TEXTS = {
    "prompts": [f"a photo of a {thing}, number {i}." for i in range(400) for thing in THINGS],
    "captions": [f"{t}: " + "a person stands beside it and smiles. " * 4 for t in THINGS] * 100,
    "中文": [f"一张{i}只狗在草地上的照片" for i in range(1000)],
}


def main(folder: str) -> None:
    """Print a table: texts a second by tokenizer and kind of text."""
    reference = CLIPTokenizer.from_pretrained(folder)
    by_open_clip = open_clip.get_tokenizer("ViT-B-32")
    ways = {
        'patchword, cleaning "none"': Tokenizer.from_folder(folder, TextConfig()),
        'patchword, cleaning "ftfy"': Tokenizer.from_folder(folder, TextConfig(cleaning="ftfy")),
        "transformers": lambda texts: reference(
            texts, padding=True, truncation=True, max_length=77, return_tensors="np"
        ),
        "open_clip": by_open_clip,
    }
    print(f"{'texts/s':28}" + "".join(f"{kind:>12}" for kind in TEXTS))
    seconds = {(way, kind): [] for way in ways for kind in TEXTS}
    for _ in range(ROUNDS + 1):
        for kind, texts in TEXTS.items():
            for way, tokenize in ways.items():
                start = time.perf_counter()
                tokenize(texts)
                seconds[way, kind].append(time.perf_counter() - start)
    for way in ways:
        rates = (len(t) / statistics.median(seconds[way, kind][1:]) for kind, t in TEXTS.items())
        print(f"{way:28}" + "".join(f"{rate:12,.0f}" for rate in rates))


if __name__ == "__main__":
    main(sys.argv[1])
