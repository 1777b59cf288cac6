"""The text tower of CLIP ViT-B/32 on short texts: texts a second, beside its peers.

    python benchmarks/texts.py [--dtype bfloat16] [--batches 1 8 64 256]

Random weights, texts of 9 tokens, each library as users call it: open_clip pads to 77 positions,
transformers to the longest text, patchword trims to the last end token. Agreement: the largest
difference from transformers' features. For images see engines.py.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before open_clip and transformers, which import torchvision
import open_clip
import torch
from rows import Rows, option_parser, median_seconds, rates
from transformers import CLIPConfig, CLIPModel
# isort: on

import patchword

START, END, WORDS = 49406, 49407, 7


def short_texts(count: int) -> torch.Tensor:
    """Random ids (count, 9)."""
    ids = torch.randint(1, 49000, (count, WORDS + 2), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[:, -1] = START, END
    return ids


@torch.inference_mode()
def compare(
    networks: tuple[CLIPModel, open_clip.CLIP, Any],
    batches: Sequence[int],
    rounds: int,
    rows: Rows,
    limit: float = 1.0,
) -> None:
    """Add rows for these batch sizes. networks: of transformers, of open_clip and ours, on the same
    device and in the same number type."""
    hugging, clip, ours = networks
    like = next(hugging.parameters())

    def wait(result: object) -> None:
        if like.is_cuda:
            torch.cuda.synchronize()

    for batch in batches:
        ids = short_texts(batch).to(like.device)
        full = torch.nn.functional.pad(ids, (0, 77 - ids.shape[1]))
        functions: dict[str, Callable[[], object]] = {
            "transformers": lambda ids=ids: wait(hugging.get_text_features(ids)),
            "open_clip": lambda full=full: wait(clip.encode_text(full)),
            "patchword": lambda ids=ids: wait(ours.encode_text(ids)),
        }
        speed = rates(batch, median_seconds(functions, rounds, min_seconds=0.1))
        expected = hugging.get_text_features(ids).pooler_output
        apart = (ours.encode_text(ids) - expected).abs().max().item()
        largest = expected.abs().max().item()
        agreement = f"from transformers apart by at most {apart:.1e} of {largest:.1f}"
        what = f"ViT-B/32 texts of {WORDS + 2} tokens, {str(like.dtype).removeprefix('torch.')}"
        rows.add_peers(what, "texts/s", speed, limit, agreement=agreement, axis="batch", at=batch)


def main(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    hugging = CLIPModel(CLIPConfig()).eval().to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        hugging.save_pretrained(folder)
        ours = patchword.load(folder, dtype=dtype).network
    clip = open_clip.create_model("ViT-B-32").eval().to(dtype)
    compare((hugging, clip, ours), options.batches, options.rounds, Rows(options.results))


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 256])
    main(parser.parse_args())
