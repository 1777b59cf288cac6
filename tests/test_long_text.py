"""Texts beyond the context: cut as the references cut them and said so, or embedded whole."""

import functools
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import torchvision_cpu  # noqa: F401  # before everything that imports torchvision

# isort: split
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cli_runner import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from references import hugging_face
from small_models import tiny_bundle, tiny_clip
from tiny_tokenizers import bert_files, bert_vocabulary, gemma, save_clip_tokenizer, t5
from torch.testing import assert_close

from patchword import checkpoints
from patchword.api import Model
from patchword.bundle import Bundle
from patchword.config import TextConfig
from patchword.errors import LongTextWarning, UnsupportedError
from patchword.text.cleaning import sentences
from patchword.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

LONG = " ".join(f"Sentence {i} tells of a red shirt, size {i * 7}." for i in range(30))
TEXTS = ["a dog", LONG, "a photo of a cat. It sleeps!", "word " * 200, ""]
CONTEXT = 16
KINDS = ("CLIP", "open_clip", "BERT", "T5", "Gemma")


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    """One of each kind with room for 16 tokens."""
    config = TextConfig(vocab_size=400, context=CONTEXT, causal=False, pool="end", end_token=1)
    with tempfile.TemporaryDirectory() as folder:
        if kind in ("CLIP", "open_clip"):
            save_clip_tokenizer(folder)
            cleaning = "ftfy" if kind == "open_clip" else "none"
            return Tokenizer.from_folder(folder, TextConfig(context=CONTEXT, cleaning=cleaning))
        if kind == "BERT":
            config = replace(config, vocab_size=len(bert_vocabulary()), pool="first")
            return Tokenizer.from_folder(bert_files(Path(folder)), config)
        (t5 if kind == "T5" else gemma)().save_pretrained(folder)
        return Tokenizer.from_folder(folder, replace(config, padding="attended"))


def contents(ours: Tokenizer, text: str) -> list[int]:
    """The ids of a text without the special tokens around them."""
    (row,) = ours.rows([text])
    return row[ours.specials - ours._end_tokens : len(row) - ours._end_tokens]


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    return tiny_bundle(tiny_clip())


def unwarned(model: Bundle, texts: list[str], **options: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return model.embed_texts(texts, **options)


# Chunks.

PIECES = [
    "a", "red", "dog", ".", ". ", "!", "? ", "。", "！”", ", ", " ", "  ", "\n", "\n\n", "一只狗",
    "猫", "e.g. ", "3.14", "(so!) ", "&amp;", "é", "e\u0301", "🐶", "x" * 40, "word " * 12,
    "我喜欢看书" * 6,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, derandomize=True, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=25))
def test_chunks_are_the_text_and_fit(kind: str, pieces: list[str]) -> None:
    ours, text = tokenizer(kind), "".join(pieces)
    chunks = ours.chunks(text)
    assert "".join(chunks) == text
    assert max(ours.count(chunk) for chunk in chunks) <= CONTEXT
    if ours.count(text) <= CONTEXT:
        assert chunks == [text]


@pytest.mark.parametrize("kind", ["CLIP", "open_clip", "BERT", "T5"])
@settings(max_examples=60, derandomize=True, deadline=None)
@given(words=st.lists(st.sampled_from(["a ", "dog ", "red. ", "cat!\n", "photo, "]), max_size=60))
def test_chunks_cover_all_tokens(kind: str, words: list[str]) -> None:
    """Where no word is longer than the context, cutting changes no token."""
    ours, text = tokenizer(kind), "".join(words)
    parts = [contents(ours, chunk) for chunk in ours.chunks(text)]
    assert [id_ for part in parts for id_ in part] == contents(ours, text)


def test_sentences() -> None:
    assert sentences("It is 3.14 (so!) Right?! Yes.") == ["It is 3.14 (so!) ", "Right?! ", "Yes."]
    assert sentences('"Go." he said.\n\nA line\nB') == ['"Go." ', "he said.\n\n", "A line\n", "B"]
    assert sentences("一只狗。“两个人！”好？！是") == ["一只狗。", "“两个人！”", "好？！", "是"]
    assert sentences("...") == ["..."]
    assert sentences("") == []
    assert len(sentences("." * 20_000 + "a")) == 1  # and at once


def test_sentences_are_kept_whole_and_packed() -> None:
    ours = tokenizer("CLIP")
    text = "One two three four. Five six seven eight. Nine ten one two three. Four five."
    assert ours.chunks(text) == [
        "One two three four. Five six seven eight. ",
        "Nine ten one two three. Four five.",
    ]
    long = "one " * 20 + "two. Three four."  # cut between words, and the next sentence follows
    assert ours.chunks(long) == ["one " * 14, "one " * 6 + "two. Three four."]
    assert ours.chunks("一" * 5) != ours.chunks("一" * 50)


# Vectors.


