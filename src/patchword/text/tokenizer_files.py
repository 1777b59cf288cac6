"""Tokenizers of the `tokenizers` library, made from the files that checkpoints bring.

A tokenizer.json is complete. Older checkpoints only have a vocabulary, and `tokenizer_builders`
builds the rest of the tokenizer.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers

from patchword.errors import TokenizerError
from patchword.text import added_tokens
from patchword.text.tokenizer_builders import (
    BASE,
    BERT_CLASSES,
    END,
    START,
    bert,
    bert_normalizer,
    clip,
    failing_as,
    number_tokens,
    special_token,
)

TOKENIZER_FILE = "tokenizer.json"
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
OPENAI_FILE = "bpe_simple_vocab_16e6.txt.gz"  # merges alone, as OpenAI's and open_clip's code ship
BERT_FILE, BERT_OPTIONS = "vocab.txt", "tokenizer_config.json"
SPECIALS_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
SENTENCEPIECE = ".model"  # the suffix of a file that only the sentencepiece library reads
MAKE_ONE = (
    f"write a {TOKENIZER_FILE} beside it with transformers, "
    "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
)

MAX_UNPACKED = 64 << 20  # bytes of an unpacked file; CLIP's merges have 3 million


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has files of a tokenizer that `read` knows."""
    names = {path.name for path in folder.iterdir()}
    if not names.isdisjoint({TOKENIZER_FILE, BERT_FILE, OPENAI_FILE}):
        return True
    if {VOCAB_FILE, MERGES_FILE} <= names:
        return True
    return any(name.endswith(SENTENCEPIECE) for name in names)


def read(path: Path, vocab_size: int) -> tuple[Tokenizer, str]:
    """A tokenizer and its name in errors.

    path: a file, or a folder with tokenizer.json, else vocab.json + merges.txt, else BERT's
    vocab.txt, else OpenAI's merges file. vocab_size: of the model; it decides how many of OpenAI's
    merges are used. Raises TokenizerError if there is none, or it is broken.
    """
    if path.is_file():
        return _read_file(path, vocab_size), str(path)
    if (path / TOKENIZER_FILE).is_file():
        return _read_file(path / TOKENIZER_FILE, vocab_size), str(path / TOKENIZER_FILE)
    if (path / VOCAB_FILE).is_file() and (path / MERGES_FILE).is_file():
        merges = _parse_merges(_read_text(path / MERGES_FILE).split("\n"), path / MERGES_FILE)
        vocabulary = _read_vocabulary(path / VOCAB_FILE)
        if START not in vocabulary or END not in vocabulary:
            raise TokenizerError(
                f"{path}: its vocabulary lacks {START} or {END}, and without a {TOKENIZER_FILE} "
                f"patchword reads byte-pair vocabularies of CLIP alone: {MAKE_ONE}"
            )
        backend = clip(vocabulary, merges, str(path))
        padding = _padding_token(path)
        if backend.token_to_id(padding) is not None:
            backend.add_special_tokens([AddedToken(padding, normalized=False)])
        _add_listed_tokens(backend, path)
        return backend, str(path / VOCAB_FILE)
    for name in (BERT_FILE, OPENAI_FILE):
        if (path / name).is_file():
            return _read_file(path / name, vocab_size), str(path / name)
    for file in sorted(path.glob(f"*{SENTENCEPIECE}")):
        return _read_file(file, vocab_size), str(file)
    raise TokenizerError(
        f"{path} has no tokenizer; looked for {TOKENIZER_FILE}, {VOCAB_FILE} with {MERGES_FILE}, "
        f"{BERT_FILE}, and {OPENAI_FILE}"
    )


