"""Every model family at full size: agreement with the original library, and items a second.

    python benchmarks/families.py [--batch 8] [NAME ...]

The original library writes a checkpoint with random weights, and patchword loads it with its
converter. Both compute the same inputs, in turn, in float32. Agreement: the largest difference of
an output, with linear layers by torch (under no_grad), and by oneDNN in parts (under
inference_mode).
"""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# isort: off
import torchvision_cpu  # noqa: F401  # before timm and transformers, which import torchvision
import timm
import torch
import transformers
# isort: on

from rows import Rows, median_seconds, option_parser, rates
from timm.models import save_for_hf
from torch import Tensor, nn

import patchword
from patchword.models.generate import GenerationOptions

Run = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Family:
    """A model family: how to build it, its inputs, and the outputs to compare."""

    build: Callable[[], nn.Module]  # by the original library
    inputs: Callable[[int], Tensor]  # of a batch size
    theirs: Callable[[Any, Tensor], Tensor]  # the original network's outputs
    ours: Callable[[Any, Tensor], Tensor]


def pixels(side: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, 3, side, side)


def words(length: int, vocabulary: int, end: int) -> Callable[[int], Tensor]:
    """Random ids (batch, length) whose only end token is at the last position."""

    def inputs(batch: int) -> Tensor:
        ids = torch.randint(1000, vocabulary - 2, (batch, length))
        ids[:, -1] = end
        return ids

    return inputs


def from_timm(name: str, side: int = 224) -> Family:
    return Family(
        lambda: timm.create_model(name),
        pixels(side),
        lambda network, x: network(x),
        lambda network, x: network(x),
    )


def encoded(network: Any, x: Tensor) -> Tensor:
    """Image features of a patchword network."""
    return network.encode_image(x)


def noisy(x: Tensor) -> Tensor:
    """The random numbers by which an MAE chooses the patches to mask; the same for both."""
    return torch.rand(len(x), 196, generator=torch.Generator().manual_seed(1))


