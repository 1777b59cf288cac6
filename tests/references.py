"""Tiny random models that the original libraries write to disk, and the outputs to compare with.

Weights are replaced by larger random values: with the libraries' own initial values, which are
very small, a wrong activation function would hardly change the outputs.
"""

# ruff: noqa: E402  # some imports must be prepared
import functools
import json
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import packaging.version

# openai-clip finds packaging through pkg_resources, which setuptools no longer has.
sys.modules.setdefault("pkg_resources", types.SimpleNamespace(packaging=packaging))  # type: ignore[arg-type]

# isort: split
import clip
import open_clip
import pytest
import safetensors.torch
import timm
import torch
import transformers
from clip.model import CLIP, convert_weights
from open_clip.push_to_hf_hub import save_config_for_hf
from PIL import Image
from timm.models import save_for_hf
from tiny_tokenizers import clip_tokenizer, open_clip_tokenizer, save_clip_tokenizer, xlm
from torch import Tensor, nn

from patchword import checkpoints
from patchword.errors import CheckpointError

SIZE = 32  # pixels
PATCH = 8
WEIGHTS = "model.safetensors"
_clip_tokenizer = functools.cache(clip_tokenizer)  # shared, so it must not be changed or saved


@dataclass(frozen=True)
class Reference:
    """A checkpoint of another library, and functions that compute its outputs with that library."""

    path: Path
    pixels: Callable[[Image.Image], Tensor]  # (3, S, S), by the library's preprocessing
    image: Callable[[Tensor], Tensor]  # pixels (B, 3, S, S) -> features (B, D), not normalised
    ids: Callable[[Sequence[str]], Tensor] | None = None  # by the library's tokenizer
    text: Callable[[Tensor], Tensor] | None = None
    logits: Callable[[Tensor, Tensor], Tensor] | None = None  # (pixels, ids) -> (B, T)
    network: nn.Module | None = None


def scramble(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fill parameters and running statistics with values large enough that every part of the
    network affects the outputs. Returns the network in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if not value.is_floating_point() or value.ndim == 0 or not torch.isfinite(value).all():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(1 + 0.3 * noise.abs())
            elif value.ndim == 1:
                centre = 1.0 if name.endswith("weight") else 0.0  # weights of norms are around 1
                value.copy_(centre + 0.3 * noise)
            else:
                value.copy_(noise * min(0.5, 1.5 * value[0].numel() ** -0.5))
    return network.eval()


def hugging_face(
    folder: Path,
    act: str = "quick_gelu",
    eps: float = 1e-5,
    worldwide: bool = False,
    **saving: Any,
) -> Reference:
    """transformers' CLIPModel, or with `worldwide` MetaClip2Model, with its processor and
    tokenizer."""
    tower = {"num_hidden_layers": 2, "hidden_act": act, "layer_norm_eps": eps}
    tokenizer = xlm() if worldwide else _clip_tokenizer()
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 2} if worldwide else {}
    name = "MetaClip2" if worldwide else "CLIP"
    config = getattr(transformers, f"{name}Config")(
        text_config={
            "hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 2, **tower, **ids,
        },
        vision_config={
            "hidden_size": 48, "intermediate_size": 100, "num_attention_heads": 3,
            "image_size": SIZE, "patch_size": PATCH, **tower,
        },
        projection_dim=24,
    )  # fmt: skip
    network = scramble(getattr(transformers, f"{name}Model")(config))
    network.save_pretrained(folder, **saving)
    if worldwide:
        tokenizer.save_pretrained(folder)
    else:
        save_clip_tokenizer(folder)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    processor.save_pretrained(folder)
    return Reference(
        folder,
        lambda image: processor(image, return_tensors="pt")["pixel_values"][0],
        lambda pixels: network.get_image_features(pixels).pooler_output,
        lambda texts: tokenizer(
            list(texts), padding=True, truncation=True, max_length=77, return_tensors="pt"
        )["input_ids"],
        lambda ids: network.get_text_features(ids).pooler_output,
        lambda pixels, ids: network(pixel_values=pixels, input_ids=ids).logits_per_image,
        network,
    )


def open_clip_model(
    folder: Path, vision: dict[str, Any], binary: bool = False, **model: Any
) -> Reference:
    """open_clip's CLIP as `push_to_hf_hub` writes it. vision: its vision_cfg; binary: as a .bin
    file; model: further keys of its config."""
    text = {"width": 32, "heads": 2, "layers": 2, **model.pop("text", {})}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **model}
    torch.manual_seed(0)
    network = scramble(open_clip.model.CLIP(**config))
    preprocess_cfg = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    network.visual.image_mean, network.visual.image_std = preprocess_cfg.values()
    folder.mkdir()
    state = network.state_dict()
    if binary:
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    else:
        safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    save_config_for_hf(network, folder / "open_clip_config.json", config)
    save_clip_tokenizer(folder)
    size = network.visual.image_size
    transform = open_clip.image_transform(size, is_train=False, **preprocess_cfg)
    tokenizer = open_clip_tokenizer(text.get("context_length", 77))
    return Reference(
        folder,
        transform,
        network.encode_image,
        tokenizer,
        network.encode_text,
        lambda pixels, ids: network.get_logits(pixels, ids)[0],
        network,
    )


def openai_archive(path: Path, resnet: bool = False) -> Reference:
    """OpenAI's CLIP as a TorchScript archive in half precision, as the original files are."""
    vision = (64, (1, 2, 1, 1), 16, None) if resnet else (SIZE, 2, 128, PATCH)
    network = scramble(CLIP(48, *vision, 77, 49408, 64, 1, 2))
    convert_weights(network)
    example = torch.zeros(1, 3, vision[0], vision[0]), torch.zeros(1, 77, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: constants, and its deprecation
        # check_trace fails for a network that casts to half.
        torch.jit.trace(network, example, check_trace=False).save(path)
        network, transform = clip.load(str(path), device="cpu", jit=False)
    return Reference(
        path,
        transform,
        network.encode_image,
        lambda texts: clip.tokenize(list(texts), truncate=True).long(),
        network.encode_text,
        lambda pixels, ids: network(pixels, ids)[0],
        network,
    )


def timm_vit(folder: Path, name: str = "vit_tiny_patch16_224", **arguments: Any) -> Reference:
    """A timm Vision Transformer as `timm.models.save_for_hf` writes it."""
    sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 48, "depth": 2, "num_classes": 10}
    network = scramble(timm.create_model(name, **(sizes | arguments)))
    save_for_hf(network, str(folder), safe_serialization=True)
    size = network.patch_embed.img_size
    data = timm.data.resolve_data_config({"input_size": (3, *size)}, model=network)
    return Reference(
        folder,
        timm.data.create_transform(**data),
        lambda pixels: network.forward_head(network.forward_features(pixels), pre_logits=True),
        network=network,
    )


def edit_json(path: Path, **changes: Any) -> None:
    """Change values of a JSON file. "a__b" is key b inside a; None removes a key."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = content
        for parent in parents:
            inner = inner[parent]
        if value is None:
            inner.pop(last, None)
        else:
            inner[last] = value
    path.write_text(json.dumps(content))


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a safetensors file."""
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def fails(path: Path, *parts: str) -> str:
    """Check that loading raises a CheckpointError whose message has all these parts. Returns it."""
    with pytest.raises(CheckpointError) as error_info:
        checkpoints.load(path)
    message = str(error_info.value)
    for part in parts:
        assert part in message, message
    return message
