"""Tiny SigLIPs as transformers writes them: of one size and NaFlex, whole and in parts."""

import math
import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import torch
import transformers
from references import PATCH, SIZE, Reference, scramble
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    convert_image_to_patches,
    pad_along_first_dim,
)

CONTEXT = 64
MAX_PATCHES = 20  # there are positions for 16
CLASSES = {0: "bear", 1: "cat", 2: "dog", 3: "owl", 4: "ram"}
LETTERS = string.ascii_lowercase + string.digits + string.ascii_uppercase
WORDS = ("▁a", "▁photo", "▁of", "▁cat", "▁dog", "▁red", "ird", "▁on", "▁the", "er", "▁word")
VISION = {
    "hidden_size": 48, "intermediate_size": 100, "num_attention_heads": 3, "num_hidden_layers": 2,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 2, "num_hidden_layers": 2,
    "projection_size": VISION["hidden_size"], "max_position_embeddings": CONTEXT,
}  # fmt: skip


def sentencepiece(normalised: bool = True) -> transformers.PreTrainedTokenizerFast:
    """A Unigram tokenizer like SigLIP's: "</s>" ends and pads. normalised: tokenizer.json itself
    lowers case and drops punctuation, as in the hub's repositories."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *WORDS, *LETTERS, *".,!&;_"]
    scores = [-float(i % 17) - 3 * (len(piece) == 1) for i, piece in enumerate(pieces)]
    backend = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=2))
    if normalised:
        punctuation = normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), "")
        spaces = normalizers.Replace(Regex(r"\s+"), " ")
        steps = [normalizers.Lowercase(), punctuation, spaces, normalizers.Strip()]
        backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="</s>", unk_token="<unk>",
        model_max_length=CONTEXT, model_input_names=["input_ids"],
    )  # fmt: skip


def gemma() -> transformers.Siglip2Tokenizer:
    """A byte-pair tokenizer like SigLIP 2's: lower case, "<eos>" ends, "<pad>" pads on the
    right."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    tokens += ["ca", "cat", "do", "dog", "re", "red", *(f"<0x{i:02X}>" for i in range(256)), "&"]
    return transformers.Siglip2Tokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[("c", "a"), ("ca", "t"), ("d", "o"), ("do", "g"), ("r", "e"), ("re", "d")],
        add_bos_token=False, add_eos_token=True, padding_side="right",
        model_input_names=["input_ids"],
    )  # fmt: skip


