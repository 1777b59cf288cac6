"""Tokenizers: texts a second, beside open_clip and transformers.

    python benchmarks/tokenizer.py FOLDER      # with CLIP's tokenizer.json

The same texts, one core (TOKENIZERS_PARALLELISM=false), medians of rounds in turn. open_clip caches
words that it has seen; it may use this cache, because the first round does not count. Agreement:
how many texts have the same ids.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before open_clip, which imports torchvision
import numpy as np
import open_clip
import torch
from rows import Rows, option_parser, median_seconds, rates
from transformers import CLIPTokenizer
# isort: on

from patchword.config import TextConfig
from patchword.text.tokenizer import Tokenizer

END = 49407
THINGS = ["dog", "red shirt", "pair of shoes", "scratched wafer", "café terrace", "T-shirt & jeans"]
TEXTS = {
    "prompts": [f"a photo of a {thing}, number {i}." for i in range(400) for thing in THINGS],
    "captions": [f"{t}: " + "a person stands beside it and smiles. " * 4 for t in THINGS] * 100,
    "中文": [f"一张{i}只狗在草地上的照片" for i in range(1000)],
}


def main(folder: str, rounds: int, results: Path | None) -> None:
    """Add a row for each peer and kind of text; ours cleans texts as the peer does."""
    torch.set_num_threads(1)  # rows record the number of threads
    reference = CLIPTokenizer.from_pretrained(folder)
    rows = Rows(results)
    ours_for_peer = {"transformers": "patchword", "open_clip": "patchword, cleaning by ftfy"}
    tokenizers = {
        "patchword": Tokenizer.from_folder(folder, TextConfig()),
        "patchword, cleaning by ftfy": Tokenizer.from_folder(folder, TextConfig(cleaning="ftfy")),
        "transformers": lambda texts: reference(
            texts, padding=True, truncation=True, max_length=77, return_tensors="np"
        )["input_ids"],
        "open_clip": open_clip.get_tokenizer("ViT-B-32"),
    }
    for kind, texts in TEXTS.items():
        functions = {
            name: lambda tokenize=tokenize: tokenize(texts)  # noqa: B023
            for name, tokenize in tokenizers.items()
        }
        speed = rates(len(texts), median_seconds(functions, rounds))
        for peer, ours in ours_for_peer.items():
            rows.add(
                f"CLIP tokens of {kind}", "texts/s", (peer, speed[peer]), (ours, speed[ours]),
                limit=1.0, agreement=agreement(tokenizers[ours](texts), tokenizers[peer](texts)),
            )  # fmt: skip


def agreement(ours: Any, theirs: Any) -> str:
    """How many texts have the same ids, without padding."""
    rows, expected = np.asarray(ours), np.asarray(theirs)
    same = 0
    for row, right in zip(rows, expected, strict=True):
        end = int((right == END).argmax()) + 1
        if (row[:end] == right[:end]).all():
            same += 1
    return f"ids of {same} of {len(rows)} the same"


if __name__ == "__main__":
    parser = option_parser(__doc__, rounds=7)
    parser.add_argument("folder", help="folder with CLIP's tokenizer.json")
    main(**vars(parser.parse_args()))
