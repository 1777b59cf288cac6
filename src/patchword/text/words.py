"""The words that a text's tokens make."""

from __future__ import annotations

from collections.abc import Sequence

from patchword.text.tokenizer import Tokenizer


def words_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[str, slice]]:
    """The words of ids, and which of the ids are of each: a token that follows without a space
    belongs to the word before."""
    out: list[tuple[str, slice]] = []
    before = ""
    for place in range(len(ids)):
        text = tokenizer.decode(ids[: place + 1])
        new = text.removeprefix(before)
        if out and text.startswith(before) and not new.startswith(" "):
            word, where = out.pop()
            out.append((word + new, slice(where.start, place + 1)))
        else:
            out.append((new.strip() or tokenizer.decode([ids[place]]), slice(place, place + 1)))
        before = text
    return out
