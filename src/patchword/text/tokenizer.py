"""Text -> token ids: one interface over the `tokenizers` library.

A tokenizer is read from the checkpoint's own files and always becomes one `tokenizer.json`. Before
it, a text is cleaned as in the Python code of the checkpoint's library, `TextConfig.cleaning`:
"none" in transformers, "ftfy" in OpenAI's and open_clip's CLIP (with a word pattern of their own),
the others in open_clip's HFTokenizer; see `cleaning.clean`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers import trainers

from patchword.config import TextConfig
from patchword.errors import TokenizerError, begun
from patchword.text import tokenizer_files
from patchword.text.cleaning import clean, sentences, words
from patchword.text.token_names import token_names
from patchword.text.tokenizer_files import BASE, TOKENIZER_FILE, WORD_END


class Tokenizer:
    """Texts to ids: special tokens and text, cut to `context` positions.

    context: positions; end_token, pad_token: ids; vocab_size: 1 + the largest id it can give;
    specials: how many tokens it adds to a text; name: of the file it was read from; padded_over:
    the id at the end of a text for which padding is given instead, if any.
    """

    def __init__(self, source: Backend, config: TextConfig, name: str) -> None:
        """Wrap a tokenizer of the `tokenizers` library; `name` is its name in errors.

        Raises TokenizerError when its ids or its end token are not those of `config`.
        """
        source.no_truncation()
        source.no_padding()
        self.context = config.context
        self.end_token = config.end_token
        self.pad_token = config.pad_token
        bare = tokenizer_files.encoded(source, [""], name)[0]
        self.vocab_size = max([*source.get_vocab().values(), *bare.ids], default=-1) + 1
        self.cleaning = config.cleaning
        self.name = name
        self.specials = len(bare.ids)
        self._ends = config.pool in ("end", "highest")
        self._full = config.padding == "attended" and not config.causal
        self.padded_over = bare.ids[-1:] if self._full and config.end_token < 0 else []
        self._source = source
        _check(source, bare.ids, config, self.vocab_size, name)
        ftfy = config.cleaning == "ftfy"
        self._backend = tokenizer_files.as_open_clip(source, name) if ftfy else source
        one = tokenizer_files.encoded(self._backend, ["a"], name)[0]
        # special tokens behind a text
        self._tail = len(list(takewhile(bool, reversed(one.special_tokens_mask))))

    @classmethod
    def from_folder(cls, folder: str | Path, config: TextConfig) -> Tokenizer:
        """Read tokenizer.json, else vocab.json + merges.txt, else BERT's vocab.txt, else OpenAI's
        merges file; or the one of them that `folder` is.

        Raises TokenizerError when none is there, or it is broken, or does not fit `config`.
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

        All 256 bytes are in it, so that every text has ids. Few texts give few merges, and then
        fewer ids: see `.vocab_size`. The same texts give the same tokenizer. Raises TokenizerError
        for a `vocab_size` without room for the bytes and the special tokens.
        """
        least = len(BASE) + 2
        if vocab_size < least:
            raise TokenizerError(f"vocab_size is {vocab_size}; the smallest possible is {least}")
        learner = tokenizer_files.clip(tokenizer_files.number([]), [], "training")
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
        merges = [(a, b) for a, b in tokenizer_files.model_of(learner)["merges"]]
        size = least + len(merges)
        config = TextConfig(vocab_size=size, context=context, end_token=size - 1)
        learned = tokenizer_files.clip(tokenizer_files.number(merges), merges, "training")
        return cls(learned, config, "the trained tokenizer")

    @classmethod
    def train_wordpiece(cls, texts: Iterable[str], vocab_size: int, context: int) -> Tokenizer:
        """Learn a tokenizer like BLIP's, of at most `vocab_size` ids: BERT's WordPiece, lower case,
        padding first, with [DEC] and [ENC].

        The same texts give the same tokenizer. Raises TokenizerError for a `vocab_size` without
        room for the characters of the texts.
        """
        tokens = tokenizer_files.learn_pieces(list(texts), vocab_size)
        learned = tokenizer_files.blip(tokens, "training")
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
        return self._number(tokenizer_files.DECODER_START)

    @property
    def encoder_start(self) -> int:
        """The id of [ENC], the first of a text that cross-attends to an image; -1 without one."""
        return self._number(tokenizer_files.ENCODER_START)

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
        rows = [each.ids for each in tokenizer_files.encoded(self._backend, texts, self.name)]
        if self.padded_over:
            rows = [[self.pad_token if i in self.padded_over else i for i in row] for row in rows]
        return rows

    def named(self, text: str) -> tuple[NDArray[np.int64], list[str]]:
        """The ids (1, L) of one text, as `pad` gives them, and the name of each: see
        `token_names`."""
        row = self.rows([text])[0]
        names = token_names(self._backend, self._cleaned(text))
        if len(row) > self.context:
            names = [*names[: self.context - self._tail], *names[len(row) - self._tail :]]
        ids = self.pad([row])
        padding = str(self._source.id_to_token(self.pad_token))
        return ids, names + [padding] * (ids.shape[1] - len(names))

    def _cleaned(self, text: str) -> str:
        """A text as the backend takes it. Raises TokenizerError for what is not valid Unicode."""
        text = clean(text, self.cleaning)
        if self.cleaning == "ftfy":
            text = tokenizer_files.mark_specials(text)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(f"{begun(text)!r} is not valid Unicode: {error.reason}") from error
        return text

    def pad(self, rows: Sequence[Sequence[int]], to_context: bool = False) -> NDArray[np.int64]:
        """(N, L) ids of `rows`; L is the longest row, or `context` with `to_context` and where
        padding is attended to.

        A row of more than `context` ids is cut and keeps the special tokens at its end.
        """
        longest = max((len(row) for row in rows), default=0)
        length = self.context if to_context or self._full else min(longest, self.context)
        out = np.full((len(rows), length), self.pad_token, dtype=np.int64)
        for place, row in zip(out, rows, strict=True):
            if len(row) > self.context:
                row = [*row[: self.context - self._tail], *row[len(row) - self._tail :]]
            place[: len(row)] = row
        return out

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many ids of each row (N, L) the network needs, (N,): all where padding is attended
        to, else those before the padding."""
        if self._full:
            return np.full(len(ids), ids.shape[1])
        padding = (ids != self.pad_token)[:, ::-1].argmax(axis=1)
        # Where the end token pads too, the first of them is none.
        ends = int(self._ends and self.pad_token == self.end_token)
        lengths: NDArray[np.int64] = np.minimum(ids.shape[1] - padding + ends, ids.shape[1])
        return lengths

    def count(self, text: str) -> int:
        """The number of ids of the whole text, special tokens included; those beyond `context` are
        cut off."""
        return len(self.rows([text])[0])

    def chunks(self, text: str) -> list[str]:
        """The text in pieces that fit the context; joined, they are the text.

        Sentences are packed greedily. One that is too long by itself is cut between words, a word
        that is too long between characters.
        """
        return self._packed(text, (sentences, words, list))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens left out, with the spaces that the tokenizer's own
        decoder puts (transformers' `decode(ids, skip_special_tokens=True)`)."""
        text = self._source.decode([int(id_) for id_ in ids], skip_special_tokens=True)
        word_end = getattr(self._source.model, "end_of_word_suffix", None)
        return text.replace(word_end, " ").strip() if word_end else text

    def _packed(self, text: str, levels: Sequence[Callable[[str], list[str]]]) -> list[str]:
        """`text` in pieces that fit, cut by levels[0], and where need be by the next levels."""
        if not levels or self.count(text) <= self.context:
            return [text]
        split, *finer = levels
        units = split(text)
        sizes = np.cumsum([len(row) - self.specials for row in self.rows(units)])
        done, piece, next_ = [], "", 0
        while next_ < len(units):
            if piece:
                done.append(piece)
            *full, piece = self._packed(units[next_], finer)
            done += full
            next_ += 1
            end = self._fitting(piece, units, next_, sizes)
            piece += "".join(units[next_:end])
            next_ = end
        return [*done, piece]

    def _fitting(
        self, piece: str, units: Sequence[str], start: int, sizes: NDArray[np.int64]
    ) -> int:
        """The end of the units from `start` on that fit into one piece. sizes: tokens up to the end
        of each unit, counted unit by unit: an estimate from which the search begins."""

        def fits(end: int) -> bool:
            return self.count(piece + "".join(units[start:end])) <= self.context

        room = self.context - self.count(piece) + sizes[start - 1]
        end = max(int(np.searchsorted(sizes, room, side="right")), start)
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

    ids: of an empty text, which are the special tokens.
    """
    if vocab_size > config.vocab_size:
        raise TokenizerError(
            f"{name} has ids up to {vocab_size - 1}, but the model's vocabulary has "
            f"{config.vocab_size}: the tokenizer is another model's"
        )
    found = f"{ids[-1]} ({source.id_to_token(ids[-1])!r})" if ids else "no token"
    ends = config.pool != "first" and config.end_token >= 0
    if ends and (not ids or ids[-1] != config.end_token):
        raise TokenizerError(
            f"{name} ends a text with {found}, but the model looks for {config.end_token}"
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
