"""What each token of a text stands for, as people read it."""

from __future__ import annotations

from itertools import groupby

from tokenizers import Encoding, Tokenizer

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
    names: list[str] = []
    for offsets, group in groupby(range(len(found.ids)), lambda place: found.offsets[place]):
        part = text[slice(*offsets)].strip()
        places = list(group)
        said = [place for place in places if _says(found, place, part)]
        for place in places:
            if place not in said:
                names.append(found.tokens[place].strip())
            elif len(said) > 1:
                names.append(f"{part} {said.index(place) + 1}/{len(said)}")
            else:
                names.append(_alone(backend, found, place, part))
    return names


def _says(found: Encoding, place: int, part: str) -> bool:
    """Whether a token stands for its part of the text: neither special nor a mere space."""
    return bool(part) and not found.special_tokens_mask[place] and found.tokens[place] != SPACE


def _alone(backend: Tokenizer, found: Encoding, place: int, part: str) -> str:
    """The name of a token that stands for a part of the text by itself."""
    token = str(backend.id_to_token(found.ids[place]))
    unknown = token == getattr(backend.model, "unk_token", None) or token != found.tokens[place]
    if unknown and token != part:
        return f"{part} {token}"
    return f"{CONTINUES}{part}" if token.startswith(CONTINUES) and token != part else part
