"""JSON bodies of requests. Nothing in a body is dropped or changed silently."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, TypeVar

from pydantic import Field
from starlette.exceptions import HTTPException

MAX_VALUES = 50_000  # JSON values; 256 texts of 77 token numbers are 20,000
LARGE = 1 << 16  # bytes of JSON, or numbers of an answer: more is read and written in a thread
_COMMA_OR_TEXT = re.compile(r',|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)

T = TypeVar("T")
# Validation stops at the first bad element: 50,000 error messages take seconds.
FailFastList = Annotated[list[T], Field(fail_fast=True)]


async def read(body: bytes, max_values: int = MAX_VALUES, count_commas: bool = False) -> Any:
    """Parse a JSON body; a long one in a thread, so that the event loop goes on. Raises
    HTTPException, see `parse`."""
    if len(body) < LARGE:
        return parse(body, max_values, count_commas)
    return await asyncio.to_thread(parse, body, max_values, count_commas)


def parse(body: bytes, max_values: int = MAX_VALUES, count_commas: bool = False) -> Any:
    """Parse a JSON body.

    Raises HTTPException for invalid JSON, a key that an object has twice, numbers that are not
    finite, half a surrogate pair, and for more than `max_values` values: their validation runs in
    the event loop and would take seconds. count_commas: every comma in a text counts as a value,
    for texts that will be parsed as JSON too.
    """
    try:
        text = body.decode(json.detect_encoding(body))
        if _has_too_many_values(text, max_values):  # before json.loads, which blocks the event loop
            raise _too_many_values(max_values)
        content = json.loads(
            text, object_pairs_hook=_object, parse_float=_number, parse_constant=_number
        )
    except RecursionError:
        raise _bad_request("lists and objects are nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _bad_request(f"the body is not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise _bad_request(f"the body is not text: {error.reason} at byte {error.start}") from None
    except ValueError:  # of int(): JSON itself has no such limit
        raise _bad_request("a number has thousands of digits") from None
    _check(content, max_values, count_commas)
    return content


def _has_too_many_values(text: str, max_values: int) -> bool:
    """Whether a JSON text surely has more values than `max_values`: a value brings at most one
    comma and two texts."""
    if text.count(",") <= max_values:
        return False
    return next(islice(_COMMA_OR_TEXT.finditer(text), 3 * max_values, None), None) is not None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise _bad_request(f"{name[:80]!r} is given twice: which one is meant?")
        content[name] = value
    return content


def _number(text: str) -> float:
    """A number with a fraction or an exponent. "NaN" and "Infinity", which Python's parser accepts,
    come here too and are refused."""
    value = float(text)
    if not math.isfinite(value):
        raise _bad_request(f"{text[:80]} is not a finite number")
    return value


def _check(content: Any, max_values: int, count_commas: bool) -> None:
    """Count the values and check the texts. Raises HTTPException."""
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
            waiting += value
            count += len(value)
        elif isinstance(value, list):
            waiting += value
            count += len(value)
        elif isinstance(value, str):
            if count_commas:
                count += value.count(",")
            _check_surrogates(value)
        if count > max_values:
            raise _too_many_values(max_values)


def _check_surrogates(text: str) -> None:
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise _bad_request(f"a text holds {half}, which is half a character") from None


def _too_many_values(max_values: int) -> HTTPException:
    return HTTPException(413, f"more than {max_values} values in lists and objects: send less")


def _bad_request(message: str) -> HTTPException:
    return HTTPException(400, message)
