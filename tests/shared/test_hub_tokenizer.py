"""CLIP's tokenizer as the hub carries it: what the tests build is the same, and ids are equal."""

import json
from pathlib import Path

import pytest
import test_tokenizers  # first: it prepares the libraries' imports
from corpora import DATA
from test_tokenizers import (
    compound_tokenizers,
    open_clip_ids,
    transformers_ids,
    vocab_files,
    vocab_folder,
)
from tiny_tokenizers import clip_tokenizer

__all__ = [
    "compound_tokenizers",
    "open_clip_ids",
    "transformers_ids",
    "vocab_files",
    "vocab_folder",
]

test_equals_transformers = test_tokenizers.test_equals_transformers
test_from_vocab_and_merges = test_tokenizers.test_equals_transformers_from_vocab_and_merges
test_equals_open_clip = test_tokenizers.test_equals_open_clip
test_equals_open_clip_on_compounds = test_tokenizers.test_equals_open_clip_on_compounds


@pytest.fixture(scope="module")
def clip_folder() -> Path:
    return DATA / "clip_tokenizer"


def test_the_same_as_the_tests_build(clip_folder: Path, tmp_path: Path) -> None:
    clip_tokenizer().save_pretrained(tmp_path)
    built, carried = (
        json.loads((folder / "tokenizer.json").read_text()) for folder in (tmp_path, clip_folder)
    )
    assert built == carried
