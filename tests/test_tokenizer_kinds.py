"""BERT's, T5's and Gemma's tokenizers, cleaning and decoding against the original libraries."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

# isort: off
import torchvision_cpu  # noqa: F401  # before open_clip, which imports torchvision
import open_clip
import transformers
# isort: on

import numpy as np
import pytest
from references import edit_json
from test_tokenizers import STRINGS, assert_same
from tiny_tokenizers import bert_files, bert_vocabulary, gemma, t5

from patchword.config import TextConfig
from patchword.errors import TokenizerError
from patchword.text.token_names import token_names
from patchword.text.tokenizer import Tokenizer

WORDS = len(bert_vocabulary())
BERT = TextConfig(vocab_size=WORDS, context=16, causal=False, pool="first", pad_token=0)
SIGLIP = TextConfig(
    vocab_size=400,
    context=16,
    causal=False,
    pool="last",
    end_token=1,
    pad_token=1,
    padding="attended",
)
DECODED = [
    "a dog, a cat. don't! a red-shirt's shoe ?",
    "一只狗。两个人！",
    "unknown ☃ [SEP] [PAD] dogs",
    "",
]


def reference_ids(tokenizer, texts=STRINGS, padding="longest", context=16):
    return tokenizer(
        texts, padding=padding, truncation=True, max_length=context, return_tensors="np"
    )["input_ids"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
        {"cls_token": {"content": "[MASK]", "__type": "AddedToken"}, "sep_token": "[unused1]"},
    ],
)
def test_vocab_txt_equals_transformers(options, tmp_path):
    folder = bert_files(tmp_path, json.dumps(options))
    if isinstance(options.get("cls_token"), dict):
        options = {**options, "cls_token": options["cls_token"]["content"]}
    vocab = {token: i for i, token in enumerate(bert_vocabulary())}
    expected = reference_ids(transformers.BertTokenizer(vocab=vocab, **options))
    ours = Tokenizer.from_folder(folder, BERT)
    assert_same(ours(STRINGS), expected)
    assert_same(Tokenizer.from_json(ours.to_json(), BERT)(STRINGS), expected)
    assert_same(Tokenizer.from_folder(folder / "vocab.txt", BERT)(STRINGS), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"do_lower_case": False},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
        {"do_lower_case": False, "tokenizer_class": "BertTokenizerFast"},
        {"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"},
    ],
    ids=str,
)
def test_a_bert_tokenizer_cleans_as_its_options_say(changes, tmp_path):
    """Whatever the tokenizer.json beside them: of a class that is BERT's, as transformers."""
    vocab = {token: i for i, token in enumerate(bert_vocabulary())}
    transformers.BertTokenizer(vocab=vocab).save_pretrained(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", **changes)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert_same(Tokenizer.from_folder(tmp_path, BERT)(STRINGS), reference_ids(theirs))


ADDED = {"<cat-toy>": WORDS, "[NEW]": WORDS + 1}
DECODER = {
    str(WORDS): {"content": "<cat-toy>", "special": False, "normalized": True, "lstrip": True},
    str(WORDS + 1): {"content": "[NEW]", "special": True, "normalized": False},
}


@pytest.mark.parametrize("kind", ["added_tokens.json", "added_tokens_decoder"])
def test_tokens_added_to_a_vocabulary_as_transformers(kind, tmp_path):
    named = {"added_tokens_decoder": DECODER} if kind == "added_tokens_decoder" else {}
    folder = bert_files(tmp_path, json.dumps({"tokenizer_class": "BertTokenizer", **named}))
    if not named:
        (folder / kind).write_text(json.dumps(ADDED))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["a dog and a <cat-toy>, a <Cat-Toy>s [NEW]", "x<cat-toy>y", "[new]"]
    ours = Tokenizer.from_folder(folder, replace(BERT, vocab_size=WORDS + 2))
    found = ours(texts)
    assert (found >= WORDS).any()
    assert found.tolist() == reference_ids(theirs, texts).tolist()
    with pytest.raises(TokenizerError, match=f"the model's vocabulary has {WORDS}"):
        Tokenizer.from_folder(folder, BERT)


def test_an_added_token_with_another_id_than_the_next(tmp_path):
    folder = bert_files(tmp_path)
    (folder / "added_tokens.json").write_text(json.dumps({"<cat-toy>": WORDS + 5}))
    with pytest.raises(TokenizerError, match=f"'<cat-toy>' with the id {WORDS + 5}, and {WORDS} "):
        Tokenizer.from_folder(folder, replace(BERT, vocab_size=WORDS + 6))


def test_options_of_vocab_txt_would_show(tmp_path):
    usual = Tokenizer.from_folder(bert_files(tmp_path / "usual"), BERT)(STRINGS)
    for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        folder = bert_files(tmp_path / key, json.dumps({key: False}))
        assert (Tokenizer.from_folder(folder, BERT)(STRINGS) != usual).any(), key


def test_vocab_txt_as_files_have_it(tmp_path):
    """Ended by CR LF, without an end, with a token twice: the later line counts, as in BERT."""
    folder = bert_files(tmp_path)
    path = folder / "vocab.txt"
    right = Tokenizer.from_folder(folder, BERT)(STRINGS)
    text = path.read_text("utf-8")
    for odd in (text.replace("\n", "\r\n"), text.rstrip("\n")):
        path.write_bytes(odd.encode())
        assert_same(Tokenizer.from_folder(folder, BERT)(STRINGS), right)
    path.write_bytes((text + "dog\n").encode())
    twice = Tokenizer.from_folder(folder, replace(BERT, vocab_size=WORDS + 1))
    assert twice(["dog"]).tolist() == [[3, WORDS, 4]]
    path.write_text("dog\n[UNK]\n[CLS]\n")
    with pytest.raises(TokenizerError, match=r"vocabulary lacks \[SEP\]"):
        Tokenizer.from_folder(folder, BERT)
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(TokenizerError, match="not one JSON object"):
        Tokenizer.from_folder(folder, BERT)


@pytest.mark.parametrize("make", [t5, gemma])
def test_siglip_equals_transformers(make, tmp_path):
    """Always as long as the context, and a text that is cut keeps its end token."""
    tokenizer = make()
    tokenizer.save_pretrained(tmp_path)
    config = replace(SIGLIP, pad_token=tokenizer.pad_token_id, vocab_size=len(tokenizer))
    ours = Tokenizer.from_folder(tmp_path, config)
    ids = ours(STRINGS)
    assert_same(ids, reference_ids(tokenizer, padding="max_length"))
    assert_same(Tokenizer.from_json(ours.to_json(), config)(STRINGS), ids)
    assert ids.shape[1] == 16
    long = STRINGS.index("word " * 300)
    assert ids[long, -1] == tokenizer.eos_token_id != ids[long, -2]
    assert ours(["a"]).shape == (1, 16)
    assert ours.lengths(ids).tolist() == [16] * len(STRINGS)
    assert ours.specials == 1


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path):
    tokenizer = gemma()
    tokenizer.add_eos_token = False
    tokenizer.update_post_processor()
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="ends a text with no token, but the model looks for"):
        Tokenizer.from_folder(tmp_path, replace(SIGLIP, pad_token=0))
    with pytest.raises(TokenizerError, match="puts no token before a text"):
        Tokenizer.from_folder(tmp_path, replace(SIGLIP, pad_token=0, pool="first"))


