"""Tokenizers against the libraries they come from: identical ids on 200 difficult strings."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

# isort: off
import torchvision_cpu  # noqa: F401  # before open_clip, which imports torchvision
import open_clip
import transformers
# isort: on

from patchword.config import TextConfig
from patchword.errors import TokenizerError
from patchword.text.cleaning import clean
from patchword.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

OPENAI_FILE = Path(open_clip.tokenizer.default_bpe())
AS_TRANSFORMERS = TextConfig(pad_token=49407)  # as tokenizer_config.json says
AS_OPEN_CLIP = TextConfig(pad_token=0, cleaning="ftfy")

PLAIN = ["", "a", "a photo of a dog", "A Photo Of A DOG", "x" * 2000, "word " * 300]
LONG = [
    " ".join(f"sentence {i} tells of a shirt, a hat and {i * 7} shoes." for i in range(30)),
    "lorem ipsum dolor sit amet " * 60,
    "我喜欢看书" * 60,
    "🐶" * 100,
    "a " * 74 + "b",  # 75 words and two special tokens: exactly 77
    "a " * 75 + "b",  # one more than fits
]
SPACES = [" ", "   ", "\t", "\n\n", "\u00a0", "\u3000", " \t\r\n\u2003", "\u200b"]
BETWEEN = [
    "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\u200b", "\ufeff", "\u202f", "  ",
]  # fmt: skip
CONTROL = [
    "\x00", "\x07", "\x0b", "\x0c", "\x1b[31m", "\x1c", "\x1f", "\x7f", "\x85", "\x9f",
]  # fmt: skip
CASES = [
    "ÀÉÎÕÜ", "İstanbul", "STRASSE", "Straße", "ẞ", "ΣΊΣΥΦΟΣ", "ΌΔΟΣ", "\u212aelvin K",
    "Å \u212bngström", "it'ſ", "ſhip", "ǅ ǆ Ǆ", "ﬁne ﬂoor", "ＦＵＬＬ ｗｉｄｔｈ",
    "𝐁𝐨𝐥𝐝 𝓢𝓬𝓻𝓲𝓹𝓽", "ⅣⅦ",
]  # fmt: skip
MARKS = [
    "cafe\u0301", "café", "n\u0303o", "e\u0301\u0323", "e\u0323\u0301", "\u0301", "α \u0345ι",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘", "\uac01", "\u1100\u1161\u11a8", "x̄ ± σ̂",
]  # fmt: skip
EMOJI = [
    "🐶", "a 🐶 dog", "👩\u200d👩\u200d👧\u200d👦", "👩🏽\u200d🚀", "🏳\ufe0f\u200d🌈", "🇩🇪🇫🇷",
    "1\ufe0f⃣2\ufe0f⃣", "❤\ufe0f", "☺\ufe0e", "🤷🏻\u200d♀\ufe0f shrug", "dog🐶cat",
    "©\ufe0f®™", "👍👍🏿👍", "\u200d", "🧑\u200d💻!!!",
]  # fmt: skip
SCRIPTS = [
    "一只狗在草地上", "狗dog狗", "我有3只狗。", "こんにちは世界", "カタカナとひらがな",
    "ｶﾞｷﾞｸﾞ", "한국어 문장", "مرحبا بالعالم", "السَّلامُ عَلَيْكُم", "٣٤٥ رقم", "\u200fשלום\u200e",
    "שָׁלוֹם", "สวัสดีชาวโลก", "Ελληνικά", "Привет, мир", "தமிழ்", "𓀀𓁐", "😀中文mixedكلمة",
    "Tiếng Việt", "「引用」、。！？", "々〆ヶ",
]  # fmt: skip
NUMBERS = [
    "3.14159", "-1,000.50", "1e-5", "2nd 3rd", "½ ¼", "x² + y³", "①②③", "१२३", "１２３",
    "2024-01-31", "$9.99 €5 £3 ¥100", "a1b2c3", "0x1F", "五十 百",
]  # fmt: skip
CONTRACTIONS = [
    "it's", "don't", "I've", "they'll", "IT'S", "it’s", "'s", "''s", "'tis", "rock'n'roll",
    "o'clock", "y'all'd've", "'re've'm", "x'll y", "'S'T'RE",
]  # fmt: skip
PUNCTUATION = [
    "!!!", "?!?!", "…", "a-b_c", "__init__", "a/b\\c", "«a» „b“", "“quoted” ‘single’",
    "--- —– -", "***bold***", "@user #tag", "https://example.com/a?b=c&d=e#f", "a@b.co", "~`^|",
    "<b>x</b>", "!'s!", "'''", "a.b.c...", "\\n \\t", "<|>", "|>|", "→⇒∞≠≤", "♥♦♣♠",
]  # fmt: skip
ENTITIES = [
    "&amp;", "a &lt;b&gt; c", "&amp;amp;", "&amp;lt;p&amp;gt;", "&#x27;", "&nbsp;", "a&nbsp;b",
    "&eacute;t&eacute;", "&EACUTE;", "&copy 2020", "&unknown;", "AT&T", "&#128054;", "&#0;",
    "&lt;end_of_text&gt;", "<b>&amp;</b>",
]  # fmt: skip
MOJIBAKE = [
    "cafÃ©", "donâ€™t", "â€œquotesâ€\x9d", "ðŸ¶ dog", "æ–‡å­—", "l’humanitÃ©", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚",
    "Â©", "a\u00c2\u00a0b", "\ufffd",
]  # fmt: skip
SPECIALS = [
    "<|endoftext|>", "<|startoftext|>", "a <|endoftext|> b", "a<|startoftext|>b",
    "<|ENDOFTEXT|>", "<|StartOfText|>x", "<|endoftext|><|endoftext|>", "!<|endoftext|>!",
    "<end_of_text>", "<start_of_text>", "a<end_of_text>b", "a <START_OF_TEXT> b",
    "!<end_of_text>", "<end_of_text><end_of_text>", "?<end_of_text><start_of_text>",
    "_<end_of_text>", "1<end_of_text>!", "</w>", "q\u0345<end_of_text>",
]  # fmt: skip
EVERYTHING = [
    PLAIN, LONG, SPACES, [f"a{gap}b" for gap in BETWEEN], [f"red{odd}dog" for odd in CONTROL],
    CASES, MARKS, EMOJI, SCRIPTS, NUMBERS, CONTRACTIONS, PUNCTUATION, ENTITIES, MOJIBAKE,
    SPECIALS,
]  # fmt: skip
STRINGS = [text for group in EVERYTHING for text in group]


@pytest.fixture(scope="module")
def transformers_ids(clip_folder):
    """Ids by transformers, padded to the longest and cut to 77."""
    return by_transformers(clip_folder)


@pytest.fixture(scope="module")
def open_clip_ids():
    """Ids by open_clip, always 77 wide."""
    return open_clip.get_tokenizer("ViT-B-32")(STRINGS).numpy()


def by_transformers(folder):
    reference = transformers.CLIPTokenizer.from_pretrained(folder)
    rows = reference(STRINGS, padding=True, truncation=True, max_length=77, return_tensors="np")
    return rows["input_ids"]


def assert_same(found, expected):
    """Equal ids; else the strings that differ are named."""
    assert found.shape == expected.shape
    assert found.dtype == np.int64
    assert [t for t, a, b in zip(STRINGS, found, expected, strict=True) if (a != b).any()] == []


@pytest.fixture(scope="module")
def vocab_files(clip_folder):
    """The same tokenizer as vocab.json + merges.txt."""
    model = json.loads((clip_folder / "tokenizer.json").read_text())["model"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    return {"vocab.json": json.dumps(model["vocab"]), "merges.txt": "\n".join(lines) + "\n"}


@pytest.fixture
def vocab_folder(vocab_files, tmp_path):
    for name, content in vocab_files.items():
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.fixture
def openai_folder(tmp_path):
    """The same tokenizer as OpenAI ships it."""
    shutil.copy(OPENAI_FILE, tmp_path)
    return tmp_path


def test_strings_are_200():
    assert len(STRINGS) == len(set(STRINGS)) == 200


def test_equals_transformers(clip_folder, transformers_ids):
    assert_same(Tokenizer.from_folder(clip_folder, AS_TRANSFORMERS)(STRINGS), transformers_ids)


def test_equals_transformers_from_vocab_and_merges(vocab_folder):
    ours = Tokenizer.from_folder(vocab_folder, AS_TRANSFORMERS)
    assert_same(ours(STRINGS), by_transformers(vocab_folder))


def test_equals_open_clip(clip_folder, open_clip_ids):
    ours = Tokenizer.from_folder(clip_folder, AS_OPEN_CLIP)
    assert_same(ours(STRINGS, pad_to_context=True), open_clip_ids)


def test_equals_open_clip_from_openai_merges(openai_folder, open_clip_ids):
    ours = Tokenizer.from_folder(openai_folder, AS_OPEN_CLIP)
    assert_same(ours(STRINGS, pad_to_context=True), open_clip_ids)
    again = Tokenizer.from_json(ours.to_json(), AS_OPEN_CLIP)
    assert_same(again(STRINGS, pad_to_context=True), open_clip_ids)


def test_references_disagree_where_cleaning_matters(clip_folder):
    plain = Tokenizer.from_folder(clip_folder, TextConfig())
    cleaned = Tokenizer.from_folder(clip_folder, AS_OPEN_CLIP)
    for text in ["&eacute;t&eacute;", "cafÃ©", "a <|endoftext|> b", "<end_of_text>"]:
        assert plain.count(text) != cleaned.count(text), text


@pytest.fixture(scope="module")
def compound_tokenizers(clip_folder):
    return Tokenizer.from_folder(clip_folder, AS_OPEN_CLIP), open_clip.get_tokenizer("ViT-B-32")


@settings(max_examples=200, derandomize=True, deadline=None)
@given(pieces=st.lists(st.sampled_from([t for t in STRINGS if len(t) < 40]), max_size=5))
def test_equals_open_clip_on_compounds(compound_tokenizers, pieces):
    """Neighbours change how a string is split: whatever is glued together, ids are open_clip's."""
    text = "".join(pieces)
    ours, reference = compound_tokenizers
    assert ours.rows([text]) == [[49406, *reference.encode(text), 49407]]


