"""What each token of a text stands for, as people read it."""

from __future__ import annotations

from itertools import groupby

from tokenizers import Tokenizer

CONTINUES = "##"  # before the pieces of a word but its first, in WordPiece
SPACE = "▁"  # a space, in SentencePiece


def token_names(backend: Tokenizer, text: str) -> list[str]:
    """A name for each token of a text with its special tokens, not cut.

    That is the part of the text that the token stands for; a piece within a word of WordPiece keeps
    its "##". Of tokens that are parts of one character, such as byte-level BPE makes of most
    Chinese ones, each is the character with its number, "猫 1/3"; a special token has its own name,
    and one for what is unknown that too: "喜 [UNK]".
    """
    found = backend.encode(text)
    # Each look at such a list copies it whole.
    ids, tokens, spans = found.ids, found.tokens, found.offsets
    special = found.special_tokens_mask
    names: list[str] = []
    for span, group in groupby(range(len(tokens)), spans.__getitem__):
        part = text[slice(*span)].strip()
        places = list(group)
        said = [p for p in places if part and not special[p] and tokens[p] != SPACE]
        for place in places:
            if place not in said:
                names.append(tokens[place].strip())
            elif len(said) > 1:
                names.append(f"{part} {said.index(place) + 1}/{len(said)}")
            else:
                names.append(_alone(backend, ids[place], tokens[place], part))
    return names


def _alone(backend: Tokenizer, id_: int, written: str, part: str) -> str:
    """The name of a token that stands for a part of the text by itself.

    written: the token as it is in the encoding of the text."""
    token = str(backend.id_to_token(id_))
    unknown = token == getattr(backend.model, "unk_token", None) or token != written
    if unknown and token != part:
        return f"{part} {token}"
    return f"{CONTINUES}{part}" if token.startswith(CONTINUES) and token != part else part
