"""The words that a text's tokens make."""

from __future__ import annotations

from collections.abc import Sequence

from patchword.text.tokenizer import Tokenizer


def words_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[str, slice]]:
    """The words of ids, each with the slice of its ids. A token that follows without a space
    belongs to the word before."""
    words: list[tuple[str, slice]] = []
    before = ""
    for position in range(len(ids)):
        end = position + 1
        text = tokenizer.decode(ids[:end])
        new = text.removeprefix(before)
        if words and text.startswith(before) and not new.startswith(" "):
            word, span = words.pop()
            words.append((word + new, slice(span.start, end)))
        else:
            words.append((new.strip() or tokenizer.decode([ids[position]]), slice(position, end)))
        before = text
    return words