def test_cleaning_shortcut_changes_nothing():
    for character in map(chr, range(128)):
        text = f" A{character}b{character * 3}#x27; {character}"
        assert clean(text, "ftfy") == open_clip.tokenizer._clean_lower(text), repr(character)


def test_padding_and_truncation(clip_folder):
    ours = Tokenizer.from_folder(clip_folder, TextConfig(context=16, pad_token=7))
    long = "word " * 300
    ids = ours(["a dog", long])
    assert ids.shape == (2, 16)
    assert ids[0].tolist()[3:] == [49407, *[7] * 12]
    assert ids[1, -1] == 49407
    assert (ids[1, :-1] != 49407).all()
    assert ours(["a dog", "dog"]).shape == (2, 4)
    assert ours(["a dog"], pad_to_context=True).shape == (1, 16)
    assert ours([]).shape == (0, 0)
    assert ours([], pad_to_context=True).shape == (0, 16)
    np.testing.assert_array_equal(ours("a dog"), ours(["a dog"]))
    assert ours.count(long) == 302
    assert ours.count("") == 2


@pytest.mark.parametrize("cleaning", ["none", "ftfy"])
def test_json_round_trip(clip_folder, cleaning):
    config = TextConfig(cleaning=cleaning)
    ours = Tokenizer.from_folder(clip_folder, config)
    again = Tokenizer.from_json(ours.to_json(), config)
    assert_same(again(STRINGS), ours(STRINGS))
    assert again.to_json() == ours.to_json()


