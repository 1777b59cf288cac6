"""Conditions on the files of an index: the part of LanceDB's filter language that is allowed."""

from __future__ import annotations

import re

from patchword.errors import IndexStoreError

_TOKENS = re.compile(r"('(?:[^']|'')*')|([a-z_]+)|(<=|>=|!=|<>|[=<>(),])|(\S)", re.IGNORECASE)
_WORDS = {"path", "modified", "and", "or", "not", "like", "ilike", "in", "between", "is", "null"}
_WORDS |= {"date", "timestamp"}
_MOST_TOKENS = 256  # some thousand overflow the stack of LanceDB's parser
_ALLOWED = (
    "columns path (text) and modified (time, UTC); AND OR NOT LIKE ILIKE IN BETWEEN IS NULL; "
    "= != < <= > >= ( ); text in single quotes, times as date '...' or timestamp '...'. Example: "
    "path LIKE '%wafer%' AND modified >= date '2026-01-01'"
)


def check(where: str) -> None:
    """Refuse what is not a plain condition on path and modified.

    LanceDB would run any function on any column, ignore what follows a semicolon, and crash on
    parameters and on very long conditions; and a condition may come from somebody else.
    """
    tokens = _TOKENS.findall(where)
    if len(tokens) > _MOST_TOKENS:
        raise refused(where, f"more than {_MOST_TOKENS} words and signs")
    depth = 0
    for _, word, sign, other in tokens:
        if other or (word and word.lower() not in _WORDS):
            raise refused(where, f"{other or word} is not allowed")
        depth += (sign == "(") - (sign == ")")
        if depth < 0:  # what follows would not be read
            raise refused(where, ") without (")


def refused(where: str, reason: str) -> IndexStoreError:
    """The error for a condition, which says why, and what is allowed."""
    shown = where if len(where) <= 80 else where[:77] + "..."
    return IndexStoreError(f"where {shown!r}: {reason}. Allowed are {_ALLOWED}")
