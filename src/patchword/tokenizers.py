"""Text -> token ids: one interface over the `tokenizers` library.

A tokenizer is read from the checkpoint's own files and always becomes one `tokenizer.json`.
CLIP's is a lower-cased byte-pair encoding (Sennrich et al. 2016; Radford et al. 2021, section 2.4)
of which two readings exist, told apart by `TextConfig.cleaning`: "none" is what tokenizer.json
says (transformers), "ftfy" is what OpenAI's and open_clip's Python code does.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import (
    AddedToken,
    Regex,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Backend

from patchword.config import TextConfig
from patchword.errors import TokenizerError

TOKENIZER_FILE = "tokenizer.json"
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
OPENAI_FILE = "bpe_simple_vocab_16e6.txt.gz"  # merges alone, as OpenAI's and open_clip's code ship

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
WORDS = r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# open_clip ignores case, which tells in two places after lower(): a long s makes a contraction, and
# U+0345, a mark whose capital is a letter, is neither letter nor non-letter to `regex`: left out.
OPEN_CLIP_WORDS = f"(?i:{CONTRACTIONS})" + r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}\x{345}]+"
# The 256 bytes as printable characters. Sorted they are in OpenAI's order, on which ids depend.
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
BASE = BYTES + [byte + WORD_END for byte in BYTES]

# open_clip's names of the special tokens. Spelled inside a text they count as those tokens, but
# only where its pattern can begin a match: not after punctuation, which swallows the "<".
OPEN_CLIP_START, OPEN_CLIP_END = "<start_of_text>", "<end_of_text>"
OPEN_CLIP_SPECIALS = re.compile(rf"(?<![^\s\w]|_)(?:{OPEN_CLIP_START}|{OPEN_CLIP_END})+")
MARK = "\t"  # put before such a special token; cleaned text holds no tab, so nobody can write it


class Tokenizer:
    """Texts to ids: start token, text, end token, cut to `context` positions.

    context: positions; end_token, pad_token: ids; vocab_size: 1 + the largest id it can give.
    """

    def __init__(self, source: Backend, config: TextConfig, name: str) -> None:
        """Wrap a tokenizer of the `tokenizers` library; `name` stands for it in errors.

        Raises TokenizerError when its ids or its end token are not those of `config`.
        """
        source.no_truncation()
        source.no_padding()
        self.context = config.context
        self.end_token = config.end_token
        self.pad_token = config.pad_token
        self.vocab_size = max(source.get_vocab().values(), default=-1) + 1
        self.cleaning = config.cleaning
        self._source = source
        _check(source, config, self.vocab_size, name)
        self._backend = _as_open_clip(source, name) if config.cleaning == "ftfy" else source

    @classmethod
    def from_folder(cls, folder: str | Path, config: TextConfig) -> Tokenizer:
        """Read tokenizer.json, else vocab.json + merges.txt, else OpenAI's merges file.

        Raises TokenizerError when none is there, or it is broken, or does not fit `config`.
        """
        folder = Path(folder)
        if (folder / TOKENIZER_FILE).is_file():
            path = folder / TOKENIZER_FILE
            return cls.from_json(_text(path), config, name=str(path))
        if (folder / VOCAB_FILE).is_file() and (folder / MERGES_FILE).is_file():
            vocab_path, merges_path = folder / VOCAB_FILE, folder / MERGES_FILE
            lines = _text(merges_path).split("\n")
            vocab, merges = _vocab(vocab_path), _merges(lines, merges_path)
            return cls(_clip(vocab, merges, str(folder)), config, str(vocab_path))
        if (folder / OPENAI_FILE).is_file():
            path = folder / OPENAI_FILE
            # The file holds more merges than the model was trained with: the vocabulary decides.
            count = config.vocab_size - len(BASE) - 2
            merges = _merges(_text(path).split("\n")[: max(count, 0) + 1], path)
            return cls(_clip(_number(merges), merges, str(path)), config, str(path))
        raise TokenizerError(
            f"{folder} has no tokenizer; looked for {TOKENIZER_FILE}, "
            f"{VOCAB_FILE} with {MERGES_FILE}, and {OPENAI_FILE}"
        )

    @classmethod
    def from_json(cls, text: str, config: TextConfig, name: str = TOKENIZER_FILE) -> Tokenizer:
        """Read the text of a tokenizer.json. Raises TokenizerError if broken or not fitting."""
        try:
            source = Backend.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise TokenizerError(f"{name} is not a readable tokenizer.json: {error}") from error
        return cls(source, config, name)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, context: int) -> Tokenizer:
        """Learn a CLIP-like byte-pair tokenizer of at most `vocab_size` ids, the end token last.

        All 256 bytes are in it, so that every text has ids. Few texts give few merges, and then
        fewer ids: see `.vocab_size`. The same texts give the same tokenizer. Raises TokenizerError
        for a `vocab_size` without room for the bytes and the special tokens.
        """
        least = len(BASE) + 2
        if vocab_size < least:
            raise TokenizerError(f"vocab_size is {vocab_size}; the smallest possible is {least}")
        learner = _clip(_number([]), [], "training")
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            min_frequency=2,
            show_progress=False,
            end_of_word_suffix=WORD_END,
            # As "special tokens" they are numbered first and in this order. Else they are numbered
            # in the order of a randomly seeded hash map, and ties between merges depend on it.
            special_tokens=BASE,
        )
        learner.train_from_iterator(texts, trainer)
        merges = [(a, b) for a, b in _model(learner)["merges"]]
        size = least + len(merges)
        config = TextConfig(vocab_size=size, context=context, end_token=size - 1)
        return cls(_clip(_number(merges), merges, "training"), config, "the trained tokenizer")

    def to_json(self) -> str:
        """The text of a tokenizer.json that `from_json` reads back with the same config."""
        return self._source.to_str()

    def __call__(self, texts: Sequence[str], pad_to_context: bool = False) -> NDArray[np.int64]:
        """(N, L) ids; L is the longest text of the batch, or `context` with `pad_to_context`.

        A text of more than `context` ids is cut and keeps its end token. A lone string is one
        text. Raises TokenizerError for a text that is not valid Unicode.
        """
        rows = self._ids([texts] if isinstance(texts, str) else texts)
        length = max((len(row) for row in rows), default=0)
        length = self.context if pad_to_context else min(length, self.context)
        out = np.full((len(rows), length), self.pad_token, dtype=np.int64)
        for place, row in zip(out, rows, strict=True):
            if len(row) > self.context:
                row = [*row[: self.context - 1], self.end_token]
            place[: len(row)] = row
        return out

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of each row's ids (N, L) are not padding: (N,)."""
        padding = (ids != self.pad_token)[:, ::-1].argmax(axis=1)
        ends = int(self.pad_token == self.end_token)  # the first of the end tokens is none
        lengths: NDArray[np.int64] = np.minimum(ids.shape[1] - padding + ends, ids.shape[1])
        return lengths

    def count(self, text: str) -> int:
        """Ids of the whole text, start and end included: above `context`, its rest is dropped."""
        return len(self._ids([text])[0])

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Per text: start, text and end, not cut."""
        if self.cleaning == "ftfy":
            texts = [_mark_specials(clean(text)) for text in texts]
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise TokenizerError(f"{text!r} is not valid Unicode: {error.reason}") from error
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts))]


def clean(text: str) -> str:
    """What OpenAI's and open_clip's tokenizers do to a text first.

    Mojibake repaired, HTML entities resolved, white space collapsed, lower case
    (`basic_clean`, `whitespace_clean` and `lower` of their simple_tokenizer.py).
    """
    # Printable ASCII without entities is what ftfy returns unchanged, so most prompts skip it.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy  # only odd texts pay for loading it

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _mark_specials(text: str) -> str:
    """Special tokens spelled in a cleaned text, marked where open_clip reads them as such."""
    if OPEN_CLIP_START not in text and OPEN_CLIP_END not in text:
        return text
    return OPEN_CLIP_SPECIALS.sub(lambda run: run[0].replace("<", MARK + "<"), text)


def _clip(vocab: dict[str, int], merges: list[tuple[str, str]], name: str) -> Backend:
    """CLIP's tokenizer as transformers builds it from a vocabulary and merges."""
    if START not in vocab or END not in vocab:
        raise TokenizerError(f"{name}: its vocabulary lacks {START} or {END}")
    try:
        model = models.BPE(vocab, merges, unk_token=END, end_of_word_suffix=WORD_END)
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"{name}: vocabulary and merges do not agree: {error}") from error
    backend = Backend(model)
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
    backend.post_processor = _surround((START, vocab[START]), (END, vocab[END]))
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in (START, END)])
    return backend