TRAINING = [f"a photo of a {c} {g}" for c in ("red", "blue") for g in ("shirt", "hat", "shoe")] * 3


def test_trained_has_ids_for_everything():
    ours = Tokenizer.train(TRAINING, vocab_size=525, context=32)
    assert (ours.vocab_size, ours.end_token, ours.context) == (525, 524, 32)
    assert ours.count("A photo of a RED hat") < ours.count("zyxwv qponm lkjih")
    for text in STRINGS:
        (row,) = ours.rows([text])
        assert (row[0], row[-1]) == (523, 524), text
        if "<|" not in text:
            # the end token doubles as the unknown one: nothing may need it
            assert not {523, 524} & set(row[1:-1]), text
    config = TextConfig(vocab_size=525, context=32, end_token=524)
    np.testing.assert_array_equal(
        Tokenizer.from_json(ours.to_json(), config)(STRINGS), ours(STRINGS)
    )


def test_few_texts_give_fewer_ids():
    ours = Tokenizer.train(["dog dog"], vocab_size=5000, context=8)
    assert ours.vocab_size == 514 + 2  # d+o, do+g
    assert ours(["dog"]).tolist() == [[514, 513, 515]]


TRAIN_BOTH = """
from patchword.text.tokenizer import Tokenizer
words = [f"{a}{b}{c}" for a in "abcdef" for b in "ghijkl" for c in "mnopqr"] * 2
print(Tokenizer.train(words, vocab_size=760, context=8).to_json())
sounds = ["abcdéф", "ghijüл", "mnopñж"]
words = [f"{a}{b}{c}" for a in sounds[0] for b in sounds[1] for c in sounds[2]] * 2
print(Tokenizer.train_wordpiece([*words, "红色的圆", "圆的"], 300, 8).to_json())
"""


