"""A sample of what tests/config_fuzz.py does in full, and the kinds of damage that it found."""

import json
from pathlib import Path
from typing import Any

import pytest
from config_fuzz import NAMES, Report, damaged, fuzz, write

import patchword
from patchword.errors import PatchwordError

SAMPLE = 20  # damaged files of each checkpoint


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_config_is_refused_or_answers(name: str, tmp_path: Path) -> None:
    report = Report()
    fuzz(write(name, tmp_path / name), report, most=SAMPLE, seed=NAMES.index(name))
    assert not report.faults
    assert report.counts.total() == SAMPLE


@pytest.mark.parametrize(
    ("name", "file", "path", "value", "said"),
    [
        ("clip", "config.json", ("text_config", "layer_norm_eps"), 10**400, "not a number"),
        ("vit", "preprocessor_config.json", ("image_mean", 0), 10**400, "not three numbers"),
        ("vit", "preprocessor_config.json", ("image_std", 1), float("nan"), "std is nan"),
        ("clip", "tokenizer.json", ("added_tokens", 0, "content"), [], "tokenizer.json"),
        ("clip", "tokenizer.json", ("post_processor", "cls", 1), 10**9, "has ids up to 1000000000"),
        (
            "siglip",
            "tokenizer.json",
            ("post_processor", "special_tokens"),
            {},
            "contradicts itself and cannot be used",
        ),
        ("siglip", "tokenizer.json", ("model", "vocab", 0, 0), [], "tokenizer.json"),
        (
            "blip captions",
            "tokenizer.json",
            ("post_processor", "special_tokens", "[CLS]", "ids"),
            [],
            "adds 1 tokens to a text",
        ),
    ],
)
def test_damage_is_named(
    name: str, file: str, path: tuple[Any, ...], value: object, said: str, tmp_path: Path
) -> None:
    folder = write(name, tmp_path / "model")
    whole = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(damaged(whole, path, value)))
    with pytest.raises(PatchwordError, match=said):
        patchword.load(folder)