@pytest.mark.parametrize("cleaning", ["whitespace", "lower", "canonicalize"])
def test_cleaning_equals_open_clip(cleaning, tmp_path):
    t5().save_pretrained(tmp_path)
    reference = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=16, clean=cleaning)
    ours = Tokenizer.from_folder(tmp_path, replace(SIGLIP, cleaning=cleaning))
    assert_same(ours(STRINGS), reference(STRINGS).numpy())
    plain = Tokenizer.from_folder(tmp_path, SIGLIP)
    assert (ours(STRINGS) != plain(STRINGS)).any()


@pytest.mark.parametrize("text", DECODED)
@pytest.mark.parametrize("kind", ["vocab.txt", "BERT", "T5", "Gemma", "CLIP"])
def test_decode_equals_transformers(kind, text, clip_folder, tmp_path):
    if kind == "vocab.txt":
        folder, config = bert_files(tmp_path), BERT
        vocab = {token: i for i, token in enumerate(bert_vocabulary())}
        reference = transformers.BertTokenizer(vocab=vocab)
    elif kind == "CLIP":
        folder, config = clip_folder, TextConfig()
        reference = transformers.CLIPTokenizer.from_pretrained(clip_folder)
    else:
        folder = tmp_path
        config = BERT if kind == "BERT" else replace(SIGLIP, pad_token=0)
        tables = {token: i for i, token in enumerate(bert_vocabulary())}
        made = {"BERT": lambda: transformers.BertTokenizer(vocab=tables), "T5": t5, "Gemma": gemma}
        reference = made[kind]()
        reference.save_pretrained(tmp_path)
    ours = Tokenizer.from_folder(folder, config)
    (ids,) = ours([text])
    assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_decode_gives_text_back(clip_folder):
    learned = Tokenizer.train(["a photo of a dog"] * 3, vocab_size=540, context=16)
    for ours in (Tokenizer.from_folder(clip_folder, TextConfig()), learned):
        assert ours.decode(ours(["a photo of a dog é"])[0]) == "a photo of a dog é"