def test_training_is_deterministic():
    """Of byte pairs and of word pieces. Ties abound in these corpora; another process has another
    hash seed."""
    runs = {subprocess.check_output([sys.executable, "-c", TRAIN_BOTH]) for _ in range(3)}
    assert len(runs) == 1
    assert b'"##' in runs.pop()


def test_training_needs_room_for_the_bytes():
    with pytest.raises(TokenizerError, match="vocab_size is 513; the smallest possible is 514"):
        Tokenizer.train(TRAINING, vocab_size=513, context=8)


# Word pieces, as BLIP's


SPOKEN = [
    "A red circle, left of a blue square.", "a big, red circle, what colour is it?",
    "Wo ist das Häuschen? Über dem Café, naïve!", "Где красный круг? Ёлка и чай.",
    "红色的圆在哪里?", "a 256 px t-shirt (blue) isn't 100% red", "who's there?",
]  # fmt: skip


def pieces(vocab_size: int = 1000, context: int = 32) -> Tokenizer:
    return Tokenizer.train_wordpiece(SPOKEN * 3, vocab_size, context)


def test_trained_word_pieces_are_those_of_transformers_bert(tmp_path):
    ours = pieces()
    vocabulary = json.loads(ours.to_json())["model"]["vocab"]
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n", encoding="utf-8")
    theirs = transformers.BertTokenizer(str(file), do_lower_case=True)
    texts = [*STRINGS, *SPOKEN]
    found = ours(texts, pad_to_context=True)
    rows = theirs(texts, padding="max_length", truncation=True, max_length=32, return_tensors="np")[
        "input_ids"
    ]
    unlike = [t for t, a, b in zip(texts, found, rows, strict=True) if (a != b).any()]
    assert unlike == []
    assert ours.pad_token == theirs.pad_token_id == 0
    assert ours.end_token == theirs.sep_token_id
    assert (ours.decoder_start, ours.encoder_start) == (vocabulary["[DEC]"], vocabulary["[ENC]"])
    for row in rows:
        assert ours.decode(row) == theirs.decode(row, skip_special_tokens=True)
    known = ours(SPOKEN)
    assert not (known == vocabulary["[UNK]"]).any()
    assert ours("[DEC] red [ENC]")[0, 1] == ours.decoder_start