def padded(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Ids (N, CONTEXT): SigLIP was trained with texts padded to the context length."""
    return tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    )["input_ids"]  # type: ignore[no-any-return]


def scrambled(network: nn.Module) -> Any:
    """`scramble`, with the scale and bias of the published models."""
    scramble(network)
    if hasattr(network, "logit_scale"):
        with torch.no_grad():
            network.logit_scale.fill_(math.log(117.33))
            network.logit_bias.fill_(-12.93)
    return network


def siglip(
    folder: Path, tokenizer: Any = None, size: int = SIZE, joint: int = 48, **tower: Any
) -> Reference:
    """transformers' SiglipModel; `tower`: settings of both towers."""
    tokenizer = tokenizer or sentencepiece()
    vision = {**VISION, "hidden_size": joint, "image_size": size, "patch_size": PATCH, **tower}
    text = {**TEXT, "projection_size": joint, "vocab_size": len(tokenizer), **tower}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    network = scrambled(transformers.SiglipModel(config))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = _processor(folder, size)
    return Reference(
        folder,
        lambda image: processor(image, return_tensors="pt")["pixel_values"][0],
        lambda pixels: network.get_image_features(pixels).pooler_output,
        lambda texts: padded(tokenizer, texts),
        lambda ids: network.get_text_features(ids).pooler_output,
        lambda pixels, ids: network(pixel_values=pixels, input_ids=ids).logits_per_image,
        network,
    )


def siglip_vision(folder: Path, head: bool = True, prefix: str = "") -> Reference:
    """SiglipVisionModel, alone or stripped of its pooling; prefix: as transformers 4 wrote it."""
    config = transformers.SiglipVisionConfig(
        **VISION, image_size=SIZE, patch_size=PATCH, vision_use_head=head
    )
    network = scramble(transformers.SiglipVisionModel(config))
    state = {prefix + name: value for name, value in network.state_dict().items()}
    network.save_pretrained(folder, state_dict=state)
    processor = _processor(folder)

    def features(pixels: Tensor) -> Tensor:
        out = network(pixels)
        return out.pooler_output if head else out.last_hidden_state.mean(dim=1)

    return Reference(
        folder,
        lambda image: processor(image, return_tensors="pt")["pixel_values"][0],
        features,
        network=network,
    )


def siglip_text(folder: Path) -> Reference:
    """SiglipTextModel alone."""
    tokenizer = sentencepiece()
    config = transformers.SiglipTextConfig(**TEXT, vocab_size=len(tokenizer))
    network = scramble(transformers.SiglipTextModel(config))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Reference(
        folder,
        None,
        None,
        lambda texts: padded(tokenizer, texts),
        lambda ids: network(ids).pooler_output,
        network=network,
    )


def siglip_classifier(folder: Path) -> Reference:
    """SiglipForImageClassification."""
    vision = {**VISION, "image_size": SIZE, "patch_size": PATCH}
    config = transformers.SiglipConfig(vision_config=vision, id2label=CLASSES)
    network = scramble(transformers.SiglipForImageClassification(config))
    network.save_pretrained(folder)
    processor = _processor(folder)
    return Reference(
        folder,
        lambda image: processor(image, return_tensors="pt")["pixel_values"][0],
        lambda pixels: network.vision_model(pixels).last_hidden_state.mean(dim=1),
        network=network,
    )


def naflex(folder: Path, tokenizer: Any = None, **tower: Any) -> Reference:
    """Siglip2Model: images of any shape, in a batch (B, 3, H, W) or a list of (3, h, w)."""
    tokenizer = tokenizer or gemma()
    config = transformers.Siglip2Config(
        text_config={**TEXT, "vocab_size": len(tokenizer), **tower},
        vision_config={**VISION, "patch_size": PATCH, "num_patches": 16, **tower},
    )
    network = scrambled(transformers.Siglip2Model(config))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = _flexible_processor(folder)
    return Reference(
        folder,
        lambda image: from_patches(processor(image, return_tensors="pt")),
        lambda images: network.get_image_features(**patches(images)).pooler_output,
        lambda texts: padded(tokenizer, texts),
        lambda ids: network.get_text_features(ids).pooler_output,
        lambda images, ids: network(**patches(images), input_ids=ids).logits_per_image,
        network,
    )


def naflex_vision(folder: Path) -> Reference:
    """Siglip2VisionModel alone."""
    config = transformers.Siglip2VisionConfig(**VISION, patch_size=PATCH, num_patches=16)
    network = scramble(transformers.Siglip2VisionModel(config))
    network.save_pretrained(folder)
    processor = _flexible_processor(folder)
    return Reference(
        folder,
        lambda image: from_patches(processor(image, return_tensors="pt")),
        lambda images: network(**patches(images)).pooler_output,
        network=network,
    )


def naflex_classifier(folder: Path) -> Reference:
    """Siglip2ForImageClassification."""
    vision = {**VISION, "patch_size": PATCH, "num_patches": 16}
    config = transformers.Siglip2Config(vision_config=vision, id2label=CLASSES)
    network = scramble(transformers.Siglip2ForImageClassification(config))
    network.save_pretrained(folder)
    processor = _flexible_processor(folder)

    def features(images: Sequence[Tensor]) -> Tensor:
        batch = patches(images)
        mask = batch["pixel_attention_mask"][..., None]
        return (network.vision_model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)

    return Reference(
        folder,
        lambda image: from_patches(processor(image, return_tensors="pt")),
        features,
        network=network,
    )


def patches(images: Sequence[Tensor]) -> dict[str, Tensor]:
    """Images (3, h, w) as Siglip2Model takes them, padded to MAX_PATCHES patches."""
    rows = [convert_image_to_patches(image.numpy(), PATCH) for image in images]
    values, masks = zip(*(pad_along_first_dim(row, MAX_PATCHES) for row in rows), strict=True)
    shapes = [(image.shape[1] // PATCH, image.shape[2] // PATCH) for image in images]
    return {
        "pixel_values": torch.from_numpy(np.stack(values)),
        "pixel_attention_mask": torch.from_numpy(np.stack(masks)),
        "spatial_shapes": torch.tensor(shapes),
    }


def from_patches(batch: Any, patch: int = PATCH) -> Tensor:
    """The image (3, h, w) that a processor cut into patches."""
    rows, columns = batch["spatial_shapes"][0].tolist()
    assert batch["pixel_attention_mask"][0].sum() == rows * columns
    values = batch["pixel_values"][0][: rows * columns]
    image = values.reshape(rows, columns, patch, patch, 3).permute(4, 0, 2, 1, 3)
    return image.reshape(3, rows * patch, columns * patch)


def _processor(folder: Path, size: int = SIZE) -> Any:
    processor = transformers.SiglipImageProcessorPil(size={"height": size, "width": size})
    processor.save_pretrained(folder)
    return processor


def _flexible_processor(folder: Path) -> Any:
    processor = transformers.Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=MAX_PATCHES)
    processor.save_pretrained(folder)
    return processor


MODELS: dict[str, Callable[[Path], Reference]] = {
    "hf_siglip": siglip,
    "hf_siglip gelu eps": lambda path: siglip(path, hidden_act="gelu", layer_norm_eps=1e-3),
    "hf_siglip gemma": lambda path: siglip(path, gemma()),
    "hf_siglip odd size": lambda path: siglip(path, size=SIZE + 3, joint=24),
    "hf_siglip vision": siglip_vision,
    "hf_siglip vision prefixed": lambda path: siglip_vision(path, prefix="vision_model."),
    "hf_siglip vision headless": lambda path: siglip_vision(path, head=False),
    "hf_siglip text": siglip_text,
    "hf_siglip classifier": siglip_classifier,
    "hf_siglip naflex": naflex,
    "hf_siglip naflex sentencepiece": lambda path: naflex(path, sentencepiece()),
    "hf_siglip naflex gelu eps": lambda path: naflex(path, hidden_act="gelu", layer_norm_eps=1e-3),
    "hf_siglip naflex vision": naflex_vision,
    "hf_siglip naflex classifier": naflex_classifier,
}