def test_truncating_equals_transformers_and_says_so(tmp_path: Path) -> None:
    reference = hugging_face(tmp_path / "model")
    model = checkpoints.load(reference.path)
    said = (
        r"^2 of 5 texts exceed 77 tokens; the longest loses 318 of 395: "
        r'pass long_text="mean" to embed_texts, similarity or search to keep all$'
    )
    with pytest.warns(LongTextWarning, match=said) as caught:
        ours = model.embed_texts(TEXTS)
    with torch.no_grad():
        theirs = F.normalize(reference.text(reference.ids(TEXTS)), dim=-1)
    assert len(caught) == 1
    assert Path(caught[0].filename).name == Path(__file__).name
    assert_close(torch.from_numpy(ours), theirs)


def test_short_texts_are_embedded_the_same_and_quietly(tiny: Bundle) -> None:
    short = [text for text in TEXTS if tiny.tokenizer.count(text) <= CONTEXT]
    assert short
    plain = unwarned(tiny, short)
    np.testing.assert_array_equal(unwarned(tiny, short, long_text="mean"), plain)
    among = unwarned(tiny, TEXTS, long_text="mean")
    assert_close(among[[TEXTS.index(text) for text in short]], plain)


def test_mean_is_the_weighted_mean_of_chunks(tiny: Bundle) -> None:
    found = unwarned(tiny, TEXTS, long_text="mean")
    for i in (1, 3):
        chunks = tiny.tokenizer.chunks(TEXTS[i])
        assert len(chunks) > 5
        weights = np.array([tiny.tokenizer.count(chunk) - 2 for chunk in chunks], np.float64)
        vectors = np.concatenate([unwarned(tiny, [chunk]) for chunk in chunks])
        mean = (vectors * weights[:, None]).sum(axis=0) / weights.sum()
        assert_close(found[i], (mean / np.linalg.norm(mean)).astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_what_is_cut_off_counts_in_the_mean_alone(tiny: Bundle) -> None:
    texts = [LONG, LONG + " A cat sleeps on a blue car."]
    with pytest.warns(LongTextWarning):
        cut = tiny.embed_texts(texts)
    # The last bits of a row may depend on its place in the batch, by the processor.
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)
    whole = unwarned(tiny, texts, long_text="mean")
    assert np.abs(whole[0] - whole[1]).max() > 1e-3


def test_other_choices_are_refused(tiny: Bundle) -> None:
    with pytest.raises(UnsupportedError, match="'first'; there are 'truncate' and 'mean'"):
        tiny.embed_texts(["a"], long_text="first")
    assert tiny.embed_texts([], long_text="mean").shape == (0, tiny.dim)


def test_similarity_takes_the_choice(tiny: Bundle) -> None:
    model = Model(**{name: getattr(tiny, name) for name in Bundle.__dataclass_fields__})
    photo = np.zeros((20, 20, 3), np.uint8)
    expected = model.embed_images([photo]) @ unwarned(tiny, [LONG], long_text="mean").T
    assert_close(model.similarity([photo], [LONG], long_text="mean"), expected)


# The command line.


@pytest.fixture(scope="module")
def folder(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoints.save(tiny, tmp_path_factory.mktemp("model") / "tiny"))


def test_commands_take_the_choice(
    tiny: Bundle, folder: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHWORD_CACHE", str(tmp_path / "cache"))
    photo = tmp_path / "photo.png"
    Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(20, 20, 3)).save(photo)
    index = tmp_path / "index"
    assert run("index", photo, "--into", index, "-m", folder).code == 0
    (vector,) = unwarned(tiny, [LONG], long_text="mean")
    with pytest.warns(LongTextWarning):
        (cut,) = tiny.embed_texts([LONG])
    (image,) = tiny.embed_images([photo])
    for arguments, value_of, expected in [
        (("embed", "-t", LONG), lambda record: record["vector"], (vector, cut)),
        (
            ("similarity", photo, "-t", LONG),
            lambda record: record["texts"][0]["cosine"],
            (vector @ image, cut @ image),
        ),
        (("search", index, LONG), lambda record: record["cosine"], (vector @ image, cut @ image)),
    ]:
        command = [*arguments, "-m", folder, "--json"]
        truncated = run(*command)
        assert truncated.code == 0
        assert truncated.err.startswith("warning: the text exceeds 16 tokens; it loses")
        assert truncated.err.endswith(": --long-text mean keeps all\n")
        whole = run(*command, "--long-text", "mean")
        assert (whole.code, whole.err) == (0, "")
        for done, value in zip((whole, truncated), expected, strict=True):
            (record,) = done.records
            np.testing.assert_allclose(value_of(record), value, atol=1e-6)
    without_option = run("classify", photo, "-l", LONG[:99], "-m", folder, "--json")
    assert without_option.code == 0
    assert without_option.err.startswith("warning:")
    assert without_option.err.endswith(" of 42\n")
    refused = run("embed", "-t", LONG, "-m", folder, "--long-text", "first")
    assert refused.code == 2
    assert "there are 'truncate' and 'mean'" in refused.err