def _as_open_clip(source: Backend, name: str) -> Backend:
    """The vocabulary of `source` under open_clip's pattern; it expects cleaned, marked text.

    What is a letter follows the Unicode version of the `tokenizers` library, which may lag behind
    that of open_clip's `regex` by the newest scripts. Raises TokenizerError when `source` is not a
    byte-pair encoding with a start and an end token.
    """
    model = _model(source)
    ends = source.encode("").ids
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
    backend = Backend(models.BPE(vocab, merges, end_of_word_suffix=WORD_END))
    split = pre_tokenizers.Split(Regex(OPEN_CLIP_WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.post_processor = _surround((start, ends[0]), (end, ends[1]))
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in (start, end)])
    return backend


def _surround(start: tuple[str, int], end: tuple[str, int]) -> processors.PostProcessor:
    """Puts `start` before and `end` behind every text; each (token, id)."""
    return processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)


def _check(source: Backend, config: TextConfig, vocab_size: int, name: str) -> None:
    """Raise TokenizerError unless the ids fit the text tower's embedding and its pooling."""
    if vocab_size > config.vocab_size:
        raise TokenizerError(
            f"{name} has ids up to {vocab_size - 1}, but the model's vocabulary has "
            f"{config.vocab_size}: the tokenizer is another model's"
        )
    ids = source.encode("").ids
    found = f"{ids[-1]} ({source.id_to_token(ids[-1])!r})" if ids else "no token"
    if not ids or ids[-1] != config.end_token:
        raise TokenizerError(
            f"{name} ends a text with {found}, but the model looks for {config.end_token}"
        )


