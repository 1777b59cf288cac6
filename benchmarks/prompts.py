"""Class names in 80 templates: prompts a second from strings to vectors, beside open_clip.

    python benchmarks/prompts.py [--classes 1000] [--peer 64] [--dtype bfloat16] [--sizes 1 10 ...]

The text tower of ViT-B/32, ImageNet's class names and OpenAI's 80 templates, as open_clip includes
them. patchword encodes all prompts, and the first few (--sizes). open_clip pads to 77 tokens and
takes the same time for each prompt, so it encodes at most the first --peer. Agreement: the largest
difference in unit vectors over these.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before open_clip and transformers, which import torchvision
import open_clip
import torch
from rows import Rows, option_parser, median_seconds
from safetensors.torch import save_file
from tiny_tokenizers import clip_tokenizer
# isort: on

import patchword

NAME = "ViT-B-32-quickgelu"


def models(dtype: str) -> tuple[open_clip.CLIP, patchword.Model]:
    """The same CLIP with random weights in open_clip and in patchword."""
    torch.manual_seed(0)
    torch_dtype = getattr(torch, dtype)
    theirs = open_clip.create_model(NAME).eval().to(torch_dtype)
    config = {"model_cfg": open_clip.get_model_config(NAME), "preprocess_cfg": {}}
    with tempfile.TemporaryDirectory() as folder:
        save_file(theirs.state_dict(), Path(folder, "open_clip_model.safetensors"))
        Path(folder, "open_clip_config.json").write_text(json.dumps(config))
        clip_tokenizer().save_pretrained(folder)
        return theirs, patchword.load(folder, dtype=torch_dtype)


@torch.inference_mode()
def main(options: argparse.Namespace) -> None:
    names = open_clip.IMAGENET_CLASSNAMES[: options.classes]
    prompts = [template(name) for name in names for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    theirs, ours = models(options.dtype)
    tokenize = open_clip.get_tokenizer(NAME)
    rows = Rows(options.results)
    sizes = {size for size in options.sizes if size < len(prompts)} | {len(prompts)}
    for size in sorted(sizes):
        texts = prompts[:size]
        few = texts[: options.peer]
        functions = {
            "open_clip": lambda few=few: theirs.encode_text(tokenize(few), normalize=True),
            "patchword": lambda texts=texts: ours.embed_texts(texts),
        }
        seconds = median_seconds(functions, options.rounds)
        speed = {
            "open_clip": len(few) / seconds["open_clip"],
            "patchword": size / seconds["patchword"],
        }
        vectors = torch.from_numpy(ours.embed_texts(few))
        apart = (vectors - functions["open_clip"]().float()).abs().max()
        more = {"agreement": f"apart by at most {apart:.1e}", "axis": "texts", "at": size}
        limit = 40.0 if size == 80_000 else 1.0
        rows.add_peers(
            f"class names in templates, {options.dtype}", "texts/s", speed, limit, **more
        )


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--peer", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 10, 100, 1000, 10_000])
    main(parser.parse_args())
