"""How far float8 would move the vectors of images: cosines to float32, computed without a GPU.

    python benchmarks/float8.py [--data ../shared/data]

Inputs and weights of linear layers are rounded to float8 (e4m3), each row scaled so that its
largest value is e4m3's largest, as scaled products of GPUs take them; sums are in float32. First
all layers are rounded, then those of one kind alone. A cosine of at least 0.999 is wanted.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import torch.nn.functional as F
from probe import vit
from torch import Tensor
from torch.overrides import TorchFunctionMode

import patchword
from patchword import images

PHOTOS = 100
MOST = torch.finfo(torch.float8_e4m3fn).max
# Layers by the shape (out, in) of their weights
KINDS: dict[str, Callable[[int, int], bool]] = {
    "all": lambda out, width: True,
    "query, key, value": lambda out, width: out == 3 * width,
    "output of attention": lambda out, width: out == width,
    "MLP, first": lambda out, width: out == 4 * width,
    "MLP, second": lambda out, width: width == 4 * out,
}


def rounded(x: Tensor) -> Tensor:
    """x (..., n) as float8 with a scale for each row, in x's type."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / MOST
    return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale


class Float8(TorchFunctionMode):
    """In its `with` block, linear layers of a kind round their inputs and weights."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.chosen = KINDS[kind]
        self.layers = 0

    def __torch_function__(self, function, types, args=(), kwargs=None) -> Any:  # type: ignore[no-untyped-def]
        if function is F.linear and self.chosen(*args[1].shape):
            self.layers += 1
            args = (rounded(args[0]), rounded(args[1]), *args[2:])
        return function(*args, **(kwargs or {}))


@torch.no_grad()  # in inference mode, layers on a CPU would not call F.linear
def main(data: Path) -> None:
    models = {
        "demo": patchword.load("demo"),
        "demo-blip": patchword.load("demo-blip"),
        "ViT-Tiny of ImageNet": vit(data / "vit_tiny" / "model.safetensors"),
    }
    folders = {"photos": ("coco", "photos"), "clothes": ("clothing/validation",)}
    print("model; images; rounded layers; cosine: mean, least")
    for name, model in models.items():
        for title, paths in folders.items():
            files = [file for path in paths for file in sorted((data / path).rglob("*.jpg"))]
            pixels = [model.preprocess(images.open(file))[0] for file in files[:PHOTOS]]
            batch = torch.from_numpy(np.stack(pixels))
            exact = model.network.encode_image(batch).double()
            for kind in KINDS:
                with Float8(kind) as float8:
                    vectors = model.network.encode_image(batch).double()
                cosines = F.cosine_similarity(exact, vectors, dim=-1)
                print(
                    f"{name}; {len(pixels)} {title}; {float8.layers}, {kind}; "
                    f"{cosines.mean():.5f}, {cosines.min():.5f}"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    main(parser.parse_args().data)
