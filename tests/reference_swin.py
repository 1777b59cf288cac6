"""Tiny Swins as transformers and timm write them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import timm
import transformers
from references import Reference, scramble
from timm.models import save_for_hf

SIZE, WINDOW = 56, 4  # 28 patches a side, in 7 windows; then 14 and 7, which are not divisible by 4


def hf_swin(
    folder: Path,
    size: int = SIZE,
    classes: int = 5,
    act: str = "gelu",
    eps: float = 1e-5,
    heads: tuple[int, ...] = (2, 4, 8),
) -> Reference:
    """transformers' SwinForImageClassification, or SwinModel without classes."""
    config = transformers.SwinConfig(
        image_size=size, patch_size=2, embed_dim=16, depths=[2, 2, 2], num_heads=list(heads),
        window_size=WINDOW, hidden_act=act, layer_norm_eps=eps, num_labels=classes,
        id2label={i: f"kind {i}" for i in range(classes)},
    )  # fmt: skip
    kind = transformers.SwinForImageClassification if classes else transformers.SwinModel
    network = scramble(kind(config))
    network.save_pretrained(folder)
    processor = transformers.ViTImageProcessorPil(size={"height": size, "width": size})
    processor.save_pretrained(folder)
    tower = network.swin if classes else network
    return Reference(
        folder,
        lambda image: processor(image, return_tensors="pt")["pixel_values"][0],
        lambda pixels: tower(pixels).pooler_output,
        network=network,
    )


def timm_swin(folder: Path, size: int = SIZE, **arguments: Any) -> Reference:
    """timm's SwinTransformer as `timm.models.save_for_hf` writes it."""
    sizes = {"img_size": size, "patch_size": 2, "embed_dim": 16, "depths": (2, 2, 2)}
    heads = {"num_heads": (2, 4, 8), "window_size": WINDOW, "num_classes": 5}
    name = "swin_tiny_patch4_window7_224"
    network = scramble(timm.create_model(name, **(sizes | heads | arguments)))
    for layer in network.layers:
        for block in layer.blocks:
            block._init_buffers()  # its attention masks, which `scramble` has changed
    save_for_hf(network, str(folder), safe_serialization=True)
    data = timm.data.resolve_data_config({"input_size": (3, size, size)}, model=network)
    return Reference(
        folder,
        timm.data.create_transform(**data),
        lambda pixels: network.forward_head(network.forward_features(pixels), pre_logits=True),
        network=network,
    )


MODELS: dict[str, Callable[[Path], Reference]] = {
    "huggingface": hf_swin,
    "huggingface odd": lambda folder: hf_swin(folder, 46),
    "huggingface headless": lambda folder: hf_swin(folder, classes=0),
    "huggingface tanh eps": lambda folder: hf_swin(folder, act="gelu_new", eps=1e-3),
    "timm": timm_swin,
    "timm odd": lambda folder: timm_swin(folder, 46),
    "timm smaller than a window": lambda folder: timm_swin(folder, 20),
    "timm headless": lambda folder: timm_swin(folder, num_classes=0),
}
