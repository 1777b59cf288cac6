"""Class names in all templates, ViT-B/32's text tower, float32: open_clip and patchword in one run.

    python benchmarks/prompts.py [--classes 1000] [--peer 64] [--rounds 3] [--dtype bfloat16]

ImageNet's names and OpenAI's 80 templates, as open_clip carries them; both from strings to vectors.
open_clip, which pads to 77 tokens, encodes the first `--peer` prompts of the same list, patchword
all of them. Prompts/s: medians of rounds in turn; agreement: the largest difference of a unit
vector's number over the peer's prompts.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before open_clip and transformers, which import torchvision
import open_clip
import torch
from safetensors.torch import save_file
from tiny_tokenizers import clip_tokenizer
# isort: on

import patchword

NAME = "ViT-B-32-quickgelu"


@torch.inference_mode()
def main(classes: int, peer: int, rounds: int, dtype: str) -> None:
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    names = open_clip.IMAGENET_CLASSNAMES[:classes]
    prompts = [template(name) for name in names for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    theirs = open_clip.create_model(NAME).eval().to(kind)
    about = {"model_cfg": open_clip.get_model_config(NAME), "preprocess_cfg": {}}
    with tempfile.TemporaryDirectory() as folder:
        save_file(theirs.state_dict(), Path(folder, "open_clip_model.safetensors"))
        Path(folder, "open_clip_config.json").write_text(json.dumps(about))
        clip_tokenizer().save_pretrained(folder)
        ours = patchword.load(folder, dtype=kind)
    tokenize = open_clip.get_tokenizer(NAME)
    times: dict[str, list[float]] = {"open_clip": [], "patchword": []}
    for _ in range(rounds):
        start = time.perf_counter()
        expected = theirs.encode_text(tokenize(prompts[:peer]), normalize=True)
        times["open_clip"].append((time.perf_counter() - start) / peer)
        start = time.perf_counter()
        vectors = ours.embed_texts(prompts)
        times["patchword"].append((time.perf_counter() - start) / len(prompts))
    rates = {name: 1 / statistics.median(each) for name, each in times.items()}
    apart = (torch.from_numpy(vectors[:peer]) - expected.float()).abs().max()
    print(f"{torch.get_num_threads()} threads, {dtype}, {len(prompts)} prompts")
    print(
        f"open_clip {rates['open_clip']:.1f} prompts/s, patchword {rates['patchword']:.1f} "
        f"(x{rates['patchword'] / rates['open_clip']:.1f}); apart by at most {apart:.1e}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--peer", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    main(**vars(parser.parse_args()))
