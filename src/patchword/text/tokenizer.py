"""Text -> token ids, with the `tokenizers` library.

A tokenizer is read from the checkpoint's own files and becomes one `tokenizer.json`. A text is
first cleaned as in the Python code of the checkpoint's library, see `TextConfig.cleaning` and
`cleaning.clean`: "none" in transformers, "ftfy" in OpenAI's and open_clip's CLIP (with a word
pattern of their own), the others in open_clip's HFTokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers import trainers

from patchword.config import TextConfig
from patchword.errors import TokenizerError, begun
from patchword.text import tokenizer_builders, tokenizer_files
from patchword.text.cleaning import clean, sentences, words
from patchword.text.token_names import token_names
from patchword.text.tokenizer_builders import BASE, WORD_END
from patchword.text.tokenizer_files import TOKENIZER_FILE

T = TypeVar("T")


class Tokenizer:
    """Texts to ids: special tokens and text, cut to `context` positions.

    context              positions
    end_token, pad_token ids
    vocab_size           1 + the largest id
    specials             how many special tokens it adds to a text
    name                 of the file it was read from
    padded_over          the id at the end of a text that is replaced by padding, if any
    """

    def __init__(self, source: Backend, config: TextConfig, name: str) -> None:
        """Wrap a tokenizer of the `tokenizers` library; `name` is its name in errors.

        Raises TokenizerError if its ids or its end token do not fit `config`.
        """
        source.no_truncation()
        source.no_padding()
        self.context = config.context
        self.end_token = config.end_token
        self.pad_token = config.pad_token
        special_ids = tokenizer_builders.encode(source, [""], name)[0].ids
        self.vocab_size = max([*source.get_vocab().values(), *special_ids], default=-1) + 1
        self.cleaning = config.cleaning
        self.name = name
        self.specials = len(special_ids)
        self._pools_end = config.pool in ("end", "highest")
        self._attends_padding = config.padding == "attended" and not config.causal
        no_end_token = self._attends_padding and config.end_token < 0
        self.padded_over = special_ids[-1:] if no_end_token else []
        self._source = source
        _check(source, special_ids, config, self.vocab_size, name)
        self._backend = source
        if config.cleaning == "ftfy":
            self._backend = tokenizer_builders.as_open_clip(source, name)
        mask = tokenizer_builders.encode(self._backend, ["a"], name)[0].special_tokens_mask
        # How many special tokens are at the end of a text.
        self._end_tokens = len(list(takewhile(bool, reversed(mask))))

    @classmethod
    def from_folder(cls, folder: str | Path, config: TextConfig) -> Tokenizer:
        """Read tokenizer.json, else vocab.json + merges.txt, else BERT's vocab.txt, else OpenAI's
        merges file. `folder` may also be one of these files.

        Raises TokenizerError if there is none, or it is broken, or does not fit `config`.
        """
        source, name = tokenizer_files.read(Path(folder), config.vocab_size)
        return cls(source, config, name)

    @classmethod
    def from_json(cls, text: str, config: TextConfig, name: str = TOKENIZER_FILE) -> Tokenizer:
        """Read the text of a tokenizer.json. Raises TokenizerError if broken or not fitting."""
        return cls(tokenizer_files.parse(text, name), config, name)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, context: int) -> Tokenizer:
        """Learn a CLIP-like byte-pair tokenizer of at most `vocab_size` ids, the end token last.

        All 256 bytes have ids, so that every text can be encoded. Few texts give few merges and so
        fewer ids: see `.vocab_size`. The same texts give the same tokenizer. Raises TokenizerError
        for a `vocab_size` without room for the bytes and the special tokens.
        """
        least = len(BASE) + 2
        if vocab_size < least:
            raise TokenizerError(f"vocab_size is {vocab_size}; the smallest possible is {least}")
        learner = tokenizer_builders.clip(tokenizer_builders.number_tokens([]), [], "training")
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            min_frequency=2,
            show_progress=False,
            end_of_word_suffix=WORD_END,
            # As "special tokens" the bytes are numbered first and in this order. Otherwise their
            # order is that of a randomly seeded hash map, and decides ties between merges.
            special_tokens=BASE,
        )
        learner.train_from_iterator(texts, trainer)
        merges = [(a, b) for a, b in tokenizer_builders.model_entry(learner)["merges"]]
        size = least + len(merges)
        config = TextConfig(vocab_size=size, context=context, end_token=size - 1)
        learned = tokenizer_builders.clip(
            tokenizer_builders.number_tokens(merges), merges, "training"
        )
        return cls(learned, config, "the trained tokenizer")

    @classmethod
    def train_wordpiece(cls, texts: Iterable[str], vocab_size: int, context: int) -> Tokenizer:
        """Learn a tokenizer like BLIP's, of at most `vocab_size` ids: BERT's WordPiece, lower case,
        padding first, with [DEC] and [ENC].

        The same texts give the same tokenizer. Raises TokenizerError for a `vocab_size` without
        room for the characters of the texts.
        """
        tokens = tokenizer_builders.learn_pieces(list(texts), vocab_size)
        learned = tokenizer_builders.blip(tokens, "training")
        config = TextConfig(
            vocab_size=len(tokens),
            context=context,
            causal=False,
            pool="first",
            end_token=tokens.index("[SEP]"),
            pad_token=tokens.index("[PAD]"),
        )
        return cls(learned, config, "the trained tokenizer")

    @property
    def decoder_start(self) -> int:
        """The id of [DEC], the first of a text that a BLIP generates; -1 without one."""
        return self._number(tokenizer_builders.DECODER_START)

    @property
    def encoder_start(self) -> int:
        """The id of [ENC], the first of a text that cross-attends to an image; -1 without one."""
        return self._number(tokenizer_builders.ENCODER_START)

    def _number(self, token: str) -> int:
        id_ = self._source.token_to_id(token)
        return -1 if id_ is None else id_

    def to_json(self) -> str:
        """The text of a tokenizer.json that `from_json` reads back with the same config."""
        return self._source.to_str()

    def __call__(self, texts: Sequence[str], pad_to_context: bool = False) -> NDArray[np.int64]:
        """(N, L) ids, see `pad`. A lone string is one text. Raises TokenizerError for a text that
        is not valid Unicode."""
        return self.pad(self.rows([texts] if isinstance(texts, str) else texts), pad_to_context)

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text with its special tokens, not cut."""
        texts = [self._cleaned(text) for text in texts]
        encodings = tokenizer_builders.encode(self._backend, texts, self.name)
        rows = [encoding.ids for encoding in encodings]
        if self.padded_over:
            rows = [[self.pad_token if i in self.padded_over else i for i in row] for row in rows]
        return rows

    def named(self, text: str) -> tuple[NDArray[np.int64], list[str]]:
        """The ids (1, L) of one text, as `pad` returns them, and the name of each, see
        `token_names`."""
        row = self.rows([text])[0]
        names = token_names(self._backend, self._cleaned(text))
        if len(row) > self.context:
            names = self._cut(names)
        ids = self.pad([row])
        padding = str(self._source.id_to_token(self.pad_token))
        return ids, names + [padding] * (ids.shape[1] - len(names))

    def _cleaned(self, text: str) -> str:
        """A cleaned text for the backend. Raises TokenizerError for what is not valid Unicode."""
        text = clean(text, self.cleaning)
        if self.cleaning == "ftfy":
            text = tokenizer_builders.mark_specials(text)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(f"{begun(text)!r} is not valid Unicode: {error.reason}") from error
        return text

    def pad(self, rows: Sequence[Sequence[int]], to_context: bool = False) -> NDArray[np.int64]:
        """(N, L) ids of `rows`. L is the length of the longest row, or `context` with `to_context`
        and where padding is attended to.

        A row of more than `context` ids is cut; it keeps the special tokens at its end.
        """
        longest = max((len(row) for row in rows), default=0)
        length = min(longest, self.context)
        if to_context or self._attends_padding:
            length = self.context
        padded = np.full((len(rows), length), self.pad_token, dtype=np.int64)
        for number, row in enumerate(rows):
            if len(row) > self.context:
                row = self._cut(row)
            padded[number, : len(row)] = row
        return padded

    def _cut(self, row: Sequence[T]) -> list[T]:
        """A row of the length `context`: its beginning, and the special tokens at its end."""
        return [*row[: self.context - self._end_tokens], *row[len(row) - self._end_tokens :]]

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many ids of each row (N, L) the network needs, (N,): all if padding is attended to,
        else those before the padding."""
        if self._attends_padding:
            return np.full(len(ids), ids.shape[1])
        padding = (ids != self.pad_token)[:, ::-1].argmax(axis=1)
        # If the end token is also used for padding, the first one is not padding.
        ends = int(self._pools_end and self.pad_token == self.end_token)
        lengths: NDArray[np.int64] = np.minimum(ids.shape[1] - padding + ends, ids.shape[1])
        return lengths

    def count(self, text: str) -> int:
        """The number of ids of a text with its special tokens, before it is cut to `context`."""
        return len(self.rows([text])[0])

    def chunks(self, text: str) -> list[str]:
        """Cut a text into pieces that fit the context; joined, they are the text.

        Each piece has as many sentences as fit. A sentence that is too long is cut between words,
        and a word that is too long between characters.
        """
        return self._packed(text, (sentences, words, list))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids without special tokens, with the spaces that the tokenizer's own decoder
        adds (transformers' `decode(ids, skip_special_tokens=True)`)."""
        text = self._source.decode([int(id_) for id_ in ids], skip_special_tokens=True)
        word_end = getattr(self._source.model, "end_of_word_suffix", None)
        return text.replace(word_end, " ").strip() if word_end else text

    def _packed(self, text: str, levels: Sequence[Callable[[str], list[str]]]) -> list[str]:
        """Cut `text` into pieces that fit: into the units that levels[0] gives, and units that are
        too long into those of the next level."""
        if not levels or self.count(text) <= self.context:
            return [text]
        split, *finer = levels
        units = split(text)
        ends = np.cumsum([len(row) - self.specials for row in self.rows(units)])
        pieces: list[str] = []
        start = 0
        while start < len(units):
            *full, piece = self._packed(units[start], finer)
            end = self._fitting(piece, units, start + 1, ends)
            pieces += [*full, piece + "".join(units[start + 1 : end])]
            start = end
        return pieces

    def _fitting(
        self, piece: str, units: Sequence[str], start: int, ends: NDArray[np.int64]
    ) -> int:
        """The end of the units from `start` on that fit into one piece together with `piece`.

        ends: how many tokens there are up to the end of each unit, counted for each unit alone.
        That is an estimate: the search, by steps that double and then halve, begins there."""

        def fits(end: int) -> bool:
            return self.count(piece + "".join(units[start:end])) <= self.context

        room = self.context - self.count(piece) + ends[start - 1]
        end = max(int(np.searchsorted(ends, room, side="right")), start)
        step = 1
        while end > start and not fits(end):
            end, step = max(end - step, start), 2 * step
        step = 1
        while end + step <= len(units) and fits(end + step):
            end, step = end + step, 2 * step
        while step := step // 2:
            if end + step <= len(units) and fits(end + step):
                end += step
        return end


