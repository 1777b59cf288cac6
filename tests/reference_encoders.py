"""Tiny text and image towers of CLIP as transformers writes them for other networks to use."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import transformers
from references import PATCH, SIZE, WEIGHTS, Reference, edit_json, rewrite, scramble
from tiny_tokenizers import clip_tokenizer
from torch import Tensor

DEPTH = 3
TEXT_WIDTH, VISION_WIDTH, PROJECTED = 24, 48, 20


def text(
    folder: Path,
    act: str = "quick_gelu",
    projects: bool = False,
    pad: str = "<|endoftext|>",
    eps: float = 1e-5,
    words: Path | None = None,
    family: str = "CLIP",
    **config: Any,
) -> Reference:
    """transformers' CLIPTextModel, or CLIPTextModelWithProjection, and its tokenizer in `words`;
    or those of another family."""
    stated = getattr(transformers, f"{family}TextConfig")(
        hidden_size=TEXT_WIDTH, intermediate_size=80, num_attention_heads=2,
        num_hidden_layers=DEPTH, hidden_act=act, layer_norm_eps=eps, projection_dim=PROJECTED,
        **config,
    )  # fmt: skip
    kind = f"{family}TextModel{'WithProjection' * projects}"
    network = scramble(getattr(transformers, kind)(stated))
    network.save_pretrained(folder)
    tokenizer = clip_tokenizer(pad_token=pad)
    tokenizer.save_pretrained(words or folder)
    return Reference(
        folder,
        None,
        None,
        lambda texts: tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        )["input_ids"],
        lambda ids: network(ids).text_embeds if projects else network(ids).pooler_output,
        network=network,
    )


def old_text(folder: Path, **arguments: Any) -> Reference:
    """A CLIPTextModel as transformers 4 wrote it: names with a prefix, positions, old end token."""
    reference = text(folder, eos_token_id=2, bos_token_id=0, **arguments)
    rewrite(folder / WEIGHTS, prefixed("text_model."))
    return reference


def pipeline(folder: Path, number: str = "_2") -> Reference:
    """The second text encoder of an SDXL pipeline: "text_encoder_2", and "tokenizer_2" with a
    vocabulary and merges instead of tokenizer.json."""
    words = folder / f"tokenizer{number}"
    reference = text(
        folder / f"text_encoder{number}", "gelu", True, "!", words=words, eos_token_id=2
    )
    old_tokenizer(words)
    special = {"content": "!", "special": True}
    edit_json(words / "tokenizer_config.json", added_tokens_decoder={"0": special})
    return reference


def old_tokenizer(folder: Path) -> None:
    """Make a tokenizer.json vocab.json and merges.txt, as hub repositories of 2022 have it."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]))


def vision(
    folder: Path, act: str = "quick_gelu", projects: bool = False, eps: float = 1e-5
) -> Reference:
    """transformers' CLIPVisionModel, or CLIPVisionModelWithProjection, and its processor."""
    config = transformers.CLIPVisionConfig(
        hidden_size=VISION_WIDTH, intermediate_size=100, num_attention_heads=3,
        num_hidden_layers=DEPTH, image_size=SIZE, patch_size=PATCH, hidden_act=act,
        layer_norm_eps=eps, projection_dim=PROJECTED,
    )  # fmt: skip
    kind = transformers.CLIPVisionModelWithProjection if projects else transformers.CLIPVisionModel
    network = scramble(kind(config))
    network.save_pretrained(folder)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    processor.save_pretrained(folder)
    return Reference(
        folder,
        lambda image: processor(image, return_tensors="pt")["pixel_values"][0],
        lambda pixels: network(pixels).image_embeds if projects else network(pixels).pooler_output,
        network=network,
    )


def old_vision(folder: Path, **arguments: Any) -> Reference:
    """A CLIPVisionModel as transformers 4 wrote it."""
    reference = vision(folder, **arguments)
    rewrite(folder / WEIGHTS, prefixed("vision_model."))
    return reference


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], None]:
    """Puts `prefix` before every name, and the counted positions that old files store."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)
        positions = tensors[f"{prefix}embeddings.position_embedding.weight"]
        tensors[f"{prefix}embeddings.position_ids"] = positions[:, 0].argsort().sort()[0][None]

    return change


def without_tokenizer(folder: Path) -> Path:
    """A copy of a checkpoint with its weights and config.json alone."""
    bare = folder.with_name(f"{folder.name} bare")
    bare.mkdir()
    for name in ("config.json", WEIGHTS):
        shutil.copy(folder / name, bare)
    return bare


TEXTS: dict[str, Callable[[Path], Reference]] = {
    "hf_clip text quick_gelu": text,
    "hf_clip text gelu eps": lambda path: text(path, "gelu", eps=1e-3),
    "hf_clip text of transformers 4": lambda path: old_text(path, act="gelu", pad="!"),
    "hf_clip text projection": lambda path: text(path, "gelu", True, "!"),
    "hf_clip text metaclip 2": lambda path: text(path, "gelu", True, family="MetaClip2"),
    "hf_clip text pipeline": pipeline,
}
VISIONS: dict[str, Callable[[Path], Reference]] = {
    "hf_clip vision quick_gelu": vision,
    "hf_clip vision gelu eps": lambda path: vision(path, "gelu", eps=1e-3),
    "hf_clip vision of transformers 4": old_vision,
    "hf_clip vision projection": lambda path: vision(path, "gelu", True),
}
MODELS = TEXTS | VISIONS
