"""Readable names of the tokens of a text."""

from __future__ import annotations

from itertools import groupby

from tokenizers import Tokenizer

CONTINUES = "##"  # begins the pieces of a word after the first one, in WordPiece
SPACE = "▁"  # a space, in SentencePiece


def token_names(backend: Tokenizer, text: str) -> list[str]:
    """A name for each token of a text with its special tokens, not cut.

    The name is the part of the text that the token stands for. A piece within a word of WordPiece
    keeps its "##". Several tokens can be parts of one character, as in byte-level BPE of Chinese:
    each is the character with its number, "猫 1/3". A special token has its own name. The unknown
    token comes with the part of the text: "喜 [UNK]".
    """
    encoding = backend.encode(text)
    # Each access copies the whole list.
    ids, tokens, spans = encoding.ids, encoding.tokens, encoding.offsets
    special = encoding.special_tokens_mask
    names: list[str] = []
    for span, group in groupby(range(len(tokens)), spans.__getitem__):
        part = text[slice(*span)].strip()
        positions = list(group)
        parts = [p for p in positions if part and not special[p] and tokens[p] != SPACE]
        for position in positions:
            if position not in parts:
                names.append(tokens[position].strip())
            elif len(parts) > 1:
                names.append(f"{part} {parts.index(position) + 1}/{len(parts)}")
            else:
                names.append(_single_name(backend, ids[position], tokens[position], part))
    return names


def _single_name(backend: Tokenizer, id_: int, encoded: str, part: str) -> str:
    """The name of a token that alone stands for a part of the text. encoded: the token in the
    encoding of the text, which differs from the token of the id if that is unknown."""
    token = str(backend.id_to_token(id_))
    unknown = token == getattr(backend.model, "unk_token", None) or token != encoded
    if unknown and token != part:
        return f"{part} {token}"
    if token.startswith(CONTINUES) and token != part:
        return f"{CONTINUES}{part}"
    return part