def test_lengths_leave_padding_out(tmp_path):
    ours = Tokenizer.from_folder(bert_files(tmp_path), BERT)
    ids = ours(["dog", "a dog in the sun", ""])
    rows = ours.rows(["dog", "a dog in the sun", ""])
    assert ours.lengths(ids).tolist() == [len(row) for row in rows]
    np.testing.assert_array_equal(ids[0, 3:], 0)


def test_names_look_at_the_lists_of_an_encoding_once(tmp_path):
    """The library copies a whole list at each look."""
    ours = Tokenizer.from_folder(bert_files(tmp_path), BERT)._backend
    found, looks = ours.encode("dogs photoing 猫"), Counter()

    class Encoding:
        def __getattr__(self, name):
            looks[name] += 1
            return getattr(found, name)

    class Backend:
        model, id_to_token = ours.model, ours.id_to_token

        def encode(self, text):
            return Encoding()

    names = ["[CLS]", "dog", "##s", "photo", "##ing", "猫", "[SEP]"]
    assert token_names(Backend(), "dogs photoing 猫") == names
    assert set(looks.values()) == {1}


def test_kinds_that_do_not_fit(tmp_path):
    folder = bert_files(tmp_path)
    said = rf"vocab\.txt has ids up to {WORDS - 1}, but the model's vocabulary has 50"
    with pytest.raises(TokenizerError, match=said):
        Tokenizer.from_folder(folder, replace(BERT, vocab_size=50, end_token=4))
    with pytest.raises(TokenizerError, match="has no token 999, with which"):
        Tokenizer.from_folder(folder, replace(BERT, vocab_size=1000, pad_token=999))
    with pytest.raises(TokenizerError, match=r"ends a text with 4 \('\[SEP\]'\).*looks for 9"):
        Tokenizer.from_folder(folder, replace(BERT, pool="end", end_token=9))


def test_byte_pairs_of_a_roberta_alone_say_what_to_do(tmp_path):
    ids = {token: i for i, token in enumerate(("<s>", "<pad>", "</s>", "<unk>", "a", "b", "ab"))}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(TokenizerError, match=r"lacks <\|start.*write a tokenizer\.json .*save_pre"):
        Tokenizer.from_folder(tmp_path, SIGLIP)


def test_sentencepiece_alone_says_what_to_do(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>")
    for path in (tmp_path, tmp_path / "spiece.model"):
        with pytest.raises(TokenizerError, match=r"spiece\.model .*tokenizer\.json .*save_pre"):
            Tokenizer.from_folder(path, SIGLIP)
    odd = Path(tmp_path) / "words.csv"
    odd.write_text("a")
    with pytest.raises(TokenizerError, match=r"words\.csv: give a tokenizer\.json, vocab\.txt"):
        Tokenizer.from_folder(odd, SIGLIP)
