"""Every format is told from the others, and loads what its origin writes."""

from pathlib import Path

import pytest
from original_receipts import FOLDER, writers

from patchword import checkpoints

WRITERS = writers()
# Of each format a checkpoint that its own library wrote; the others of the same format are held by
# their receipts.
FORMATS = {
    "chinese_clip": "chinese-clip-vit",
    "hf_blip": "blip-hf-blip-captions",
    "hf_chinese_clip": "chinese-clip-hf-chinese-clip",
    "hf_clip": "clip-huggingface-quick-gelu",
    "hf_dinov2": "vit-huggingface-dinov2-registers",
    "hf_mae": "mae-huggingface-mae",
    "hf_siglip": "siglip-hf-siglip-naflex",
    "hf_swin": "swin-huggingface",
    "hf_vit": "vit-huggingface-deit",
    "lavis": "blip-lavis-pretrained",
    "mae": "mae-original-mae",
    "open_clip": "clip-open-clip-vit",
    "open_clip_custom": "open-clip-custom-siglip",
    "openai": "clip-openai-vit",
    "timm": "vit-timm-deit-distilled",
    "timm_swin": "swin-timm",
}


@pytest.mark.parametrize("name", FORMATS)
def test_recognised_as_what_it_is(name: str, tmp_path: Path) -> None:
    opened = checkpoints.locate(str(WRITERS[FORMATS[name]](tmp_path / "model").path))
    assert checkpoints.recognise(opened).__name__.rsplit(".")[-1] == name


def test_every_format_has_an_original() -> None:
    known = {form.__name__.rsplit(".")[-1] for form in checkpoints.FORMATS}
    assert known == {*FORMATS, "own"}
    assert {path.stem for path in FOLDER.iterdir()} == set(WRITERS)
