"""Tiny masked autoencoders as transformers writes them, as on the hub, and as the original."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import torch
import transformers
from references import PATCH, SIZE, WEIGHTS, Reference, rewrite, scramble
from torch import Tensor
from torchvision import transforms
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
PREPROCESSOR = "preprocessor_config.json"
# Names of the decoder's blocks in transformers 5 and in the older repositories of the hub.
BLOCKS_5, BLOCKS = "decoder.decoder_encoder.layer.", "decoder.decoder_layers."
OLD_PREPROCESSOR = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    "image_mean": MEAN,
    "image_std": STD,
    "resample": 3,
    "size": SIZE,
}
TINY = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80,
    "decoder_hidden_size": 32, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 60, "image_size": SIZE, "patch_size": PATCH,
}  # fmt: skip
# The narrowest width for which the original code has a number of heads, with one small block.
ORIGINAL = TINY | {
    "hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 64,
    "decoder_num_attention_heads": 16, "layer_norm_eps": 1e-6,
}  # fmt: skip


def sincos(side: int, width: int) -> Tensor:
    """Positions (1 + side * side, width) of a square grid, the class token's first, by
    transformers; its column and row are the other way round in a masked autoencoder."""
    rows, columns = build_2d_sinusoidal_position_embedding(side, side, width, cls_token=True).chunk(
        2, dim=1
    )
    return torch.cat([columns, rows], dim=1)


def features(network: Any) -> Callable[[Tensor], Tensor]:
    """The class token (B, D) of the encoder on whole images: nothing masked, patches in order."""
    encoder = network.vit if hasattr(network, "vit") else network
    config = transformers.ViTMAEConfig(**{**encoder.config.to_dict(), "mask_ratio": 0.0})
    unmasked = transformers.ViTMAEModel(config).eval()
    unmasked.load_state_dict(encoder.state_dict())

    def run(pixels: Tensor) -> Tensor:
        count = unmasked.embeddings.patch_embeddings.num_patches
        in_order = torch.arange(float(count)).expand(len(pixels), -1)
        return unmasked(pixels, noise=in_order).last_hidden_state[:, 0]

    return run


def hugging_face(
    folder: Path, decoder: bool = True, hub: bool = False, **options: Any
) -> Reference:
    """transformers' ViTMAEForPreTraining, or without a decoder ViTMAEModel.

    hub: under the names, and with the preprocessor, that the hub's repositories have.
    """
    kind = transformers.ViTMAEForPreTraining if decoder else transformers.ViTMAEModel
    network = scramble(kind(transformers.ViTMAEConfig(**(TINY | options))))
    network.save_pretrained(folder)
    processor = transformers.ViTImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, resample=3, image_mean=MEAN, image_std=STD
    )
    processor.save_pretrained(folder)
    if hub:
        rewrite(folder / WEIGHTS, _as_on_the_hub)
        (folder / PREPROCESSOR).write_text(json.dumps(OLD_PREPROCESSOR))
    return Reference(
        folder,
        lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0],
        features(network),
        network=network,
    )


def _as_on_the_hub(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith(BLOCKS_5)]:
        tensors[name.replace(BLOCKS_5, BLOCKS)] = tensors.pop(name)


def original(path: Path, decoder: bool = True, **options: Any) -> Reference:
    """The original's .pth, whole or its encoder alone: transformers' weights under its names."""
    network = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**(ORIGINAL | options)))
    scramble(network).half().float()
    with torch.no_grad():  # transformers 5 leaves them 0 in a new model
        for place in (
            network.vit.embeddings.position_embeddings,
            network.decoder.decoder_pos_embed,
        ):
            place.copy_(sincos(SIZE // PATCH, place.shape[-1])[None].half())
    state = {name: tensor.half() for name, tensor in _original_names(network.state_dict()).items()}
    if not decoder:
        state = {n: t for n, t in state.items() if not n.startswith(("decoder", "mask_token"))}
    torch.save({"model": state}, path)
    return Reference(
        path,
        transforms.Compose(
            [
                transforms.Resize(SIZE * 256 // 224, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(SIZE),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        ),
        features(network),
        network=network,
    )


RENAMED = {
    "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
    "vit.embeddings.position_embeddings": "pos_embed",
    "vit.embeddings.cls_token": "cls_token",
    "decoder.decoder_layers": "decoder_blocks",
    "decoder.": "",
    "vit.layernorm.": "norm.",
    "vit.layers": "blocks",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.o_proj": "attn.proj",
    "attention.q_proj": "attn.qkv",
}  # the inverse of transformers' convert_vit_mae_to_pytorch.py


def _original_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            tensor = torch.cat(parts)
        for theirs, ours in RENAMED.items():
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    return renamed


MODELS: dict[str, Callable[[Path], Reference]] = {
    "huggingface mae": hugging_face,
    "huggingface mae as on the hub": lambda path: hugging_face(path, hub=True),
    "huggingface mae normalised, tanh, eps": lambda path: hugging_face(
        path, norm_pix_loss=True, hidden_act="gelu_new", layer_norm_eps=1e-3, mask_ratio=0.6
    ),
    "huggingface mae encoder": lambda path: hugging_face(path, decoder=False),
    "original mae": lambda path: original(path.with_suffix(".pth")),
    "original mae encoder": lambda path: original(path.with_suffix(".pth"), decoder=False),
}
