"""Build tokenizers of the `tokenizers` library from vocabularies: CLIP's byte-pair encoding
(Sennrich et al. 2016; Radford et al. 2021, section 2.4) and BERT's WordPiece (Devlin et al. 2019,
section 3).
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
WORDS = r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# open_clip ignores case, which matters in two places after lower(): a long s makes a contraction,
# and U+0345, a mark whose capital is a letter, is dropped: to `regex` it is neither a letter nor
# a non-letter.
OPEN_CLIP_WORDS = f"(?i:{CONTRACTIONS})" + r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}\x{345}]+"
# The 256 bytes as printable characters. Ids depend on OpenAI's order, which is the sorted one.
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
BASE = BYTES + [byte + WORD_END for byte in BYTES]

# open_clip's names of the special tokens. Where a text spells them, they count as these tokens, but
# not after punctuation: there the pattern matches the "<" together with it.
OPEN_CLIP_START, OPEN_CLIP_END = "<start_of_text>", "<end_of_text>"
OPEN_CLIP_SPECIALS = re.compile(rf"(?<![^\s\w\u0345]|_)(?:{OPEN_CLIP_START}|{OPEN_CLIP_END})+")
MARK = "\t"  # put before such a special token; a cleaned text has no tabs of its own

BERT_CLASSES = ("BertTokenizer", "BertTokenizerFast")
BERT_TOKENS = {  # by their names in tokenizer_config.json
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


def encode(backend: Tokenizer, texts: Sequence[str], name: str) -> list[Encoding]:
    """Encode texts with a tokenizer of the library. Raises TokenizerError where that fails, for
    example because a special token has no id, or there is no token for unknown words."""
    with failing_as(f"{name} contradicts itself and cannot be used"):
        return backend.encode_batch_fast(texts)


@contextmanager
def failing_as(reason: str) -> Iterator[None]:
    """Raises TokenizerError with this reason for any error of the library."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise TokenizerError(f"{reason}: {error}") from error


def clip(vocab: dict[str, int], merges: list[tuple[str, str]], name: str) -> Tokenizer:
    """CLIP's tokenizer as transformers builds it from a vocabulary, with START and END in it, and
    merges."""
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
    backend.post_processor = _add_around((START, vocab[START]), (END, vocab[END]))
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in (START, END)])
    return backend


def as_open_clip(source: Tokenizer, name: str) -> Tokenizer:
    """A tokenizer with the vocabulary of `source` and open_clip's pattern. Its texts must be
    cleaned and marked (`mark_specials`).

    Which characters are letters depends on the Unicode version of the `tokenizers` library, which
    may be older than that of open_clip's `regex`. Raises TokenizerError unless `source` is a
    byte-pair encoding with a start and an end token.
    """
    model = model_entry(source)
    special_ids = encode(source, [""], name)[0].ids
    if model["type"] != "BPE" or len(special_ids) != 2:
        raise TokenizerError(
            f"{name} is a {model['type']} that adds {len(special_ids)} tokens to a text; "
            'cleaning "ftfy" is of CLIP\'s byte-pair tokenizers, which add a start and an end token'
        )
    start, end = MARK + OPEN_CLIP_START, MARK + OPEN_CLIP_END
    token_by_id = {id_: token for token, id_ in source.get_vocab().items()}
    token_by_id.update(zip(special_ids, (start, end), strict=True))
    merges = [(a, b) for a, b in model["merges"]]
    vocab = {token: id_ for id_, token in token_by_id.items()}
    backend = Tokenizer(models.BPE(vocab, merges, end_of_word_suffix=WORD_END))
    split = pre_tokenizers.Split(Regex(OPEN_CLIP_WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.post_processor = _add_around((start, special_ids[0]), (end, special_ids[1]))
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in (start, end)])
    return backend


def mark_specials(text: str) -> str:
    """A cleaned text with a `MARK` before each special token that open_clip would read in it."""
    if OPEN_CLIP_START not in text and OPEN_CLIP_END not in text:
        return text
    return OPEN_CLIP_SPECIALS.sub(lambda run: run[0].replace("<", MARK + "<"), text)


def bert(tokens: Sequence[str], options: Mapping[str, Any], name: str) -> Tokenizer:
    """BERT's WordPiece as transformers' BertTokenizer builds it from the lines of a vocab.txt.

    options: tokenizer_config.json. Used are do_lower_case (default: true), strip_accents (default:
    as do_lower_case), tokenize_chinese_chars (default: true) and the special tokens. Raises
    TokenizerError if the vocabulary lacks a required special token.
    """
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    special = {key: special_token(options.get(key), usual) for key, usual in BERT_TOKENS.items()}
    unknown, first, last = (special[key] for key in ("unk_token", "cls_token", "sep_token"))
    for token in (unknown, first, last):
        if token not in vocab:
            raise TokenizerError(f"{name}: its vocabulary lacks {token}")
    backend = Tokenizer(models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=100))
    backend.normalizer = bert_normalizer(options)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, vocab[first]), (last, vocab[last])]
    )
    known = [token for token in dict.fromkeys(special.values()) if token in vocab]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in known])
    return backend


def bert_normalizer(options: Mapping[str, Any]) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )


def blip(tokens: Sequence[str], name: str) -> Tokenizer:
    """BERT's tokenizer in lower case, with the two tokens that BLIP adds."""
    backend = bert(tokens, {}, name)
    backend.add_special_tokens(
        [AddedToken(t, normalized=False) for t in (DECODER_START, ENCODER_START)]
    )
    return backend


def learn_pieces(texts: Sequence[str], vocab_size: int) -> list[str]:
    """Learn a WordPiece vocabulary of at most `vocab_size` tokens for `blip` from texts. Returns
    the tokens in the order of their ids. The same texts give the same tokens.

    Raises TokenizerError if the texts have too many different characters.
    """
    learner = blip(BLIP_TOKENS, "training")
    characters = set(string.ascii_lowercase + string.digits + string.punctuation)
    for text in texts:
        characters.update(learner.normalizer.normalize_str(text))
    letters = sorted(c for c in characters if not c.isspace())
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
    vocabulary = learner.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def number_tokens(merges: list[tuple[str, str]]) -> dict[str, int]:
    """The vocabulary that OpenAI makes of merges: bytes, bytes at the end of a word, merged tokens,
    start, end."""
    tokens = [*BASE, *(a + b for a, b in merges), START, END]
    return {token: id_ for id_, token in enumerate(tokens)}


def model_entry(backend: Tokenizer) -> dict[str, Any]:
    """The "model" entry of a tokenizer.json: "type", and for a BPE "merges" as pairs."""
    model: dict[str, Any] = json.loads(backend.to_str())["model"]
    return model


def _add_around(start: tuple[str, int], end: tuple[str, int]) -> processors.PostProcessor:
    """A post-processor that adds `start` and `end`, each (token, id), around every text."""
    return processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)


def special_token(value: Any, usual: str) -> str:
    """A special token in tokenizer_config.json: a string, or an object that contains one; `usual`
    for anything else."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else usual
