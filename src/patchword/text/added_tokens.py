"""Tokens that were added to a vocabulary, such as the words of a textual inversion, of folders that
have no tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

from patchword.errors import TokenizerError

FLAGS = ("single_word", "lstrip", "rstrip")


def add(backend: Tokenizer, options: Mapping[str, Any], beside: Any, name: str) -> None:
    """Add to `backend` the tokens that `options`, tokenizer_config.json, and `beside`,
    added_tokens.json, name and its vocabulary does not have.

    name: of their folder, in errors. Raises TokenizerError for one whose id is not the next.
    """
    listed = options.get("added_tokens_decoder")
    found = {
        int(id_): token
        for id_, token in (listed if isinstance(listed, dict) else {}).items()
        if id_.isdecimal() and isinstance(token, dict) and isinstance(token.get("content"), str)
    }
    for content, id_ in (beside if isinstance(beside, dict) else {}).items():
        if type(id_) is int:
            found.setdefault(id_, {"content": content})
    for id_, token in sorted(found.items()):
        content, special = token["content"], token.get("special") is True
        if backend.token_to_id(content) is not None:
            continue
        if (following := backend.get_vocab_size()) != id_:
            raise TokenizerError(
                f"{name} adds the token {content!r} with the id {id_}, and {following} is the next"
            )
        flags = {flag: token.get(flag) is True for flag in FLAGS}
        normalized = token.get("normalized", not special) is True
        backend.add_tokens([AddedToken(content, special=special, normalized=normalized, **flags)])