def _check(
    source: Backend, ids: Sequence[int], config: TextConfig, vocab_size: int, name: str
) -> None:
    """Raise TokenizerError unless the ids fit the text tower's embedding and its pooling.

    ids: those of an empty text, the special tokens.
    """
    if vocab_size > config.vocab_size:
        raise TokenizerError(
            f"{name} has ids up to {vocab_size - 1}, but the model's vocabulary has "
            f"{config.vocab_size}: the tokenizer is another model's"
        )
    needs_end = config.pool != "first" and config.end_token >= 0
    if needs_end and (not ids or ids[-1] != config.end_token):
        last = f"{ids[-1]} ({source.id_to_token(ids[-1])!r})" if ids else "no token"
        raise TokenizerError(
            f"{name} ends a text with {last}, but the model looks for {config.end_token}"
        )
    if source.id_to_token(config.pad_token) is None:
        raise TokenizerError(
            f"{name} has no token {config.pad_token}, with which the model's texts are padded"
        )
    if config.pool == "first" and not ids:
        raise TokenizerError(f"{name} puts no token before a text, and the model pools the first")
    if config.start_token >= 0 and len(ids) < 2:
        raise TokenizerError(
            f"{name} adds {len(ids)} tokens to a text, and the model needs one before it, in place "
            "of which it puts its own, and one at the end"
        )
