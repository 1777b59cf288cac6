"""Tiny ViTs and DeiTs as timm and transformers write them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import transformers
from references import PATCH, SIZE, Reference, scramble, timm_vit

WIDTH = 48
NAMES = ("tench", "goldfish", "white shark", "tiger shark", "hammerhead")


def hf_vit(folder: Path, classes: int = len(NAMES), **options: Any) -> Reference:
    """transformers' ViTForImageClassification, or ViTModel without classes."""
    kind = transformers.ViTForImageClassification if classes else transformers.ViTModel
    processor = transformers.ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})
    return _hf(folder, kind(_config(transformers.ViTConfig, classes, options)), processor)


def hf_deit(
    folder: Path, classes: int = len(NAMES), teacher: bool = False, **options: Any
) -> Reference:
    """transformers' DeiTForImageClassification, that WithTeacher, or DeiTModel without classes."""
    kind = transformers.DeiTForImageClassification if classes else transformers.DeiTModel
    if teacher:
        kind = transformers.DeiTForImageClassificationWithTeacher
    processor = transformers.DeiTImageProcessorPil(
        size={"height": SIZE + 5, "width": SIZE + 5}, crop_size={"height": SIZE, "width": SIZE}
    )
    return _hf(folder, kind(_config(transformers.DeiTConfig, classes, options)), processor)


def hf_dinov2(folder: Path, registers: bool = False, **options: Any) -> Reference:
    """transformers' Dinov2Model, or Dinov2WithRegistersModel; photos are smaller than `image_size`,
    as in the checkpoints of the hub."""
    model, settings = transformers.Dinov2Model, transformers.Dinov2Config
    if registers:
        model = transformers.Dinov2WithRegistersModel
        settings = transformers.Dinov2WithRegistersConfig
    config = settings(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, image_size=SIZE + 2 * PATCH,
        patch_size=PATCH, **options,
    )  # fmt: skip
    processor = transformers.BitImageProcessorPil(
        size={"shortest_edge": SIZE + 5}, crop_size={"height": SIZE, "width": SIZE}
    )
    return _hf(folder, model(config), processor)


def _config(kind: Any, classes: int, options: dict[str, Any]) -> Any:
    return kind(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=80,
        image_size=SIZE, patch_size=PATCH, id2label=dict(enumerate(NAMES[:classes])), **options,
    )  # fmt: skip


def _hf(folder: Path, network: Any, processor: Any) -> Reference:
    scramble(network)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    tower = getattr(network, network.base_model_prefix, network)
    distilled = hasattr(network, "distillation_classifier")

    def image(pixels: Any) -> Any:
        tokens = tower(pixels).last_hidden_state
        return tokens[:, :2].mean(dim=1) if distilled else tokens[:, 0]

    return Reference(
        folder,
        lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0],
        image,
        network=network,
    )


def _timm(name: str = "vit_tiny_patch16_224", **arguments: Any) -> Callable[[Path], Reference]:
    return lambda folder: timm_vit(folder, name, **arguments)


# A combination that no published architecture has.
MIXED = {"global_pool": "avg", "fc_norm": False, "reg_tokens": 3, "qk_norm": True}
SHORT = {"embed_dim": 60}  # for 5 or 10 heads

MODELS: dict[str, Callable[[Path], Reference]] = {
    "timm": _timm(),
    "timm average": _timm(global_pool="avg"),
    "timm average without class token": _timm(global_pool="avg", class_token=False),
    "timm norm, average, registers, qk-norm": _timm(**MIXED),
    "timm map": _timm(global_pool="map", class_token=False),
    "timm headless": _timm(num_classes=0),
    "timm layer scale, tanh": _timm(init_values=0.1, act_layer="gelu_tanh"),
    "timm clip": _timm("vit_base_patch32_clip_224"),
    "timm clip quick_gelu": _timm("vit_base_patch16_clip_quickgelu_224"),
    "timm without biases": _timm("vit_base_patch16_224_miil"),
    "timm dinov2": _timm("vit_small_patch14_dinov2"),
    "timm dinov2 registers": _timm("vit_base_patch14_reg4_dinov2"),
    "timm flexivit": _timm("flexivit_small"),
    "timm gap without biases": _timm("vit_betwixt_patch16_gap_256", **SHORT),
    "timm register gap": _timm("vit_little_patch16_reg1_gap_256", **SHORT),
    "timm siglip": _timm("vit_so400m_patch14_siglip_384", img_size=37),
    "timm siglip gap": _timm("vit_so400m_patch16_siglip_gap_256"),
    "timm siglip headless": _timm("vit_base_patch32_siglip_256", num_classes=0),
    "timm map over everything": _timm("test_vit3"),
    "timm deit": _timm("deit_small_patch16_224"),
    "timm deit distilled": _timm("deit_small_distilled_patch16_224"),
    "timm deit distilled headless": _timm("deit_tiny_distilled_patch16_224", num_classes=0),
    "timm deit3": _timm("deit3_small_patch16_224"),
    "huggingface vit": hf_vit,
    "huggingface vit headless": lambda path: hf_vit(path, classes=0),
    "huggingface vit without biases": lambda path: hf_vit(path, qkv_bias=False),
    "huggingface vit tanh eps": lambda path: hf_vit(
        path, hidden_act="gelu_new", layer_norm_eps=1e-3
    ),
    "huggingface deit": hf_deit,
    "huggingface deit with teacher": lambda path: hf_deit(path, teacher=True),
    "huggingface deit headless": lambda path: hf_deit(path, classes=0),
    "huggingface dinov2": hf_dinov2,
    "huggingface dinov2 without biases, tanh, eps": lambda path: hf_dinov2(
        path, qkv_bias=False, hidden_act="gelu_new", layer_norm_eps=1e-3, mlp_ratio=3
    ),
    "huggingface dinov2 registers": lambda path: hf_dinov2(path, True, num_register_tokens=3),
}
