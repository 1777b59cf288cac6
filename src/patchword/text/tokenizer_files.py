"""Tokenizers of the `tokenizers` library, made from the files that checkpoints bring.

A tokenizer.json is complete. Older checkpoints have a vocabulary alone, and the rest of the
tokenizer is rebuilt here: CLIP's byte-pair encoding (Sennrich et al. 2016; Radford et al. 2021,
section 2.4) and BERT's WordPiece (Devlin et al. 2019, section 3).
"""

from __future__ import annotations

import gzip
import json
import re
import string
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Encoding,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from patchword.errors import TokenizerError
from patchword.text import added_tokens

TOKENIZER_FILE = "tokenizer.json"
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
OPENAI_FILE = "bpe_simple_vocab_16e6.txt.gz"  # merges alone, as OpenAI's and open_clip's code ship
BERT_FILE, BERT_OPTIONS = "vocab.txt", "tokenizer_config.json"
SPECIALS_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
SENTENCEPIECE = ".model"  # the suffix of a file that takes the sentencepiece library
MAKE_ONE = (
    f"write a {TOKENIZER_FILE} beside it with transformers, "
    "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
)

LARGEST = 64 << 20  # bytes of a file that is unpacked; CLIP's merges have 3 million

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
WORDS = r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# open_clip ignores case, which matters in two places after lower(): a long s makes a contraction,
# and U+0345, a mark whose capital is a letter, is neither letter nor non-letter to `regex`: left
# out.
OPEN_CLIP_WORDS = f"(?i:{CONTRACTIONS})" + r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}\x{345}]+"
# The 256 bytes as printable characters. Sorted they are in OpenAI's order, on which ids depend.
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
BASE = BYTES + [byte + WORD_END for byte in BYTES]

# open_clip's names of the special tokens. Spelled inside a text they count as those tokens, but
# only where its pattern can begin a match: not after punctuation, which swallows the "<".
OPEN_CLIP_START, OPEN_CLIP_END = "<start_of_text>", "<end_of_text>"
OPEN_CLIP_SPECIALS = re.compile(rf"(?<![^\s\w\u0345]|_)(?:{OPEN_CLIP_START}|{OPEN_CLIP_END})+")
MARK = "\t"  # put before such a special token; cleaned text holds no tab, so nobody can write it

BERT_CLASSES = ("BertTokenizer", "BertTokenizerFast")
BERT_TOKENS = {  # by its name in tokenizer_config.json
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
# The first token, instead of [CLS], of a text that BLIP generates, or encodes with an image
# (salesforce/BLIP, models/blip.py `init_tokenizer`).
DECODER_START, ENCODER_START = "[DEC]", "[ENC]"
BLIP_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", DECODER_START, ENCODER_START]


def present(folder: Path) -> bool:
    """Whether a folder has files that `read` takes for a tokenizer's."""
    here = {path.name for path in folder.iterdir()}
    known = {TOKENIZER_FILE, BERT_FILE, OPENAI_FILE} & here or {VOCAB_FILE, MERGES_FILE} <= here
    return bool(known) or any(name.endswith(SENTENCEPIECE) for name in here)


def read(path: Path, vocab_size: int) -> tuple[Tokenizer, str]:
    """A tokenizer and its name in errors.

    path: a file, or a folder with tokenizer.json, else vocab.json + merges.txt, else BERT's
    vocab.txt, else OpenAI's merges file. vocab_size: of the model, which determines how many of
    OpenAI's merges it has. Raises TokenizerError when none is there, or it is broken.
    """
    if path.is_file():
        return _file(path, vocab_size), str(path)
    if (path / TOKENIZER_FILE).is_file():
        return _file(path / TOKENIZER_FILE, vocab_size), str(path / TOKENIZER_FILE)
    if (path / VOCAB_FILE).is_file() and (path / MERGES_FILE).is_file():
        merges = _merges(_text(path / MERGES_FILE).split("\n"), path / MERGES_FILE)
        backend = clip(_vocab(path / VOCAB_FILE), merges, str(path))
        if backend.token_to_id(padding := _padding(path)) is not None:
            backend.add_special_tokens([AddedToken(padding, normalized=False)])
        _add(backend, path)
        return backend, str(path / VOCAB_FILE)
    for name in (BERT_FILE, OPENAI_FILE):
        if (path / name).is_file():
            return _file(path / name, vocab_size), str(path / name)
    for found in sorted(path.glob(f"*{SENTENCEPIECE}")):
        return _file(found, vocab_size), str(found)
    raise TokenizerError(
        f"{path} has no tokenizer; looked for {TOKENIZER_FILE}, {VOCAB_FILE} with {MERGES_FILE}, "
        f"{BERT_FILE}, and {OPENAI_FILE}"
    )


def _file(path: Path, vocab_size: int) -> Tokenizer:
    if path.suffix == ".json":
        backend = parse(_text(path), str(path))
        _as_bert(backend, path.parent / BERT_OPTIONS)
        return backend
    if path.name == OPENAI_FILE:
        # The file holds more merges than the model was trained with: the vocabulary decides.
        count = vocab_size - len(BASE) - 2
        merges = _merges(_text(path).split("\n")[: max(count, 0) + 1], path)
        return clip(number(merges), merges, str(path))
    if path.suffix == ".txt":
        backend = bert(_lines(path), _options(path.parent / BERT_OPTIONS), str(path))
        _add(backend, path.parent)
        return backend
    if path.suffix == SENTENCEPIECE:
        raise TokenizerError(
            f"{path} is read by the sentencepiece library, which patchword does without: {MAKE_ONE}"
        )
    raise TokenizerError(
        f"{path}: give a {TOKENIZER_FILE}, {BERT_FILE}, {OPENAI_FILE}, or their folder"
    )


def parse(text: str, name: str) -> Tokenizer:
    """The text of a tokenizer.json. Raises TokenizerError when it is none."""
    try:
        return Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise TokenizerError(f"{name} is not a readable tokenizer.json: {error}") from error


def encoded(backend: Tokenizer, texts: Sequence[str], name: str) -> list[Encoding]:
    """Texts through a tokenizer of the library. Raises TokenizerError where that fails, as it does
    at a file that contradicts itself: a special token without id, no token for the unknown."""
    try:
        return backend.encode_batch_fast(texts)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise TokenizerError(f"{name} contradicts itself and cannot be used: {error}") from error


def clip(vocab: dict[str, int], merges: list[tuple[str, str]], name: str) -> Tokenizer:
    """CLIP's tokenizer as transformers builds it from a vocabulary and merges."""
    if START not in vocab or END not in vocab:
        raise TokenizerError(
            f"{name}: its vocabulary lacks {START} or {END}, and without a {TOKENIZER_FILE} "
            f"patchword reads byte-pair vocabularies of CLIP alone: {MAKE_ONE}"
        )
    try:
        model = models.BPE(vocab, merges, unk_token=END, end_of_word_suffix=WORD_END)
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"{name}: vocabulary and merges do not agree: {error}") from error
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(
        Regex(rf"<\|startoftext\|>|<\|endoftext\|>|{CONTRACTIONS}|{WORDS}"),
        behavior="removed",
        invert=True,
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = _surround((START, vocab[START]), (END, vocab[END]))
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in (START, END)])
    return backend


