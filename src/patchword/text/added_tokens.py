"""Tokens that were added to a vocabulary, such as the words of a textual inversion, in folders
without a tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

from patchword.errors import TokenizerError

FLAGS = ("single_word", "lstrip", "rstrip")


def add(backend: Tokenizer, options: Mapping[str, Any], added: Any, name: str) -> None:
    """Add to `backend` the tokens that two files list and that its vocabulary lacks.

    options: tokenizer_config.json; added: added_tokens.json; name: of their folder, in errors.
    Raises TokenizerError for a token whose id is not the next one.
    """
    tokens: dict[int, Mapping[str, Any]] = {}
    decoder = options.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for id_, token in decoder.items():
            content = token.get("content") if isinstance(token, dict) else None
            if id_.isdecimal() and isinstance(content, str):
                tokens[int(id_)] = token
    if isinstance(added, dict):
        for content, id_ in added.items():
            if type(id_) is int:
                tokens.setdefault(id_, {"content": content})
    for id_, token in sorted(tokens.items()):
        content, special = token["content"], token.get("special") is True
        if backend.token_to_id(content) is not None:
            continue
        next_id = backend.get_vocab_size()
        if next_id != id_:
            raise TokenizerError(
                f"{name} adds the token {content!r} with the id {id_}, and {next_id} is the next"
            )
        flags = {flag: token.get(flag) is True for flag in FLAGS}
        normalized = token.get("normalized", not special) is True
        backend.add_tokens([AddedToken(content, special=special, normalized=normalized, **flags)])