def _read_file(path: Path, vocab_size: int) -> Tokenizer:
    if path.suffix == ".json":
        backend = parse(_read_text(path), str(path))
        _set_bert_cleaning(backend, path.parent / BERT_OPTIONS)
        return backend
    if path.name == OPENAI_FILE:
        # The file has more merges than the model was trained with.
        count = vocab_size - len(BASE) - 2
        merges = _parse_merges(_read_text(path).split("\n")[: max(count, 0) + 1], path)
        return clip(number_tokens(merges), merges, str(path))
    if path.suffix == ".txt":
        backend = bert(_read_lines(path), _json_object(path.parent / BERT_OPTIONS), str(path))
        _add_listed_tokens(backend, path.parent)
        return backend
    if path.suffix == SENTENCEPIECE:
        raise TokenizerError(
            f"{path} is read by the sentencepiece library, which patchword does without: {MAKE_ONE}"
        )
    raise TokenizerError(
        f"{path}: give a {TOKENIZER_FILE}, {BERT_FILE}, {OPENAI_FILE}, or their folder"
    )


def parse(text: str, name: str) -> Tokenizer:
    """A tokenizer from the text of a tokenizer.json. Raises TokenizerError for any other text."""
    with failing_as(f"{name} is not a readable tokenizer.json"):
        return Tokenizer.from_str(text)


def _set_bert_cleaning(backend: Tokenizer, file: Path) -> None:
    """Let the tokenizer_config.json of a BertTokenizer decide how texts are cleaned, not the
    tokenizer.json, as in transformers."""
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        options = _json_object(file)
        if options.get("tokenizer_class") in BERT_CLASSES:
            backend.normalizer = bert_normalizer(options)


def _add_listed_tokens(backend: Tokenizer, folder: Path) -> None:
    """Add the tokens that a folder lists beside its vocabulary."""
    file = folder / ADDED_FILE
    added = _read_json(file) if file.is_file() else {}
    added_tokens.add(backend, _json_object(folder / BERT_OPTIONS), added, str(folder))


def _padding_token(folder: Path) -> str:
    """The padding token of a CLIP tokenizer, "!" in Stable Diffusion 2. It is a special token also
    where a text spells it. As in transformers, special_tokens_map.json comes first, unless
    tokenizer_config.json lists the special tokens itself."""
    options = _json_object(folder / BERT_OPTIONS)
    padding = special_token(options.get("pad_token"), END)
    if options.get("added_tokens_decoder"):
        return padding
    return special_token(_json_object(folder / SPECIALS_FILE).get("pad_token"), padding)


def _read_text(path: Path) -> str:
    """A text file, unpacked if its name ends in .gz. Raises TokenizerError if it is unreadable."""
    try:
        if path.suffix != ".gz":
            return path.read_bytes().decode("utf-8")
        with gzip.open(path) as file:
            data = file.read(MAX_UNPACKED + 1)
        if len(data) > MAX_UNPACKED:
            raise TokenizerError(
                f"{path} unpacks to more than {MAX_UNPACKED:,} bytes, as no vocabulary does"
            )
        return data.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from error


def _read_lines(path: Path) -> list[str]:
    """The lines of a vocab.txt. Only a line feed ends a line: tokens may have other separators."""
    lines = _read_text(path).replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _read_json(path: Path) -> Any:
    """The value in a JSON file. Raises TokenizerError for any other file."""
    try:
        return json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON: {error}") from error


def _json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} if there is no such file. Raises TokenizerError for any other
    value."""
    value = _read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} is not one JSON object")
    return value


def _read_vocabulary(path: Path) -> dict[str, int]:
    """A vocab.json: token -> id. Raises TokenizerError for anything else."""
    vocab = _read_json(path)
    if not isinstance(vocab, dict) or not all(type(id_) is int for id_ in vocab.values()):
        raise TokenizerError(f"{path} is not a vocabulary: one object of token to id is expected")
    return vocab


def _parse_merges(lines: Sequence[str], path: Path) -> list[tuple[str, str]]:
    """Merges from lines "left right", best first. The first line may be a version instead."""
    pairs = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if (number == 1 and "#version" in line) or not words:
            continue
        if len(words) != 2:
            raise TokenizerError(f"{path}, line {number}: two tokens expected, found {line!r}")
        pairs.append((words[0], words[1]))
    return pairs