def as_open_clip(source: Tokenizer, name: str) -> Tokenizer:
    """The vocabulary of `source` under open_clip's pattern; it expects cleaned, marked text.

    What is a letter follows the Unicode version of the `tokenizers` library, which may lag behind
    that of open_clip's `regex` by the newest scripts. Raises TokenizerError when `source` is not a
    byte-pair encoding with a start and an end token.
    """
    model = model_of(source)
    ends = encoded(source, [""], name)[0].ids
    if model["type"] != "BPE" or len(ends) != 2:
        raise TokenizerError(
            f'{name} is a {model["type"]} that adds {len(ends)} tokens to a text; cleaning "ftfy" '
            "is of CLIP's byte-pair tokenizers, which add a start and an end token"
        )
    start, end = MARK + OPEN_CLIP_START, MARK + OPEN_CLIP_END
    theirs = {id_: token for token, id_ in source.get_vocab().items()}
    theirs.update(zip(ends, (start, end), strict=True))
    merges = [(a, b) for a, b in model["merges"]]
    vocab = {token: id_ for id_, token in theirs.items()}
    backend = Tokenizer(models.BPE(vocab, merges, end_of_word_suffix=WORD_END))
    split = pre_tokenizers.Split(Regex(OPEN_CLIP_WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.post_processor = _surround((start, ends[0]), (end, ends[1]))
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in (start, end)])
    return backend


def mark_specials(text: str) -> str:
    """Special tokens spelled in a cleaned text, marked where open_clip reads them as such."""
    if OPEN_CLIP_START not in text and OPEN_CLIP_END not in text:
        return text
    return OPEN_CLIP_SPECIALS.sub(lambda run: run[0].replace("<", MARK + "<"), text)


def bert(tokens: Sequence[str], options: Mapping[str, Any], name: str) -> Tokenizer:
    """BERT's WordPiece as transformers' BertTokenizer builds it from the lines of a vocab.txt.

    options: tokenizer_config.json, of which do_lower_case (unstated: true), strip_accents (as
    do_lower_case), tokenize_chinese_chars (true) and the special tokens count. Raises
    TokenizerError when the vocabulary lacks one that it cannot do without.
    """
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    special = {key: _token(options.get(key), usual) for key, usual in BERT_TOKENS.items()}
    unknown, first, last = (special[key] for key in ("unk_token", "cls_token", "sep_token"))
    for token in (unknown, first, last):
        if token not in vocab:
            raise TokenizerError(f"{name}: its vocabulary lacks {token}")
    backend = Tokenizer(models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=100))
    backend.normalizer = _bert_normalizer(options)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(first, vocab[first]), (last, vocab[last])],
    )
    known = [token for token in dict.fromkeys(special.values()) if token in vocab]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in known])
    return backend


