"""Special tokens and their ids, from the JSON files of a checkpoint's tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from patchword.checkpoints.json_files import json_object

CLIP_END = "<|endoftext|>"


def end_token(files: Mapping[str, Any], vocab_size: int) -> tuple[int, Literal["end", "highest"]]:
    """The end token of a text tower that pools at the highest id, and the kind of pooling.

    The end token is the last of CLIP's vocabulary. If tokens were added to the tokenizer after it,
    a text with one of them is pooled there. Without a tokenizer, the last id is the end token.
    """
    ids = vocabulary(files)
    last = max(ids.values(), default=vocab_size - 1)
    end = special_id(files, "eos_token")
    if end is None:
        end = ids.get(CLIP_END, last)
    return end, "end" if end == last else "highest"


def special_token(files: Mapping[str, Any], name: str) -> tuple[str | None, str]:
    """The token that the files call `name`, such as "pad_token", and the file that states it;
    (None, "") if none does.

    As transformers reads them: special_tokens_map.json comes before tokenizer_config.json, unless
    the latter lists its special tokens itself ("added_tokens_decoder").
    """
    order = ["special_tokens_map.json", "tokenizer_config.json"]
    if json_object(files, "tokenizer_config.json").get("added_tokens_decoder"):
        order = ["tokenizer_config.json"]
    for file in order:
        token = json_object(files, file).get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            return token, file
    return None, ""


def special_id(files: Mapping[str, Any], name: str) -> int | None:
    """The id of that token; None if the files do not state it."""
    token, _ = special_token(files, name)
    return None if token is None else vocabulary(files).get(token)


def vocabulary(files: Mapping[str, Any]) -> dict[str, int]:
    """Ids by token, from a tokenizer.json of any kind, else from vocab.json and the tokens added
    to it; empty without either."""
    tokenizer = files.get("tokenizer.json")
    if isinstance(tokenizer, dict):
        model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
        vocab = model.get("vocab") if isinstance(model, dict) else None
    else:
        vocab = files.get("vocab.json")
        if not isinstance(vocab, dict):
            return {}
        added = _added_tokens(files)
    ids: dict[Any, Any] = {}
    if isinstance(vocab, dict):
        ids.update(vocab)
    elif isinstance(vocab, list):  # unigrams: [piece, score] in the order of their ids
        rows = [(row[0], i) for i, row in enumerate(vocab) if isinstance(row, list) and row]
        ids.update((piece, i) for piece, i in rows if isinstance(piece, str))
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            ids[token["content"]] = token.get("id")
    return {k: i for k, i in ids.items() if isinstance(k, str) and type(i) is int}


def _added_tokens(files: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tokens that other files add to a vocab.json, in the form of a tokenizer.json."""
    decoder = json_object(files, "tokenizer_config.json").get("added_tokens_decoder")
    extra = json_object(files, "added_tokens.json")
    added = [{"content": token, "id": id_} for token, id_ in extra.items()]
    for id_, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and id_.isdecimal():
            added.append({"content": token.get("content"), "id": int(id_)})
    return added