hf = transformers
QUESTION = torch.arange(1990, 2002)[None]  # (1, 12)
# Lengths of a caption, with the start token, for transformers and for patchword.
TWENTY = {"max_length": 21, "min_length": 21}
OURS = GenerationOptions(beams=3, max_length=21, min_length=21)
FAMILIES = {
    "ViT-B/16 (timm)": from_timm("vit_base_patch16_224"),
    "ViT-B/16 (transformers)": Family(
        lambda: hf.ViTForImageClassification(hf.ViTConfig()),
        pixels(224),
        lambda network, x: network(x).logits,
        lambda network, x: network(x),
    ),
    "DINOv2-B/14, registers (transformers)": Family(
        lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(image_size=518)),
        pixels(224),
        lambda network, x: network(x).pooler_output,
        encoded,
    ),
    "DeiT-B distilled (timm)": from_timm("deit_base_distilled_patch16_224"),
    "Swin-B (timm)": from_timm("swin_base_patch4_window7_224"),
    "Swin-T (transformers)": Family(
        lambda: hf.SwinForImageClassification(hf.SwinConfig()),
        pixels(224),
        lambda network, x: network(x).logits,
        lambda network, x: network(x),
    ),
    "MAE-B, reconstruction": Family(
        lambda: hf.ViTMAEForPreTraining(hf.ViTMAEConfig()),
        pixels(224),
        lambda network, x: network(x, noise=noisy(x)).logits,
        lambda network, x: network(x, noisy(x))[0],
    ),
    "CLIP ViT-B/32, images": Family(
        lambda: hf.CLIPModel(hf.CLIPConfig()),
        pixels(224),
        lambda network, x: network.get_image_features(x).pooler_output,
        encoded,
    ),
    "CLIP ViT-B/32, texts": Family(
        lambda: hf.CLIPModel(hf.CLIPConfig()),
        words(16, 49408, 49407),
        lambda network, x: network.get_text_features(x).pooler_output,
        lambda network, x: network.encode_text(x),
    ),
    "CLIP ViT-L/14, images": Family(
        lambda: hf.CLIPModel(
            hf.CLIPConfig(
                vision_config={
                    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                    "num_attention_heads": 16, "patch_size": 14,
                },
            )
        ),
        pixels(224),
        lambda network, x: network.get_image_features(x).pooler_output,
        encoded,
    ),
    "SigLIP-B/16, images": Family(
        lambda: hf.SiglipModel(hf.SiglipConfig()),
        pixels(224),
        lambda network, x: network.get_image_features(x).pooler_output,
        encoded,
    ),
    "SigLIP-B/16, texts": Family(
        lambda: hf.SiglipModel(hf.SiglipConfig()),
        words(64, 32000, 31999),
        lambda network, x: network.get_text_features(x).pooler_output,
        lambda network, x: network.encode_text(x),
    ),
    "Chinese-CLIP ViT-B, texts": Family(
        lambda: hf.ChineseCLIPModel(hf.ChineseCLIPConfig()),
        words(20, 21128, 102),
        lambda network, x: network.get_text_features(x).pooler_output,
        lambda network, x: network.encode_text(x),
    ),
    "BLIP-B, matching": Family(
        lambda: hf.BlipForImageTextRetrieval(hf.BlipConfig()),
        pixels(384),
        lambda network, x: network(QUESTION.expand(len(x), -1), x).itm_score,
        lambda network, x: network.match(network.image_tokens(x), QUESTION.expand(len(x), -1)),
    ),
    "BLIP-B, captions": Family(
        lambda: hf.BlipForConditionalGeneration(hf.BlipConfig()),
        pixels(384),
        lambda network, x: network.generate(x, num_beams=3, **TWENTY),
        lambda network, x: network.caption(x, torch.zeros(1, dtype=torch.long), OURS).ids,
    ),
    "CLIP-L text (diffusion)": Family(
        lambda: hf.CLIPTextModelWithProjection(
            hf.CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_attention_heads=12,
                num_hidden_layers=12, projection_dim=768,
            )
        ),
        words(77, 49408, 49407),
        lambda network, x: network(x).text_embeds,
        lambda network, x: network.encode_text(x),
    ),
}  # fmt: skip


def write(network: nn.Module, folder: str) -> None:
    """Write a checkpoint with the network's own library."""
    if isinstance(network, transformers.PreTrainedModel):
        network.save_pretrained(folder)
    else:
        save_for_hf(network, folder, safe_serialization=True)


def measure(name: str, family: Family, batch: int, rounds: int, rows: Rows) -> None:
    """Add the row of a family."""
    torch.manual_seed(0)
    original = family.build().eval()
    with tempfile.TemporaryDirectory() as folder:
        write(original, folder)
        network = patchword.load(folder).network
    inputs = family.inputs(batch)
    library = type(original).__module__.partition(".")[0]
    functions = {
        library: lambda: family.theirs(original, inputs),
        "patchword": lambda: family.ours(network, inputs),
    }
    differences = []
    for how, mode in (("by torch", torch.no_grad), ("by oneDNN", torch.inference_mode)):
        with mode():
            expected, outputs = (function() for function in functions.values())
        torch.testing.assert_close(outputs, expected)
        differences.append(f"{(outputs - expected).abs().max().item():.1e} {how}")
    agreement = f"apart by at most {', '.join(differences)}"
    agreement += f", largest value {expected.abs().max().item():.2f}"
    with torch.inference_mode():
        speed = rates(batch, median_seconds(functions, rounds))
    what = f"{name}, float32, {batch} at a time"
    rows.add_peers(what, "items/s", speed, agreement=agreement)


def main(names: list[str], batch: int, rounds: int, results: Path | None) -> None:
    rows = Rows(results)
    for name in names or FAMILIES:
        measure(name, FAMILIES[name], batch, rounds, rows)


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAMILIES))
    parser.add_argument("--batch", type=int, default=8)
    main(**vars(parser.parse_args()))