def _bert_normalizer(options: Mapping[str, Any]) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )


def _as_bert(backend: Tokenizer, file: Path) -> None:
    """Clean texts as the tokenizer_config.json of a BertTokenizer says, whatever the tokenizer.json
    beside it: so does transformers."""
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        options = _options(file)
        if options.get("tokenizer_class") in BERT_CLASSES:
            backend.normalizer = _bert_normalizer(options)


def blip(tokens: Sequence[str], name: str) -> Tokenizer:
    """BERT's, lower case, with BLIP's two tokens."""
    backend = bert(tokens, {}, name)
    backend.add_special_tokens(
        [AddedToken(t, normalized=False) for t in (DECODER_START, ENCODER_START)]
    )
    return backend


def learn_pieces(texts: Sequence[str], vocab_size: int) -> list[str]:
    """The tokens of a WordPiece vocabulary of at most `vocab_size` for `blip`, learned from texts,
    by id. The same texts give the same tokens.

    Raises TokenizerError where the characters of the texts alone are more.
    """
    learner = blip(BLIP_TOKENS, "training")
    seen = {c for text in texts for c in learner.normalizer.normalize_str(text) if not c.isspace()}
    letters = sorted(seen | set(string.ascii_lowercase + string.digits + string.punctuation))
    base = [*BLIP_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
    if len(base) > vocab_size:
        raise TokenizerError(
            f"vocab_size is {vocab_size}; the special tokens and characters of the texts need "
            f"{len(base)}"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=base,  # numbered first and in this order, see `Tokenizer.train`
    )
    learner.train_from_iterator(texts, trainer)
    return sorted(learner.get_vocab(), key=learner.get_vocab().__getitem__)


def number(merges: list[tuple[str, str]]) -> dict[str, int]:
    """OpenAI's numbering: bytes, bytes that end a word, merges, start, end."""
    tokens = [*BASE, *(a + b for a, b in merges), START, END]
    return {token: id_ for id_, token in enumerate(tokens)}


def model_of(backend: Tokenizer) -> dict[str, Any]:
    """The "model" entry of its tokenizer.json: "type", and of a BPE "merges" as pairs."""
    model: dict[str, Any] = json.loads(backend.to_str())["model"]
    return model


def _surround(start: tuple[str, int], end: tuple[str, int]) -> processors.PostProcessor:
    """Puts `start` before and `end` behind every text; each (token, id)."""
    return processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)


def _token(value: Any, usual: str) -> str:
    """A special token of tokenizer_config.json: a string, or an object around one."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else usual


def _add(backend: Tokenizer, folder: Path) -> None:
    """Add the tokens that a folder names beside its vocabulary."""
    file = folder / ADDED_FILE
    beside = _json(file) if file.is_file() else {}
    added_tokens.add(backend, _options(folder / BERT_OPTIONS), beside, str(folder))


def _padding(folder: Path) -> str:
    """The token that a CLIP tokenizer pads with, special wherever a text spells it: "!" in Stable
    Diffusion 2. As transformers reads it, special_tokens_map.json comes first, unless
    tokenizer_config.json lists its special tokens itself."""
    options = _options(folder / BERT_OPTIONS)
    first = {} if options.get("added_tokens_decoder") else _options(folder / SPECIALS_FILE)
    return _token(first.get("pad_token"), _token(options.get("pad_token"), END))


def _text(path: Path) -> str:
    """A text file, unpacked when its name ends in .gz. Raises TokenizerError if unreadable."""
    try:
        if path.suffix != ".gz":
            return path.read_bytes().decode("utf-8")
        with gzip.open(path) as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise TokenizerError(
                f"{path} unpacks to more than {LARGEST:,} bytes, as no vocabulary does"
            )
        return data.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from error


def _lines(path: Path) -> list[str]:
    """Lines as a vocab.txt has them: only a line feed ends one, for tokens hold odd characters."""
    lines = _text(path).replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _json(path: Path) -> Any:
    """A JSON file. Raises TokenizerError when it is something else."""
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON: {error}") from error


def _options(path: Path) -> dict[str, Any]:
    """A tokenizer_config.json, empty where there is none."""
    value = _json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} is not one JSON object")
    return value


def _vocab(path: Path) -> dict[str, int]:
    """A vocab.json: token -> id. Raises TokenizerError when it is something else."""
    vocab = _json(path)
    if not isinstance(vocab, dict) or not all(type(id_) is int for id_ in vocab.values()):
        raise TokenizerError(f"{path} is not a vocabulary: one object of token to id is expected")
    return vocab


def _merges(lines: Sequence[str], path: Path) -> list[tuple[str, str]]:
    """Merges, "left right" a line, best first. The first line may be a version instead."""
    pairs = []
    for number_, line in enumerate(lines, start=1):
        words = line.split()
        if (number_ == 1 and "#version" in line) or not words:
            continue
        if len(words) != 2:
            raise TokenizerError(f"{path}, line {number_}: two tokens expected, found {line!r}")
        pairs.append((words[0], words[1]))
    return pairs