def test_trained_word_pieces_know_whole_words_and_say_them_again():
    tokenizer = pieces()
    assert tokenizer.vocab_size < 1000
    for text in SPOKEN[:2]:
        words = re.findall(r"\w+|[,.?]", text)
        row = tokenizer.rows([text])[0]
        assert len(row) == 2 + len(words)
        assert tokenizer.decode(row) == text.lower()
    assert tokenizer.decode(tokenizer.rows([SPOKEN[3]])[0]) == "где красныи круг? елка и чаи."
    few = pieces(400)
    assert few.vocab_size <= 400
    assert few.decode(few.rows([SPOKEN[1]])[0]) == SPOKEN[1]


def test_training_word_pieces_needs_room_for_the_characters():
    least = 6 + 2 * (26 + 10 + 32)
    assert Tokenizer.train_wordpiece(["red"], least, 8).vocab_size == least
    with pytest.raises(TokenizerError, match=f"is {least}; .* characters of the texts need 144"):
        Tokenizer.train_wordpiece(["red 红"], least, 8)


def test_errors_name_found_and_expected(tmp_path, clip_folder, vocab_folder):
    with pytest.raises(TokenizerError, match=r"ids up to 49407.*vocabulary has 1000"):
        Tokenizer.from_folder(clip_folder, TextConfig(vocab_size=1000, end_token=999))
    with pytest.raises(TokenizerError, match=r"49407 \('<\|endoftext\|>'\).*looks for 2"):
        Tokenizer.from_folder(clip_folder, TextConfig(end_token=2))
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json, vocab\.json with .*vocab\.txt, .*16e6\.txt\.gz"
    ):
        Tokenizer.from_folder(tmp_path / "nowhere", TextConfig())
    with pytest.raises(TokenizerError, match=r"mine is not a readable tokenizer\.json"):
        Tokenizer.from_json("{", TextConfig(), name="mine")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not a readable"):
        Tokenizer.from_json('{"version": "1.0"}', TextConfig())
    with pytest.raises(TokenizerError, match="not valid Unicode"):
        Tokenizer.from_folder(vocab_folder, TextConfig())(["\ud800"])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocab.json", b"{", "not valid JSON"),
        ("vocab.json", b"[1]", "not a vocabulary"),
        ("vocab.json", b'{"a": "b"}', "not a vocabulary"),
        ("vocab.json", b'{"a": 1}', "lacks"),
        ("merges.txt", b"#version: 0.2\na b c\n", "line 2: two tokens expected"),
        ("merges.txt", b"qqq zzz\n", "do not agree"),
        ("merges.txt", b"\xff\xfe", "cannot be read"),
    ],
)
def test_broken_vocab_or_merges(vocab_folder, file, content, message):
    (vocab_folder / file).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_folder(vocab_folder, TextConfig())


@pytest.mark.parametrize("content", [b"", b"not gzip", OPENAI_FILE.read_bytes()[:5000]])
def test_broken_openai_merges(openai_folder, content):
    (openai_folder / OPENAI_FILE.name).write_bytes(content)
    with pytest.raises(TokenizerError):
        Tokenizer.from_folder(openai_folder, AS_OPEN_CLIP)


def test_open_clip_cleaning_needs_byte_pairs():
    words = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({"[UNK]": 0, "[SEP]": 1}, unk_token="[UNK]")
    )
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [SEP]", special_tokens=[("[SEP]", 1)]
    )
    config = TextConfig(vocab_size=2, end_token=1)
    assert Tokenizer.from_json(words.to_str(), config)([""]).tolist() == [[1]]
    with pytest.raises(TokenizerError, match="WordPiece that adds 1 tokens"):
        Tokenizer.from_json(words.to_str(), dataclasses.replace(config, cleaning="ftfy"))
