"""Conditions on the rows of an index: the part of LanceDB's filter language that is allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from patchword.errors import IndexStoreError
from patchword.options import nearest

KINDS = ("text", "number", "boolean", "time", "list")  # of columns that conditions may use

_TOKENS = re.compile(
    r"(?P<text>'(?:[^']|'')*')|(?P<quoted>`[^`]+`)|(?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|!=|<>|[=<>(),])|(?P<other>\S)"
)
_KEYWORDS = {"and", "or", "not", "like", "ilike", "in", "between", "is", "null", "true", "false"}
_KEYWORDS |= {"date", "timestamp", "array_has"}
_INTEGER = re.compile(r"-?\d+")
# A keyword before one of these is no column of that name: date '2026-01-01', in (1, 2)
_QUOTE_OR_PARENTHESIS = re.compile(r"\s*['(]")
_COMPARISONS = {"=", "!=", "<>", "<", ">", "<=", ">=", "like", "ilike"}
_MAX_TOKENS = 256  # a few thousand overflow the stack of LanceDB's parser


class _Token(NamedTuple):
    kind: str  # text, column, number, word, sign
    text: str  # in LanceDB's language


def to_sql(where: str, columns: Mapping[str, str]) -> str:
    """A condition on columns, {name: kind}, in LanceDB's language. Raises IndexStoreError for a
    condition that is not allowed.

    Conditions come from users, and LanceDB would run any function on any column, ignore what
    follows a semicolon, and crash on parameters and on very long conditions.
    """
    matches = list(islice(_TOKENS.finditer(where), _MAX_TOKENS + 1))
    if len(matches) > _MAX_TOKENS:
        raise refused(where, f"more than {_MAX_TOKENS} words and signs", columns)
    for match in matches:
        if match.lastgroup == "other" and match.group() in "'`":
            raise refused(where, f"a quote {match.group()} is not closed", columns)
    tokens = [_token(match, where, columns) for match in matches]
    depth = 0
    for token in tokens:
        depth += (token.text == "(") - (token.text == ")")
        if depth < 0:  # what follows would not be read
            raise refused(where, ") without (", columns)
    if not any(token.kind == "column" for token in tokens):
        raise refused(where, "names no column", columns)
    _check_types(tokens, where, columns)
    _check_nulls(tokens, where, columns)
    # LanceDB refuses to compare a column of integers with a number that has a fraction.
    numbers = [token.text for token in tokens if token.kind == "number"]
    if not all(_INTEGER.fullmatch(number) for number in numbers):
        tokens = [_as_double(token, columns) for token in tokens]
    return " ".join(token.text for token in tokens)


def _as_double(token: _Token, columns: Mapping[str, str]) -> _Token:
    """A column of numbers, converted to floating point; any other token as it is."""
    if token.kind == "column" and columns[token.text.strip("`")] == "number":
        return _Token("column", f"CAST({token.text} AS DOUBLE)")
    return token


def _token(match: re.Match[str], where: str, columns: Mapping[str, str]) -> _Token:
    kind, text = str(match.lastgroup), match.group()
    if kind in ("text", "number", "sign"):
        return _Token(kind, text)
    no_column = text not in columns or _QUOTE_OR_PARENTHESIS.match(where, match.end())
    if kind == "word" and text.lower() in _KEYWORDS and no_column:
        return _Token("word", text)
    if kind == "other":
        raise refused(where, f"{text} is not allowed", columns)
    name = text.strip("`")
    if name not in columns:  # upper and lower case do not matter
        name = next((column for column in columns if column.lower() == name.lower()), name)
    if name not in columns:
        raise refused(where, f"no column {name}{nearest(name, columns)}", columns)
    if columns[name] not in KINDS:
        raise refused(where, f"{name} holds {columns[name]}", columns)
    return _Token("column", f"`{name}`")


def _check_types(tokens: list[_Token], where: str, columns: Mapping[str, str]) -> None:
    """Raise where a column is compared with a value of another type. LanceDB would compare a number
    with '3' as texts and find nothing, and refuse a time compared with a text without saying
    why."""
    for left, sign, right in zip(tokens[:-2], tokens[1:-1], tokens[2:], strict=True):
        if left.kind != "column" or sign.text.lower() not in _COMPARISONS:
            continue
        kind = columns[left.text.strip("`")]
        literal_kind = {"text": "text", "number": "number"}.get(right.kind)
        if literal_kind and literal_kind != kind:
            raise refused(where, f"{left.text} is a {kind}, and {right.text} is none", columns)


def _check_nulls(tokens: list[_Token], where: str, columns: Mapping[str, str]) -> None:
    """Raise for NULL anywhere but after IS or IS NOT: in SQL nothing equals it and nothing differs
    from it, so that the condition would find nothing."""
    words = ["", "", *(token.text.lower() if token.kind == "word" else "" for token in tokens)]
    for before, previous, word in zip(words[:-2], words[1:-1], words[2:], strict=True):
        if word == "null" and previous != "is" and (before, previous) != ("is", "not"):
            raise refused(where, "NULL equals nothing: write IS NULL or IS NOT NULL", columns)


def refused(where: str, reason: str, columns: Mapping[str, str]) -> IndexStoreError:
    """The error for a condition: it says why, and what is allowed."""
    shown = where if len(where) <= 80 else where[:77] + "..."
    listed = ", ".join(f"{name} ({kind})" for name, kind in columns.items() if kind in KINDS)
    return IndexStoreError(
        f"where {shown!r}: {reason}. Allowed are the columns {listed}, in `...` where a name is "
        "not one word; AND OR NOT LIKE ILIKE IN BETWEEN IS NULL TRUE FALSE; "
        "array_has(tags, 'dog') of a list; = != < <= > >= ( ); texts in single quotes, times (UTC) "
        "as date '...' or timestamp '...'. Example: path LIKE '%wafer%' AND width >= 640 AND "
        "modified >= date '2026-01-01'"
    )
