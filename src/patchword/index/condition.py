"""Conditions on the rows of an index: the part of LanceDB's filter language that is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from patchword.errors import IndexStoreError
from patchword.options import nearest

KINDS = ("text", "number", "boolean", "time", "list")  # of columns that conditions may be on

_TOKENS = re.compile(
    r"(?P<text>'(?:[^']|'')*')|(?P<quoted>`[^`]+`)|(?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|!=|<>|[=<>(),])|(?P<other>\S)"
)
_WORDS = {"and", "or", "not", "like", "ilike", "in", "between", "is", "null", "true", "false"}
_WORDS |= {"date", "timestamp", "array_has"}
_WHOLE = re.compile(r"-?\d+")
# What follows no column, so that a word before it is none: date '2026-01-01', in (1, 2)
_AHEAD = re.compile(r"\s*['(]")
_COMPARE = {"=", "!=", "<>", "<", ">", "<=", ">=", "like", "ilike"}
_MOST_TOKENS = 256  # some thousand overflow the stack of LanceDB's parser


class _Token(NamedTuple):
    kind: str  # text, column, number, word, sign
    text: str  # as LanceDB reads it


def check(where: str, columns: Mapping[str, str]) -> str:
    """A condition as LanceDB reads it, if it is a plain one on columns, {name: kind}.

    LanceDB would run any function on any column, ignore what follows a semicolon, and crash on
    parameters and on very long conditions; and a condition may come from somebody else. Raises
    IndexStoreError.
    """
    found = list(islice(_TOKENS.finditer(where), _MOST_TOKENS + 1))
    if len(found) > _MOST_TOKENS:
        raise refused(where, f"more than {_MOST_TOKENS} words and signs", columns)
    for match in found:
        if match.lastgroup == "other" and match.group() in "'`":
            raise refused(where, f"a quote {match.group()} is not closed", columns)
    tokens = [_token(match, where, columns) for match in found]
    depth = 0
    for token in tokens:
        depth += (token.text == "(") - (token.text == ")")
        if depth < 0:  # what follows would not be read
            raise refused(where, ") without (", columns)
    if not any(token.kind == "column" for token in tokens):
        raise refused(where, "names no column", columns)
    _check_types(tokens, where, columns)
    # LanceDB refuses to compare a column of whole numbers with one that has a fraction.
    fractions = any(token.kind == "number" and not _WHOLE.fullmatch(token.text) for token in tokens)
    return " ".join(
        f"CAST({token.text} AS DOUBLE)"
        if fractions and token.kind == "column" and columns[token.text.strip("`")] == "number"
        else token.text
        for token in tokens
    )


def _token(match: re.Match[str], where: str, columns: Mapping[str, str]) -> _Token:
    kind, text = str(match.lastgroup), match.group()
    if kind in ("text", "number", "sign"):
        return _Token(kind, text)
    plain = text not in columns or _AHEAD.match(where, match.end())
    if kind == "word" and text.lower() in _WORDS and plain:
        return _Token("word", text)
    if kind == "other":
        raise refused(where, f"{text} is not allowed", columns)
    name = text.strip("`")
    name = next((each for each in columns if each.lower() == name.lower()), name)
    name = text.strip("`") if text.strip("`") in columns else name
    if name not in columns:
        raise refused(where, f"no column {name}{nearest(name, columns)}", columns)
    if columns[name] not in KINDS:
        raise refused(where, f"{name} holds {columns[name]}", columns)
    return _Token("column", f"`{name}`")


def _check_types(tokens: list[_Token], where: str, columns: Mapping[str, str]) -> None:
    """LanceDB compares a text with a number as texts, and finds nothing: a text with '3'. What it
    refuses, such as a time with a text that is no date '...', it does not explain."""
    for left, sign, right in zip(tokens[:-2], tokens[1:-1], tokens[2:], strict=True):
        if left.kind != "column" or sign.text.lower() not in _COMPARE:
            continue
        kind = columns[left.text.strip("`")]
        given = {"text": "text", "number": "number"}.get(right.kind)
        if given and given != kind:
            raise refused(where, f"{left.text} is a {kind}, and {right.text} is none", columns)


def refused(where: str, reason: str, columns: Mapping[str, str]) -> IndexStoreError:
    """The error for a condition, which says why, and what is allowed."""
    shown = where if len(where) <= 80 else where[:77] + "..."
    listed = ", ".join(f"{name} ({kind})" for name, kind in columns.items() if kind in KINDS)
    return IndexStoreError(
        f"where {shown!r}: {reason}. Allowed are the columns {listed}, in `...` where a name is "
        "not one word; AND OR NOT LIKE ILIKE IN BETWEEN IS NULL TRUE FALSE; "
        "array_has(tags, 'dog') of a list; = != < <= > >= ( ); texts in single quotes, times (UTC) "
        "as date '...' or timestamp '...'. Example: path LIKE '%wafer%' AND width >= 640 AND "
        "modified >= date '2026-01-01'"
    )
