"""Images of another size than a checkpoint was trained at, against transformers'
`interpolate_pos_encoding`, which does not antialias."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision_cpu  # noqa: F401  # before transformers, which imports torchvision
from torch.testing import assert_close
from transformers import (
    BlipForImageTextRetrieval,
    ChineseCLIPModel,
    CLIPVisionModelWithProjection,
    DeiTModel,
    SiglipVisionModel,
    ViTModel,
)  # fmt: skip

from patchword import checkpoints

TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
WORDS = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "vocab_size": 64,
}  # fmt: skip
IDS = {"bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "clip": (CLIPVisionModelWithProjection, {**TINY, "projection_dim": 16}),
    "siglip": (SiglipVisionModel, TINY),
    "vit": (ViTModel, TINY),
    "deit": (DeiTModel, TINY),
    "blip": (
        BlipForImageTextRetrieval,
        {"vision_config": TINY, "text_config": {**WORDS, **IDS, "encoder_hidden_size": 32}},
    ),
    "chinese": (ChineseCLIPModel, {"vision_config": TINY, "text_config": WORDS}),
}


def expected(kind: str, network: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The pooled features of transformers' network, not normalised."""
    if kind in ("blip", "chinese"):
        tokens = network.vision_model(pixels, interpolate_pos_encoding=True)
        head = network.vision_proj if kind == "blip" else network.visual_projection
        pooled = tokens.last_hidden_state[:, 0] if kind == "blip" else tokens.pooler_output
        return head(pooled)  # type: ignore[no-any-return]
    found = network(pixels, interpolate_pos_encoding=True)
    if kind in ("vit", "deit"):
        return found.last_hidden_state[:, 0]  # type: ignore[no-any-return]
    return found.image_embeds if kind == "clip" else found.pooler_output  # type: ignore[no-any-return]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_as_transformers_interpolates(kind: str, tmp_path: Path) -> None:
    made, options = KINDS[kind]
    torch.manual_seed(0)
    network = made(made.config_class(**options)).eval()
    for value in network.parameters():  # positions too, which then differ from place to place
        value.normal_(std=0.2)
    network.save_pretrained(tmp_path)
    model = checkpoints.load(tmp_path)
    for size in ((24, 56), (32, 32), (8, 64)):
        pixels = torch.randn(2, 3, *size)
        got = model.network.encode_image(pixels)
        assert_close(got, expected(kind, network, pixels), atol=2e-6, rtol=2e-5)
    larger = checkpoints.load(tmp_path, image_size=48)
    assert larger.config.vision.antialias is False  # type: ignore[union-attr]
    assert larger.fingerprint != model.fingerprint