def _number(merges: list[tuple[str, str]]) -> dict[str, int]:
    """OpenAI's numbering: bytes, bytes that end a word, merges, start, end."""
    tokens = [*BASE, *(a + b for a, b in merges), START, END]
    return {token: id_ for id_, token in enumerate(tokens)}


def _model(backend: Backend) -> dict[str, Any]:
    """The "model" entry of its tokenizer.json: "type", and of a BPE "merges" as pairs."""
    model: dict[str, Any] = json.loads(backend.to_str())["model"]
    return model


def _text(path: Path) -> str:
    """A text file, unpacked when its name ends in .gz. Raises TokenizerError if unreadable."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from error


def _vocab(path: Path) -> dict[str, int]:
    """A vocab.json: token -> id. Raises TokenizerError when it is something else."""
    try:
        vocab = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise TokenizerError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(vocab, dict) or not all(type(id_) is int for id_ in vocab.values()):
        raise TokenizerError(f"{path} is not a vocabulary: one object of token to id is expected")
    return vocab


def _merges(lines: Sequence[str], path: Path) -> list[tuple[str, str]]:
    """Merges, "left right" a line, best first. The first line may state a version instead."""
    pairs = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if (number == 1 and "#version" in line) or not words:
            continue
        if len(words) != 2:
            raise TokenizerError(f"{path}, line {number}: two tokens expected, found {line!r}")
        pairs.append((words[0], words[1]))
    return pairs
